"""`regard run` with search options: what comes out, and what is refused."""

import json

import pytest
from test_bad_input import refused


def test_samples_are_the_same_for_a_seed_and_by_place(regard, folder, tmp_path):
    how = ["--temperature", 2.5, "--seed", 3]
    both = regard("run", folder, "Python", "Python crawls", *how).out.splitlines()
    assert both == regard("run", folder, "Python", "Python crawls", *how).out.splitlines()
    assert both[0] == regard("run", folder, "Python", *how).out.rstrip("\n")
    other = regard("run", folder, "Python", "Python crawls", "--temperature", 2.5, "--seed", 4).out.splitlines()
    assert both != other


def test_n_best_must_and_prefix(regard, folder):
    row = json.loads(regard("run", folder, "Python", "--beams", 4, "--n-best", 2, "--must", "vite", "--jsonl").out)
    assert len(row["hypotheses"]) == 2
    assert all("vite" in one["text"] for one in row["hypotheses"])
    assert regard("run", folder, "Python crawls", "--prefix", "serpent").out.startswith("serpent")
    assert regard("run", folder, "Python", "--draft", folder).out == regard("run", folder, "Python").out


def test_heads_give_links_and_weights(regard, folder, tmp_path):
    ended = regard("run", folder, "Python crawls", "--heads", "0.1", "--alignment", tmp_path / "links.txt", "--jsonl")
    row = json.loads(ended.out)
    assert (tmp_path / "links.txt").read_text().strip() == row["alignment"]
    [weights] = row["attention"]
    assert all(sum(produced) == pytest.approx(1, abs=1e-4) for produced in weights)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top-p", 1.5], "top_p must be above 0 and at most 1, not 1.5"),
        (["--temperature", 0], "temperature must be above 0, not 0.0"),
        (["--temperature", 1, "--beams", 2], "sampling (temperature) and beams exclude each other"),
        (["--min-p", 0.1, "--top-p", 0.5], "min_p and top_p exclude each other"),
        (["--n-best", 3], "n_best must be at most beams"),
        (["--must", "vite", "--must-not", "vite", "--beams", 2], "must_not forbids what must or prefix asks for"),
        (["--must", "vite"], "must needs beams of 2 or more"),
        (["--beams", 2, "--early-stopping", "soon"], "early_stopping must be True, False or 'never', not 'soon'"),
        (["--length-rule", "hf"], "length_rule must be wu or power, not 'hf'"),
        (["--heads", "first"], "a head reads LAYER.HEAD, such as 2.5, not 'first'"),
        (["--heads", "0.7", "--jsonl"], "no head 7: there are heads 0 to 1"),
        (["--draft", "en-rf"], "no model 'en-rf'"),
        (["--draft", "en-fr"], "en-fr cannot be a draft of"),
        (["--beams", 2, "--draft", "source"], "leave beams and penalty_alpha out"),
    ],
)
def test_what_is_refused(regard, folder, arguments, words):
    refused(regard("run", folder, "Python", *arguments), words)

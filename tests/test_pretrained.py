"""The models that come with the package: small, loadable, and as good as their cards say."""

import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import regard
from regard.data.sources import read_cmudict
from regard.pretrained import find, names
from regard.training.scoring import score_answers

TEXTS = ["Python executes quickly", "Python crawls quickly"]


def card_score(name: str, score: str) -> float:
    card = (find(name) / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"\| {re.escape(score)} \| ([\d.]+) \|", card)
    assert found, f"the card of {name} reports no {score}"
    return float(found[1])


def test_both_models_are_there_and_small():
    assert {"en-fr", "g2p"} <= set(names())
    size = sum(path.stat().st_size for name in names() for path in find(name).rglob("*"))
    assert size < 25e6


@pytest.mark.parametrize("name", ["en-fr", "g2p"])
def test_a_card_says_how_the_model_was_made(name):
    card = (find(name) / "README.md").read_text(encoding="utf-8")
    for told in ("Scores", "Data", "Licence", "minutes of wall time", "seed", '"max_steps"', "Energy"):
        assert told in card


@pytest.mark.slow
def test_g2p_is_as_good_as_its_card_says():
    pairs = read_cmudict()["test"][::25]
    answers = regard.load("g2p").translate([pair.source for pair in pairs], beams=4)
    result = score_answers("wer", answers, pairs)
    # About 500 words: two standard errors of a share.
    share = card_score("g2p", "WER") / 100
    margin = 100 * (2 * (share * (1 - share) / len(pairs)) ** 0.5)
    assert abs(result.scores["wer"] - 100 * share) < margin


def test_spelling_and_translation():
    assert regard.load("g2p").translate(["cat", "speak"]) == ["K AE1 T", "S P IY1 K"]
    [answered] = regard.load("en-fr").translate(["Open the file."], beams=4)
    assert "fichier" in answered


@pytest.mark.parametrize("name", ["en-fr", "g2p"])
def test_the_walk_is_the_fast_run_on_real_weights(name):
    model = regard.load(name)
    explanation = model.explain(*TEXTS)
    assert explanation.walkthrough.difference < 1e-4
    trace = model.trace(TEXTS)
    for row in range(2):
        for place in trace.places:
            if "layers" in place:
                assert trace.proof(place, row=row) < 1e-4


def test_g2p_cross_attention_moves_forward():
    model = regard.load("g2p")
    links = model.align("transformer", model.hypotheses(["transformer"])[0][0].tokens).links()
    by_target = [source for source, _ in sorted(links, key=lambda link: link[1])]
    rising = sum(b >= a for a, b in pairwise(by_target))
    assert rising >= 0.8 * (len(by_target) - 1)


def test_the_first_command_is_quick():
    begun = time.perf_counter()
    command = [sys.executable, "-m", "regard", "explain", *TEXTS]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - begun < 10
    assert "e(Python) = " in ended.stdout
    assert "largest difference" in ended.stdout


def test_weights_rounded_for_storage_come_back_close(tmp_path: Path):
    model = regard.load("g2p").model
    for storage, bound in (("float16", 1e-3), ("int8", 1e-2)):
        model.save(tmp_path, storage)
        back = type(model).load(tmp_path)
        for name, weight in model.state_dict().items():
            largest = float(weight.abs().max())
            assert torch.allclose(back.state_dict()[name], weight, atol=bound * largest), name

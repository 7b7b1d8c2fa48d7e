"""What the commands answer."""

import io
import json
import resource
import subprocess
import sys

import pytest


def test_one_answer_a_line_in_the_order_asked(regard, folder):
    texts = ["Python crawls quickly", "Python", "quickly Python", "le serpent"]
    together = regard("run", folder, *texts).out.splitlines()
    assert together == [regard("run", folder, text).out.rstrip("\n") for text in texts]


def test_arguments_file_and_standard_input_answer_alike(regard, folder, tmp_path, monkeypatch):
    texts = ["Python crawls", "quickly"]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    expected = regard("run", folder, *texts).out
    assert regard("run", folder, "--input", tmp_path / "texts.txt").out == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(texts).encode())))
    assert regard("run", folder).out == expected
    assert regard("run", folder, *texts, "--output", tmp_path / "answers.txt").out == ""
    assert (tmp_path / "answers.txt").read_text() == expected


def test_jsonl_has_hypotheses_with_falling_scores(regard, folder):
    row = json.loads(regard("run", folder, "Python crawls", "--jsonl", "--beams", 3).out)
    scores = [one["score"] for one in row["hypotheses"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert row["source"] == "Python crawls"
    assert row["answer"] == row["hypotheses"][0]["text"]


def test_alignments_in_pharaoh_format(regard, folder, tmp_path):
    answers = regard("run", folder, "Python crawls quickly", "--alignment", tmp_path / "links.txt").out.split()
    links = (tmp_path / "links.txt").read_text().split()
    assert links
    for link in links:
        source, target = map(int, link.split("-"))
        assert 0 <= source < 3
        assert 0 <= target <= len(answers)


def test_evaluate_prints_scores_and_signature(regard, folder, tmp_path):
    (tmp_path / "pairs.tsv").write_text("source\ttarget\nPython\tserpent\nquickly\tvite\n")
    ended = regard("evaluate", folder, tmp_path / "pairs.tsv", "--beams", 1, "--output", tmp_path / "answers.tsv")
    scores = dict(line.split("\t") for line in ended.out.splitlines())
    assert scores.keys() == {"bleu", "chrf"}
    assert "BLEU nrefs:1|case:mixed" in ended.err
    assert len((tmp_path / "answers.tsv").read_text().splitlines()) == 2


def test_explain_writes_a_page_and_numbers(regard, folder, tmp_path):
    ended = regard("explain", "--model", folder, "Python crawls", "Python executes", "--html", tmp_path / "page.html")
    assert ended.code == 0
    assert "Python" in (tmp_path / "page.html").read_text()
    numbers = json.loads(regard("explain", "--model", folder, "Python crawls", "--json").out)
    assert numbers["walkthrough"]["difference_from_fast_run"] < 1e-5


def test_help_is_quick_and_loads_no_torch():
    code = "import sys, regard.cli\ntry: regard.cli.main()\nexcept SystemExit: assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "--help"], check=True, capture_output=True)
    times = []  # of the processor: what else the machine does counts little
    for _ in range(5):
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "regard", "--help"], check=True, capture_output=True)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime)
    assert min(times) < 0.3


def test_version(regard):
    assert regard("--version").out.startswith("regard 0.")


@pytest.mark.parametrize("command", ["explain", "run", "evaluate", "train"])
def test_every_command_helps_with_an_example(regard, command):
    ended = regard(command, "--help")
    assert ended.code == 0
    assert f"Example: regard {command}" in ended.out


def test_a_reader_that_goes_away_is_no_error(folder):
    command = f"{sys.executable} -m regard explain --model {folder} Python | head -1"
    ended = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)
    assert "Traceback" not in ended.stderr


def test_views_are_listed_and_asked(regard, folder, tmp_path):
    listed = regard("explain", "--list").out
    for name in ("walkthrough", "similarity", "contribution", "intervention", "generation"):
        assert name in listed
    shown = regard("explain", folder, "Python crawls", "--view", "lens", "--view", "heads")
    assert "What each layer would answer" in shown.out
    assert "looks" in shown.out
    files = [tmp_path / name for name in ("one.html", "one.png", "one.csv", "one.json")]
    options = [
        part for file in files for part in (f"--{file.suffix[1:] if file.suffix != '.json' else 'json-file'}", file)
    ]
    ended = regard("explain", folder, "Python crawls", "--view", "contribution", *options)
    assert ended.code == 0
    assert not ended.out
    assert files[0].read_text().startswith("<!doctype html>")
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert files[2].read_text().startswith("view,block,row,column,value\ncontribution,")
    assert json.loads(files[3].read_text())["views"][0]["view"] == "contribution"


def test_the_beam_is_shown_as_a_tree(regard, folder):
    numbers = json.loads(regard("explain", folder, "Python crawls", "--view", "generation", "--beams", 3, "--json").out)
    assert numbers["views"][0]["tree"]["children"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--view", "lenses"], "no view 'lenses'; did you mean lens"),
        (["--method", "alti"], "--method needs a view that takes it: add --view contribution or --view attribution"),
        (["--edit", "x head=1"], "--edit needs a view that takes it: add --view intervention"),
        (["--view", "heads", "--method", "alti"], "heads takes no method"),
        (["--view", "walkthrough", "--kind", "crossed"], "no kind of attention 'crossed'; did you mean cross"),
        (["--view", "walkthrough", "--layer", "9"], "there is no layer 9: there are layers 0 to"),
        (["--view", "walkthrough", "--position", "99"], "there is no token 99: there are tokens 0 to"),
        (["--view", "walkthrough", "--query", "snail"], "no word 'snail'"),
        (["--view", "context"], "give two or more that share a word"),
        (["--view", "heads", "--png", "heads.txt"], "heads.txt is no picture: its name ends in .png"),
        (["--view", "generation", "--tokens", "5"], "tokens is no option of this model's views"),
    ],
)
def test_what_is_wrong_with_a_view_is_one_line(regard, folder, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = regard("explain", folder, "Python crawls", *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_file_with_bad_lines_ends_with_status_three(regard, folder, tmp_path):
    (tmp_path / "in.csv").write_text("id,say\n1,Python\n2,\n3,quickly\n")
    arguments = ["run", folder, "--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv", "--field", "say"]
    ended = regard(*arguments)
    assert (ended.code, ended.out) == (3, "")
    assert "3 records, 1 without an answer: see" in ended.err
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "id,say,answer,log_p"
    links = tmp_path / "links.txt"
    assert regard("run", folder, "--input", tmp_path / "in.csv", "--output", tmp_path / "out.txt", "--field", "say",
                  "--alignment", links).code == 3  # fmt: skip
    assert [bool(line) for line in links.read_text().split("\n")] == [True, False, True, False]


def test_options_for_files_need_files(regard, folder):
    ended = regard("run", folder, "Python", "--restart")
    assert ended.code == 2
    assert "--restart needs a file to read" in ended.err
    assert "precision is one of fp32, bf16, int8" in regard("run", folder, "Python", "--precision", "fp8").err

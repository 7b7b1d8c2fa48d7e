"""Every mistake of the user's is one clear line, a non-zero exit, and no traceback; nothing is left half written."""

import json
import shutil

import pytest


def refused(ended, *words):
    """One line on standard error that holds these words; nothing on standard output."""
    assert ended.code == 2, ended
    assert ended.out == ""
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("regard: ")
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err
    return True


def test_an_unknown_model_is_told_with_the_nearest(regard):
    refused(regard("run", "en-rf", "Hello"), "no model 'en-rf'", "did you mean en-fr")


def test_a_missing_model_folder(regard, tmp_path):
    refused(regard("run", tmp_path / "nothing", "Hello"), "there is no model folder", "nothing")
    refused(regard("explain", "--model", tmp_path, "Hello"), "is not a model folder: it has no config.json")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", b"{", "cannot be read as JSON"),
        ("config.json", b'{"model_type": "transformer", "d_modle": 4}', "unknown field 'd_modle'"),
        ("config.json", b'{"model_type": "transformer", "d_model": 10}', "cannot be cut into 8 heads"),
        ("config.json", b"\xff\xfe", "cannot be read as JSON"),
        ("model.safetensors", b"not weights at all", "is damaged or not a safetensors file"),
        ("model.safetensors", None, "it has no model.safetensors"),
        ("tokenizer.json", b"{}", "is damaged or not a tokenizer file"),
        ("tokenizer.json", None, "it has no tokenizer.json"),
    ],
)
def test_a_damaged_model_folder(regard, folder, tmp_path, file, content, words):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / file).unlink()
    if content is not None:
        (broken / file).write_bytes(content)
    refused(regard("run", broken, "Hello"), words)


def test_weights_that_do_not_fit_are_named_one_by_one(regard, folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "ffn_dim": 32, "decoder_layers": 2}))
    ended = regard("run", broken, "Hello")
    refused(ended, "missing decoder.layers.1.feed_forward.inner.weight", "the configuration asks for 32x16")


def test_text_longer_than_the_limit(regard, folder):
    refused(regard("run", folder, "Python " * 30), "tokens, more than the 12")
    refused(regard("explain", "--model", folder, "Python " * 30), "tokens, more than the 12")


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_empty_text(regard, folder, text):
    refused(regard("run", folder, text), "the text is empty")
    refused(regard("explain", "--model", folder, text), "the text is empty")


def test_an_empty_line_in_a_file_is_named(regard, folder, tmp_path):
    (tmp_path / "lines.txt").write_text("Python\n\nquickly\n")
    refused(regard("run", folder, "--input", tmp_path / "lines.txt"), "lines.txt, line 2: the text is empty")


def test_a_query_word_that_is_not_there(regard, folder):
    refused(regard("explain", "--model", folder, "--query", "Pyton", "Python crawls"), "no word 'Pyton'", "Python")


def test_texts_that_share_no_word(regard, folder):
    refused(regard("explain", "--model", folder, "Python crawls", "le serpent"), "share no word")


def test_layers_and_heads_out_of_range(regard, folder):
    refused(regard("explain", "--model", folder, "--layer", 5, "Python"), "no layer 5", "layers 0 to 0")
    refused(regard("explain", "--model", folder, "--head", 2, "Python"), "no head 2", "heads 0 to 1")


def test_invalid_utf8(regard, folder, tmp_path):
    refused(regard("run", folder, "Pyth\udcffon"), "is not valid UTF-8")
    (tmp_path / "lines.txt").write_bytes(b"Python\nPyth\xffon\n")
    refused(regard("run", folder, "--input", tmp_path / "lines.txt"), "lines.txt, line 2: not valid UTF-8 (byte 5)")
    (tmp_path / "pairs.tsv").write_bytes(b"a\tb\n\xfe\tb\n")
    refused(regard("evaluate", folder, tmp_path / "pairs.tsv"), "pairs.tsv, line 2: not valid UTF-8")


def test_a_missing_input_file(regard, folder, tmp_path):
    refused(regard("run", folder, "--input", tmp_path / "none.txt"), "none.txt cannot be read: No such file")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["g2q"], "no recipe 'g2q'; did you mean g2p"),
        (["g2p", "--set", "training.max_stepz=5"], "unknown field 'training.max_stepz'"),
        (["g2p", "--set", "training.max_steps=-5"], "training.max_steps: input should be greater than 0, got -5"),
        (["g2p", "--set", "training.precision=fp7"], "training.precision"),
        (["g2p", "--set", "training"], "reads part.field=value"),
        (["none.toml"], "no recipe file none.toml"),
    ],
)
def test_a_wrong_recipe(regard, tmp_path, arguments, words):
    refused(regard("train", *arguments, "--out", tmp_path / "run"), words)
    assert not (tmp_path / "run").exists()


def test_a_recipe_file_that_is_not_toml(regard, tmp_path):
    (tmp_path / "bad.toml").write_text("name = ")
    refused(regard("train", tmp_path / "bad.toml"), "bad.toml: not valid TOML")


def test_resuming_what_was_never_begun(regard, tmp_path):
    refused(regard("train", "g2p-quick", "--out", tmp_path, "--resume"), "there is no checkpoint")


def test_the_traceback_is_there_for_who_asks(regard, folder):
    from regard import RegardError

    with pytest.raises(RegardError, match="the text is empty"):
        regard("--debug", "run", folder, " ")


def test_an_unknown_metric_and_empty_data(regard, folder, tmp_path):
    (tmp_path / "pairs.tsv").write_text("source\ttarget\n")
    refused(
        regard("evaluate", folder, tmp_path / "pairs.tsv", "--metric", "blue"), "no metric 'blue'; did you mean bleu"
    )
    refused(regard("evaluate", folder, tmp_path / "pairs.tsv"), "holds no examples")


def test_output_that_cannot_be_written_leaves_nothing(regard, folder, tmp_path):
    (tmp_path / "file").write_text("")
    ended = regard("run", folder, "Python", "--output", tmp_path / "file" / "answers.txt")
    refused(ended, "cannot write")
    ended = regard("explain", "--model", folder, "Python", "--html", tmp_path / "file" / "page.html")
    refused(ended, "cannot write")


CLASSES = """
name = "classes"
task = "classification"
[data]
train = "ok.tsv"
valid = "ok.tsv"
test = "ok.tsv"
[tokenizer]
kind = "wordpiece"
vocab_size = 310
[model]
type = "bert"
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 16
[training]
max_steps = 1
[cost]
energy = false
"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.valid=odd.tsv", "the label 'z' stands in the validation or test data, but in none to learn from"),
        ("data.train=bad.tsv", "bad.tsv, line 3: 1 columns"),
        ("data.train=none.tsv", "none.tsv cannot be read: No such file"),
        ("data.label_field=kind", "ok.tsv has no column 'kind'"),
        ("score.metric=rouge", "score.metric: input should be 'wer' or 'bleu', got 'rouge'"),
        ("training.max_steps=many", "training.max_steps: input should be a valid integer"),
        ("cost.country=France", "cost.country"),
        ("training.schedule=halving", "schedule halving needs halve_every"),
        ("start=nowhere", "nowhere is not a model folder"),
    ],
)
def test_a_recipe_whose_data_or_fields_are_wrong(regard, tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"a fine day {number}\t{'xy'[number % 2]}\n" for number in range(8))
    (tmp_path / "ok.tsv").write_text(f"text\tlabel\n{rows}")
    (tmp_path / "odd.tsv").write_text("text\tlabel\na fine day\tz\n")
    (tmp_path / "bad.tsv").write_text("text\tlabel\na fine day\tx\nbroken\n")
    (tmp_path / "classes.toml").write_text(CLASSES)
    refused(regard("train", "classes.toml", "--out", "run", "--set", change), words)
    assert not (tmp_path / "run").exists()

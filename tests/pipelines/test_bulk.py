"""A model over a file: nothing lost, nothing twice, whatever the format and whenever it is killed."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import pyarrow
import pyarrow.parquet
import pytest
import torch

import regard
from regard import RegardError
from regard.modalities.subwords import train_subwords
from regard.modalities.text import train_bpe
from regard.models.bert import Bert, BertConfig
from regard.models.gpt import GPT, GPTConfig
from regard.models.transformer import Transformer, TransformerConfig

WORDS = ["Python", "executes", "crawls", "quickly", "le", "serpent", "rampe", "vite"]
TEXTS = ["Python executes quickly", "Python crawls quickly", "le serpent rampe vite"] * 3
BERT = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20,
        "max_position_embeddings": 12}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.manual_seed(1)
    place = tmp_path_factory.mktemp("models")
    found = {name: place / name for name in ("translator", "classifier", "embedder", "language")}
    for folder in found.values():
        folder.mkdir()
    codec, pieces, signs = train_bpe(TEXTS, 320), *(train_subwords(kind, TEXTS, 320) for kind in ("wordpiece", "bytes"))
    config = TransformerConfig(vocab_size=codec.source.vocab_size, d_model=8, encoder_layers=1, decoder_layers=1,
                               attention_heads=2, ffn_dim=8, max_position_embeddings=12)  # fmt: skip
    Transformer(config).save(found["translator"])
    codec.save(found["translator"])
    config = BertConfig(vocab_size=pieces.vocab_size, heads=("classification",), labels=("good", "bad"), **BERT)
    Bert(config).save(found["classifier"])
    pieces.save(found["classifier"])
    Bert(BertConfig(vocab_size=pieces.vocab_size, heads=(), **BERT)).save(found["embedder"])
    pieces.save(found["embedder"])
    GPT(GPTConfig(vocab_size=signs.vocab_size, n_positions=64, n_embd=8, n_layer=1, n_head=2)).save(found["language"])
    signs.save(found["language"])
    return found


@pytest.fixture(scope="module")
def models(folders):
    return {name: regard.load(str(folder)) for name, folder in folders.items()}


def some_texts(count, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 4))) for _ in range(count)]


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["translator", "classifier", "embedder", "language"])
def test_a_file_gets_the_answers_its_lines_get(models, name, tmp_path):
    texts = some_texts(23)
    (tmp_path / "in.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    options = {"tokens": 3} if name == "language" else {}
    ended = models[name].run_file(tmp_path / "in.txt", tmp_path / "out.jsonl", window=5, **options)
    assert (ended.done, ended.bad, ended.share) == (23, 0, 1.0)
    found, expected = lines_of(tmp_path / "out.jsonl"), list(models[name].rows(texts, **options))
    assert [row["source"] for row in found] == texts
    for mine, other in zip(found, expected, strict=True):
        if name == "embedder":
            torch.testing.assert_close(torch.tensor(mine["embedding"]), torch.tensor(other["embedding"]))
        else:
            assert mine["answer"] == other["answer"]
    assert {path.name for path in tmp_path.iterdir()} == {"in.txt", "out.jsonl"}


def test_the_last_line_needs_no_end_and_a_byte_order_mark_is_no_text(models, tmp_path):
    (tmp_path / "in.txt").write_bytes(b"\xef\xbb\xbfPython\r\nvite")
    models["translator"].run_file(tmp_path / "in.txt", tmp_path / "out.jsonl")
    assert [row["source"] for row in lines_of(tmp_path / "out.jsonl")] == ["Python", "vite"]


def test_bad_lines_keep_their_place_and_are_told(models, tmp_path):
    good = [b"Python crawls", b"le serpent", b"quickly"]
    bad = [b"Pyth\xffon", b"", b"Python " * 30, b"x" * (1 << 20) + b" more"]
    (tmp_path / "in.txt").write_bytes(b"\n".join([good[0], *bad[:2], good[1], *bad[2:], good[2]]) + b"\n")
    ended = models["translator"].run_file(tmp_path / "in.txt", tmp_path / "out.txt", window=3)
    assert (ended.done, ended.bad) == (7, 4)
    answers = models["translator"].translate([text.decode() for text in good])
    assert (tmp_path / "out.txt").read_text().split("\n") == [answers[0], "", "", answers[1], "", "", answers[2], ""]
    told = lines_of(tmp_path / "out.txt.errors.jsonl")
    assert [row["number"] for row in told] == [2, 3, 5, 6]
    for row, reason in zip(told, ("UTF-8 (byte 5)", "the text is empty", "more than the 12", "longer"), strict=True):
        assert reason in row["reason"]
        assert len(row["text"]) <= 200


def test_fields_of_jsonl_go_along(models, tmp_path):
    rows = [{"id": 1, "say": "Python"}, {"id": 2}, {"id": 3, "say": 7}, {"id": 4, "say": "vite", "answer": "no"}]
    lines = [*map(json.dumps, rows), "[1]", "{", json.dumps({"id": 7, "say": "vite"}), r'{"say": "\ud800"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    ended = models["classifier"].run_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", field="say")
    found = lines_of(tmp_path / "out.jsonl")
    assert (ended.done, ended.bad) == (8, 6)
    assert [row.get("id") for row in found] == [1, 2, 3, 4, None, None, 7, None]
    assert [row["answer"] is None for row in found] == [False, True, True, True, True, True, False, True]
    assert {one["text"] for one in found[0]["classes"]} == {"good", "bad"}
    reasons = " ".join(row["reason"] for row in lines_of(tmp_path / "out.jsonl.errors.jsonl"))
    for part in ("no field 'say'", "is int, not a text", "field 'answer' already", "not a JSON", "not valid JSON"):
        assert part in reasons


def test_columns_of_csv_go_along_quotes_and_all(models, tmp_path):
    raw = b'id,say\n1,"Python, ""crawls""\nquickly"\n\n2,Pyth\xffon\n3\n4,vite\n5,"' + b"x" * 200_000 + b'"\n6,le\n'
    (tmp_path / "in.csv").write_bytes(raw)
    ended = models["classifier"].run_file(tmp_path / "in.csv", tmp_path / "out.csv", field="say", window=2)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["id", "say", "answer", "probability"]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "", "6"]
    assert rows[0][1] == 'Python, "crawls"\nquickly'
    assert [row[2] in ("good", "bad") for row in rows] == [True, False, False, True, False, True]
    assert (ended.done, ended.bad) == (6, 3)


@pytest.mark.parametrize("name", ["translator", "embedder"])
def test_columns_of_parquet_go_along_as_they_are(models, name, tmp_path):
    texts = [*some_texts(40), None, "Python " * 30]
    table = pyarrow.table({
        "when": pyarrow.array(range(42), pyarrow.timestamp("ns")),
        "say": texts,
        "kind": pyarrow.array(["a", "b"] * 21).dictionary_encode(),
    })  # fmt: skip
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=17)
    ended = models[name].run_file(tmp_path / "in.parquet", tmp_path / "out.parquet", field="say", window=10)
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert (ended.done, ended.bad) == (42, 2)
    assert found.select(["when", "say"]).equals(table.select(["when", "say"]))
    assert found["kind"].to_pylist() == table["kind"].to_pylist()
    if name == "translator":
        assert found["answer"].to_pylist() == [*models[name].translate(texts[:40]), None, None]
    else:
        vectors = torch.tensor(found["embedding"].to_pylist()[:40])
        torch.testing.assert_close(vectors, models[name].embed(texts[:40]))


def test_text_to_parquet_and_csv_to_text(models, tmp_path):
    (tmp_path / "in.txt").write_text("Python\nvite\n")
    models["translator"].run_file(tmp_path / "in.txt", tmp_path / "out.parquet")
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert found["source"] == ["Python", "vite"]
    assert found["answer"] == models["translator"].translate(["Python", "vite"])
    (tmp_path / "in.csv").write_text("text\nPython\nvite\n")
    models["translator"].run_file(tmp_path / "in.csv", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text().splitlines() == found["answer"]


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl", "parquet"])
def test_a_run_that_was_stopped_goes_on(models, ending, tmp_path):
    texts = some_texts(50)
    texts[13] = "Python " * 30
    source, output = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), source)
    else:
        rows = [json.dumps({"text": text}) for text in texts] if ending == "jsonl" else texts
        source.write_text("\n".join((["text"] if ending == "csv" else []) + rows) + "\n")
    whole, model = tmp_path / f"whole.{ending}", models["translator"]
    model.run_file(source, whole, window=8)
    answered = []

    def stop(progress):
        answered.append(progress.done)
        if len(answered) == 1:
            with output.with_name(output.name + ".partial").open("ab") as file:
                file.write(b"half of a block")  # what a kill in the middle of a write leaves
            raise _StoppedError

    with pytest.raises(_StoppedError):
        model.run_file(source, output, window=8, progress=stop)
    assert not output.exists()
    ended = model.run_file(source, output, window=8, progress=stop)
    assert answered == [8, 16, 24, 32, 40, 48, 50]
    assert (ended.done, ended.bad) == (50, 1)
    if ending == "parquet":
        assert pyarrow.parquet.read_table(output).equals(pyarrow.parquet.read_table(whole))
    else:
        assert output.read_bytes() == whole.read_bytes()


def test_going_on_with_something_else_is_refused(models, folders, tmp_path):
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("\n".join(some_texts(30)))

    def stop(progress):
        raise _StoppedError

    def begin(name="translator", **options):
        models[name].run_file(source, output, window=8, progress=stop, **options)

    with pytest.raises(_StoppedError):
        begin()
    with pytest.raises(RegardError, match="the setting beams has changed; --restart begins anew"):
        begin(beams=2)
    with pytest.raises(RegardError, match="the model has changed"):
        begin("classifier")
    with pytest.raises(_StoppedError):
        begin(restart=True, beams=2)
    source.write_text(source.read_text() + "\nvite")
    with pytest.raises(RegardError, match="the input has changed"):
        begin(beams=2)
    output.with_name("out.txt.journal").write_text("{")
    with pytest.raises(RegardError, match=r"damaged; --restart"):
        begin(beams=2)
    ended = models["translator"].run_file(source, output, restart=True)
    assert ended.done == len(output.read_text().splitlines()) == 31


def test_one_run_at_a_time(models, tmp_path):
    (tmp_path / "in.txt").write_text("Python\n")

    def second(progress):
        models["translator"].run_file(tmp_path / "in.txt", tmp_path / "out.txt")

    with pytest.raises(RegardError, match="another run is writing"):
        models["translator"].run_file(tmp_path / "in.txt", tmp_path / "out.txt", progress=second)


@pytest.mark.parametrize(
    ("source", "content", "output", "field", "message"),
    [
        ("in.txt", "Python\n", "in.txt", None, "is the input itself"),
        ("in.txt", "Python\n", "out.txt", "say", "--field is for JSONL, CSV and Parquet"),
        ("in.csv", "id,say\n", "out.csv", None, "has the columns id, say: say with --field"),
        ("in.csv", "id,say\n", "out.csv", "sya", "no column 'sya'; did you mean say"),
        ("in.csv", "answer,text\n", "out.csv", None, "already has a column 'answer'"),
        ("in.csv", "text,text\n", "out.csv", None, "two columns have the same name"),
        ("in.csv", "", "out.csv", None, "has the columns none"),
        ("in.jsonl", "{}\n", "out.parquet", None, "JSONL has no fixed columns"),
        ("in.parquet", "no", "out.parquet", None, "damaged or not a Parquet file"),
        ("none.txt", None, "out.txt", None, "cannot be read: No such file"),
        ("in.txt", "Python\n", "in.txt/out.txt", None, "cannot write"),
    ],
)
def test_what_cannot_be_is_told(models, source, content, output, field, message, tmp_path):
    if content is not None:
        (tmp_path / source).write_text(content)
    with pytest.raises(RegardError, match=message):
        models["translator"].run_file(tmp_path / source, tmp_path / output, field=field)
    assert len(list(tmp_path.iterdir())) == (content is not None)


def test_options_that_no_line_can_be_answered_with_stop_the_run(models, tmp_path):
    (tmp_path / "in.txt").write_text("Python\nvite\n")
    with pytest.raises(RegardError, match="beams must be a whole number of 1 or more"):
        models["translator"].run_file(tmp_path / "in.txt", tmp_path / "out.txt", beams=0)


def test_an_answer_that_fails_alone_is_found_by_halves(models, tmp_path, monkeypatch):
    texts, model = some_texts(16), models["translator"]
    texts[11] = "vite vite"
    (tmp_path / "in.txt").write_text("\n".join(texts))
    hypotheses = model.hypotheses

    def fussy(chosen, **options):
        if "vite vite" in chosen:
            raise RegardError("logits are not finite")
        return hypotheses(chosen, **options)

    expected = model.translate(texts)
    monkeypatch.setattr(model, "hypotheses", fussy)
    assert model.run_file(tmp_path / "in.txt", tmp_path / "out.txt").bad == 1
    assert (tmp_path / "out.txt").read_text().split("\n") == [*expected[:11], "", *expected[12:], ""]
    assert lines_of(tmp_path / "out.txt.errors.jsonl")[0]["reason"] == "logits are not finite"


_RUN = """
import sys, torch
torch.set_num_threads(1)
import regard
model = regard.load(sys.argv[1])
model.run_file(sys.argv[2], sys.argv[3], window=int(sys.argv[4]))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def run_apart(*arguments, printing=subprocess.PIPE):
    return subprocess.Popen([sys.executable, "-c", _RUN, *map(str, arguments)], stdout=printing)


@pytest.mark.slow
def test_killed_at_any_moment_it_loses_and_repeats_nothing(folders, models, tmp_path):
    texts = some_texts(3000)
    texts[100] = texts[2000] = ""
    source, output, whole = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "whole.csv"
    source.write_text("\n".join(["id,text", *(f"{number},{text}" for number, text in enumerate(texts))]))
    models["classifier"].run_file(source, whole, window=16)
    draw, kills, journal = random.Random(3), 0, tmp_path / "out.csv.journal"
    while kills < 4:
        process = run_apart(folders["classifier"], source, output, 16, printing=subprocess.DEVNULL)
        before = journal.read_bytes() if journal.exists() else b""
        while process.poll() is None and (not journal.exists() or journal.read_bytes() == before):
            time.sleep(0.005)  # until it has begun to write
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert output.exists() <= (process.returncode == 0)
        if process.returncode == 0:
            break
    assert kills >= 2
    process = run_apart(folders["classifier"], source, output, 16, printing=subprocess.DEVNULL)
    assert process.wait() == 0
    assert output.read_bytes() == whole.read_bytes()
    for name in ("out.csv", "whole.csv"):
        assert [row["number"] for row in lines_of(tmp_path / f"{name}.errors.jsonl")] == [101, 2001]
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob("*.journal"))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")  # noqa: PTH110
def test_memory_does_not_grow_with_the_file(folders, tmp_path):
    peaks = {}
    for count in (5_000, 100_000):
        source = tmp_path / f"{count}.txt"
        source.write_text("\n".join(some_texts(1000) * (count // 1000)))
        out, _ = run_apart(folders["classifier"], source, tmp_path / f"{count}.jsonl", 1024).communicate()
        peaks[count] = int(out) / 1024
        with (tmp_path / f"{count}.jsonl").open() as file:
            assert sum(1 for _ in file) == count
    assert peaks[100_000] - peaks[5_000] < 25  # MiB

"""What is left out of training and what is counted; and packed rows, in memory and in a cache."""

import errno
import json
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError
from regard.data import packed
from regard.data.cleaning import cleaned, languages_told, text_hash
from regard.data.packed import Packed, packed_table

PAIRS = [("one two", "un deux"), ("One  two", "un deux"), ("a", "b c d e f g"), ("x y", "u v")]


def run(**rules):
    counts = {}
    return list(cleaned(iter(PAIRS), lambda pair: pair, counts, **rules)), counts


def test_each_rule_leaves_out_its_own_and_counts():
    assert run() == (PAIRS, {})
    assert run(length_ratio=3) == ([PAIRS[0], PAIRS[1], PAIRS[3]], {"left_out_by_length_ratio": 1})
    assert run(duplicates=True) == ([PAIRS[0], *PAIRS[2:]], {"left_out_as_duplicates": 1})
    held_out = {"valid": {text_hash(("ONE two", "un deux"))}, "test": {text_hash(("not", "there"))}}
    told = {"valid_examples_also_in_training": 1, "test_examples_also_in_training": 0}
    assert run(held_out=held_out) == (PAIRS, told)
    assert run(held_out=held_out, overlap=False) == (PAIRS[2:], told | {"left_out_as_held_out": 2})


def test_languages_are_told_side_by_side():
    pytest.importorskip("py3langid")
    pairs = [("Please open the file now.", "Ouvrez le fichier maintenant."), ("Ouvrez le fichier.", "Open the file.")]
    counts = {}
    kept = list(cleaned(iter(pairs), lambda pair: pair, counts, languages=("en", "fr")))
    assert (kept, counts) == (pairs[:1], {"left_out_by_language": 1})
    with pytest.raises(RegardError, match="'klingon' is not a language that can be told"):
        languages_told(("klingon",))


ROWS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=8)


@given(rows=ROWS)
def test_packed_rows_are_the_same_in_memory_and_in_a_cache(tmp_path_factory, rows):
    cache = tmp_path_factory.mktemp("cache") / "x"

    def both(counts):
        counts["rows"] = len(rows)
        yield from ((row, row[::-1]) for row in rows)

    for table in (packed_table(both, 2), packed_table(both, 2, cache), packed_table(lambda _: iter(()), 2, cache)):
        assert [[one.tolist() for one in column] for column in table.columns] == [rows, [row[::-1] for row in rows]]
        assert table.counts == {"rows": len(rows)}
    chosen = np.arange(len(rows))[::-1]
    ids, lengths = Packed.of(rows).take(chosen)
    assert ids.tolist() == [token for row in rows[::-1] for token in row]
    assert lengths.tolist() == [len(row) for row in rows[::-1]]


def test_many_numbers_leave_memory(monkeypatch):
    monkeypatch.setattr(packed, "_SMALL", 10)
    monkeypatch.setattr(packed, "_BUFFERED", 7)
    rows = [list(range(number)) for number in range(9)]
    table = packed_table(lambda _: iter([(row, [1]) for row in rows]), 2)
    assert isinstance(table.columns[0].ids, np.memmap)
    assert not isinstance(table.columns[1].ids, np.memmap)
    assert [row.tolist() for row in table.columns[0]] == rows

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packed.tempfile, "TemporaryFile", full)
    with pytest.raises(RegardError, match="cannot write tokenised examples to .*: No space left on device; set TMPDIR"):
        packed_table(lambda _: iter([(row, [1]) for row in rows]), 2)


def test_a_damaged_cache_is_told(tmp_path):
    packed_table(lambda _: iter([([1, 2],)]), 1, tmp_path / "x")
    (tmp_path / "x" / "0.ids").write_bytes(b"\0\0\0\0")
    with pytest.raises(RegardError, match="is damaged .0.ids has 1 numbers, the lengths add up to 2.: remove it"):
        packed_table(lambda _: iter(()), 1, tmp_path / "x")


SCRIPT = """
import json, resource, sys
from pathlib import Path
from regard.training.recipe import parse_recipe
from regard.training.tasks import task_of
def recipe(part):
    return parse_recipe(open(sys.argv[1]).read(), "x", [f'data.train="{part}"'])
task = task_of(recipe(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
task = task_of(recipe(sys.argv[3]))
for chosen in task.train.plan(4096, 1, 0)[:20]:
    task.train.batch(chosen)
print(json.dumps([task.train.tokens, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


@pytest.mark.slow
def test_a_large_file_is_never_in_memory(tmp_path):
    """40 MB of text need less than half of that beyond what a small file needs."""
    random = np.random.default_rng(1)
    words = [f"w{number}" + "x" * 40 for number in range(200)]
    with (tmp_path / "large.jsonl").open("w") as file:
        for _ in range(8_000):
            file.write(json.dumps({"text": " ".join(random.choice(words, 120))}) + "\n")
    with (tmp_path / "large.jsonl").open() as file:
        (tmp_path / "small.jsonl").write_text("".join(islice(file, 2000)))
    (tmp_path / "recipe.toml").write_text(
        f'name = "x"\ntask = "language-model"\n[data]\nvalid = "{tmp_path}/small.jsonl"\n'
        f'test = "{tmp_path}/small.jsonl"\ncache = "{tmp_path}/cache"\n[tokenizer]\nkind = "words"\n'
        'vocab_size = 400\n[model]\ntype = "gpt"\nn_embd = 16\nn_layer = 1\nn_head = 2\nn_positions = 256\n'
    )
    command = [sys.executable, "-c", SCRIPT, *(str(tmp_path / name) for name in ("recipe.toml", "small.jsonl"))]
    ended = subprocess.run([*command, str(tmp_path / "large.jsonl")], capture_output=True, text=True, check=True)
    tokens, megabytes = json.loads(ended.stdout)
    assert tokens > 900_000
    assert megabytes < 20, f"{megabytes} MB more for {(tmp_path / 'large.jsonl').stat().st_size >> 20} MB"

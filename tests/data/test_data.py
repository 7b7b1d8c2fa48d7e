"""Sources and batches."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError
from regard.data.batches import Examples
from regard.data.sources import Pair, read_cmudict, read_pairs

FIRST_OF_TEST = ["'cuse", "'frisco", "'m"]
PAIRS = [Pair("a b", ("c d",)), Pair('say "no"', ("dis « non »",))]


def test_every_format_gives_the_same_pairs(tmp_path):
    rows = [(pair.source, pair.target) for pair in PAIRS]
    (tmp_path / "x.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    (tmp_path / "head.tsv").write_text("origin\ttarget\tsource\n" + "".join(f"o\t{b}\t{a}\n" for a, b in rows))
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in rows))
    (tmp_path / "x.en").write_text("".join(a + "\n" for a, _ in rows))
    (tmp_path / "x.fr").write_text("".join(b + "\n" for _, b in rows))
    for name in ("x.tsv", "head.tsv", "x.jsonl", f"x.en,{tmp_path}/x.fr"):
        assert list(read_pairs(f"{tmp_path}/{name}")) == PAIRS


def test_a_data_set_in_the_hubs_format(tmp_path):
    pytest.importorskip("datasets")
    rows = [{"translation": {"en": pair.source, "fr": pair.target}} for pair in PAIRS]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_pairs(f"hub:{tmp_path}", source="en", target="fr")) == PAIRS
    with pytest.raises(RegardError, match="cannot be read"):
        list(read_pairs(f"hub:{tmp_path}/none"))


@pytest.mark.parametrize(
    ("content", "pair"),
    [
        ("\ufeffsource\ttarget\r\na\tb\r\n", Pair("a", ("b",))),  # as spreadsheets write it
        ("a\rb\tc\n", Pair("a\rb", ("c",))),
        (f"{'a' * 200_000}\tb\n", Pair("a" * 200_000, ("b",))),
        ('"a\tb\n', Pair('"a', ("b",))),
        ("a\tb\tmore\n", Pair("a", ("b",))),
    ],
    ids=["byte order mark", "carriage return", "long field", "quotation mark", "third column"],
)
def test_a_tsv_is_cut_at_tabs_and_nothing_else(tmp_path, content, pair):
    (tmp_path / "x.tsv").write_bytes(content.encode())
    assert list(read_pairs(str(tmp_path / "x.tsv"))) == [pair]


def test_several_right_answers(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"word": "read", "spoken": ["R EH1 D", "R IY1 D"]}\n')
    [pair] = read_pairs(str(tmp_path / "x.jsonl"), source="word", target="spoken")
    assert pair == Pair("read", ("R EH1 D", "R IY1 D"))
    assert pair.target == "R EH1 D"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tsv", "a\tb\nalone\n", "line 2: 1 columns, needs at least 2"),
        ("x.jsonl", '{"source": "a", "target": "b"}\n{"source": "a"}\n', "line 2: needs an object with 'source'"),
        ("x.jsonl", "[]\n", "line 1: needs an object"),
        ("x.tsv", b"a\tb\n\xff\tb\n", "line 2: not valid UTF-8"),
        ("x.txt", "a\n", "cannot tell the format"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RegardError, match=message):
        list(read_pairs(str(tmp_path / name)))


def test_files_that_are_not_parallel(tmp_path):
    (tmp_path / "x.en").write_text("a\nb\n")
    (tmp_path / "x.fr").write_text("c\n")
    with pytest.raises(RegardError, match="one ends before line 2"):
        list(read_pairs(f"{tmp_path}/x.en,{tmp_path}/x.fr"))


def test_the_split_of_cmudict_is_fixed():
    parts = read_cmudict()
    assert {name: len(pairs) for name, pairs in parts.items()} == {"train": 112_013, "valid": 1_283, "test": 12_756}
    words = [pair.source for pairs in parts.values() for pair in pairs]
    assert len(words) == len(set(words)) == 126_052
    assert [pair.source for pair in parts["test"][:3]] == FIRST_OF_TEST
    assert Pair("read", ("R EH1 D", "R IY1 D")) in parts["train"] + parts["valid"] + parts["test"]


LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=40)


def examples(lengths) -> Examples:
    counter = iter(range(3, 10_000))
    sources = [[next(counter) for _ in range(source)] for source, _ in lengths]
    targets = [[next(counter) for _ in range(target)] for _, target in lengths]
    return Examples(sources, targets, bos=1)


@given(lengths=LENGTHS, room=st.integers(2, 60), seed=st.integers(0, 5))
def test_an_epoch_has_every_example_once_in_batches_that_fit(lengths, room, seed):
    data = examples(lengths)
    plan = data.plan(room, seed, epoch=3)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths)))
    for chosen in plan:
        batch = data.batch(chosen)
        assert batch.tokens == sum(sum(lengths[number]) for number in chosen)
        assert batch.tokens <= room or len(chosen) == 1
        for row, number in enumerate(chosen):
            target = batch.target.with_values(batch.answers)[row].tolist()
            assert batch.target[row].tolist() == [1, *target[:-1]]
            assert len(batch.source[row]) == lengths[number][0]


@given(lengths=LENGTHS, seed=st.integers(0, 5))
def test_an_epoch_can_be_entered_at_any_batch(lengths, seed):
    data = examples(lengths)
    whole = [batch.answers.tolist() for batch in data.epoch(20, seed, 1)]
    for skip in range(len(whole)):
        assert [batch.answers.tolist() for batch in data.epoch(20, seed, 1, skip=skip)] == whole[skip:]


def test_epochs_differ_and_seeds_differ():
    data = examples([(3, 3)] * 50)
    orders = [np.concatenate(data.plan(12, seed, epoch)).tolist() for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4

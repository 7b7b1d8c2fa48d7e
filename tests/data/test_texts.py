"""Texts with and without labels, and the batches made of them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError
from regard.data.blocks import Blocks, LabelledTexts
from regard.data.texts import Text, read_texts


def test_every_format_reads_alike(tmp_path):
    texts = ["First text.", "Zweiter Text, größer.", "third"]
    (tmp_path / "x.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    rows = [f"{number}\tz\t{text}" for number, text in enumerate(texts)]
    (tmp_path / "x.tsv").write_text("\n".join(["label\tother\ttext", *rows]) + "\n", encoding="utf-8")
    objects = [json.dumps({"text": text, "label": number}) for number, text in enumerate(texts)]
    (tmp_path / "x.jsonl").write_text("\n".join(objects), encoding="utf-8")
    (tmp_path / "folder").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "folder" / f"{number}.txt").write_text(text, encoding="utf-8")
    plain = [Text(text) for text in texts]
    for name in ("x.txt", "x.tsv", "x.jsonl", "folder"):
        assert list(read_texts(str(tmp_path / name))) == plain, name
    labelled = [Text(text, None, str(number)) for number, text in enumerate(texts)]
    for name in ("x.tsv", "x.jsonl"):
        assert list(read_texts(str(tmp_path / name), label="label")) == labelled
    assert next(read_texts(str(tmp_path / "x.tsv"), second="other")) == Text(texts[0], "z")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("x.tsv", "text\tkind\na\tb\n", r"no column 'label' \(its first line names: text, kind\)"),
        ("x.tsv", "text\tlabel\na\n", r"line 2: 1 columns, the first line names 2"),
        ("x.jsonl", '{"text": "a"}\n', r"line 1: needs an object with 'text' and 'label'"),
        ("x.jsonl", "no\n", r"line 1: needs an object"),
        ("x.txt", "a\n", r"has no labels: give FILE\.tsv or FILE\.jsonl"),
        ("x.doc", "a\n", r"cannot tell the format"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, match):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(RegardError, match=match):
        list(read_texts(str(tmp_path / name), label="label"))


@given(
    texts=st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=9),
    context=st.integers(1, 7),
)
def test_blocks_cover_the_stream_once_and_answers_are_the_next_tokens(texts, context):
    stream = [token for text in texts for token in text]
    blocks = Blocks(texts, context)
    seen = {}
    for chosen in blocks.plan(3 * context, seed=1, epoch=0):
        batch = blocks.batch(chosen)
        assert batch.tokens <= max(3 * context, context)
        answers = batch.answers.split(list(batch.inputs.lengths))
        for number, inputs, following in zip(chosen, batch.inputs, answers, strict=True):
            seen[int(number)] = (inputs.tolist(), following.tolist())
    ordered = [seen[number] for number in range(len(blocks))]
    assert [token for inputs, _ in ordered for token in inputs] == stream[:-1]
    assert [token for _, following in ordered for token in following] == stream[1:]
    assert blocks.tokens == len(stream) - 1


def test_another_epoch_has_another_order():
    blocks = Blocks([list(range(1000))], 10)
    plans = [np.concatenate(blocks.plan(40, 1, epoch)).tolist() for epoch in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    assert sorted(plans[0]) == sorted(plans[2])


def test_labelled_texts_come_in_batches_of_alike_length():
    ids = [list(range(length)) for length in (3, 9, 3, 8, 1, 9)]
    examples = LabelledTexts(ids, [[0] * len(row) for row in ids], [0, 1, 2, 3, 4, 5])
    found = {}
    for chosen in examples.plan(18, seed=0, epoch=0):
        batch = examples.batch(chosen)
        assert batch.tokens <= 18
        for row, segments, label in zip(batch.inputs, batch.segments, batch.labels.tolist(), strict=True):
            found[label] = row.tolist()
            assert segments.tolist() == [0] * len(row)
    assert found == dict(enumerate(ids))

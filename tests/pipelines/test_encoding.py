"""Texts by length: every text gets its own answer, whatever the batches and the threads."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError
from regard.modalities.subwords import train_subwords
from regard.models.bert import Bert, BertConfig
from regard.pipelines.encoding import by_length
from regard.pipelines.text_reader import TextReader

TEXTS = ["Python executes quickly", "Python crawls quickly", "le serpent", "vite"] * 20


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=30), st.integers(1, 20))
def test_rows_come_back_in_their_order(ids, room):
    seen = []

    def compute(batch):
        seen.append(batch.layout.tokens)
        assert batch.layout.tokens <= room or len(batch) == 1
        return torch.stack([row.sum() for row in batch])[:, None]

    assert by_length(ids, compute, batch_tokens=room)[:, 0].tolist() == [sum(row) for row in ids]
    assert sum(seen) == sum(map(len, ids))


@pytest.fixture
def reader():
    tokenizer = train_subwords("wordpiece", TEXTS, 320)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
    config = BertConfig(vocab_size=tokenizer.vocab_size, heads=("classification",), labels=("a", "b"), **sizes)
    return TextReader("tiny", Bert(config).eval(), tokenizer)


def test_many_texts_get_what_each_gets_alone_in_threads_too(reader):
    alone = torch.cat([reader.embed([text]) for text in TEXTS])
    torch.testing.assert_close(reader.embed(TEXTS), alone)
    torch.set_num_threads(2)
    try:
        torch.testing.assert_close(reader.embed(TEXTS * 20), alone.repeat(20, 1))
    finally:
        torch.set_num_threads(1)
    for many, text in zip(reader.classify(TEXTS), TEXTS, strict=True):
        [one] = reader.classify([text])
        assert [choice.text for choice in many] == [choice.text for choice in one]
        assert many[0].probability == pytest.approx(one[0].probability, abs=1e-5)
    assert reader.embed([]).shape == (0, 12)
    assert reader.classify([]) == []


def test_a_changed_weight_is_seen(reader):
    before = reader.embed(TEXTS)
    with torch.no_grad():
        reader.model.encoder.layers[0].feed_forward.inner.weight.add_(torch.randn(20, 12))
    alone = torch.cat([reader.embed([text]) for text in TEXTS])
    assert not torch.allclose(before, alone, atol=1e-3)
    torch.testing.assert_close(reader.embed(TEXTS), alone)


def test_bfloat16_on_request_and_nothing_else(reader):
    fast, exact = reader.embed(TEXTS, precision="bf16"), reader.embed(TEXTS)
    assert 0 < (fast - exact).abs().max() < 0.02
    with pytest.raises(RegardError, match="precision is one of fp32, bf16, int8, not 'fp8'"):
        reader.embed(TEXTS, precision="fp8")

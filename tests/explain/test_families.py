"""The trace covers every system: each layer's steps equal the fast run, each value has a name."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import Sequences, Trace
from regard.models.albert import Albert, AlbertConfig
from regard.models.bert import Bert, BertConfig
from regard.models.gpt import GPT, GPTConfig
from regard.models.rnnsearch import RNNSearch, RNNSearchConfig
from regard.models.seq2seq import Seq2Seq, Seq2SeqConfig
from regard.models.ulmfit import AwdLstm, AwdLstmConfig, Ulmfit, UlmfitConfig

BERT = {
    "vocab_size": 23, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 16,
}  # fmt: skip
AWD = {"vocab_size": 23, "embedding_size": 10, "hidden_size": 14, "num_hidden_layers": 3}
MODELS = {
    "seq2seq": lambda: Seq2Seq(Seq2SeqConfig(vocab_size=23, embedding_size=6, hidden_size=10, num_hidden_layers=2)),
    "rnnsearch": lambda: RNNSearch(
        RNNSearchConfig(vocab_size=23, embedding_size=6, hidden_size=10, attention_size=7, maxout_size=5)
    ),
    "awd_lstm": lambda: AwdLstm(AwdLstmConfig(**AWD)),
    "ulmfit": lambda: Ulmfit(UlmfitConfig(**AWD, labels=("a", "b", "c"))),
    "gpt1": lambda: GPT(GPTConfig(vocab_size=23, n_positions=16, n_embd=12, n_layer=2, n_head=3, labels=("a", "b"))),
    "gpt2": lambda: GPT(
        GPTConfig(vocab_size=23, n_positions=16, n_embd=12, n_layer=2, n_head=3, normalize_before=True)
    ),
    "bert": lambda: Bert(BertConfig(**BERT, heads=("masked_words", "next_sentence", "spans"))),
    "classifier": lambda: Bert(BertConfig(**BERT, heads=("classification",), labels=("a", "b", "c"))),
    "albert": lambda: Albert(AlbertConfig(**BERT, embedding_size=8)),
}
TRANSLATORS = ("seq2seq", "rnnsearch")


def traced(name, lengths):
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    texts = Sequences.of([torch.randint(3, 23, (length,)) for length in lengths])
    target = Sequences.of([torch.randint(3, 23, (9 - length,)) for length in lengths]) if name in TRANSLATORS else None
    return model, texts, target, Trace(model, texts, target)


@pytest.mark.parametrize("name", MODELS)
@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4))
def test_every_layer_of_the_trace_is_the_fast_run(name, lengths):
    _, texts, _, trace = traced(name, lengths)
    assert trace.layers
    for row in range(len(texts)):
        for place in trace.layers:
            assert trace.proof(place, row=row) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_one_query_is_a_row_of_all_and_every_value_has_a_name(name):
    _, _, _, trace = traced(name, [5, 3, 4])
    for place in trace.layers:
        everything, one = trace.steps(place, row=1), trace.steps(place, slice(1, 2), row=1)
        assert everything.keys() == one.keys()
        torch.testing.assert_close(one["output"][0], everything["output"][1], atol=1e-6, rtol=0)
    names = trace.names
    assert len(set(names)) == len(names)
    for value in names:
        assert trace[value].isfinite().all() or value.endswith("masked_scores")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seq2seq", "encoder.layers.1.forget_gate"),
        ("rnnsearch", "decoder.layers.0.attention.weights"),
        ("rnnsearch", "encoder.layers.0.back.update_gate"),
        ("ulmfit", "encoder.layers.2.cell"),
        ("gpt1", "decoder.layers.1.self_attention.weights"),
        ("bert", "heads.masked_words.activated"),
        ("classifier", "pooler.dense"),
        ("albert", "encoder.layers.0.feed_forward.inner"),
    ],
)
def test_the_terms_of_the_papers_are_there(name, expected):
    assert expected in traced(name, [4])[3].names


def test_masked_attention_sees_no_future():
    weights = traced("gpt2", [7])[3]["decoder.layers.0.self_attention.weights"]
    assert weights.triu(1).abs().max() == 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))


def test_additive_attention_sums_to_one_over_the_source():
    _, texts, target, trace = traced("rnnsearch", [6, 4])
    weights = trace.steps("decoder.layers.0", row=1)["attention.weights"]
    assert weights.shape == (len(target[1]), len(texts[1]))
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(target[1])))


@pytest.mark.parametrize("name", ["classifier", "ulmfit", "gpt1"])
def test_the_heads_of_the_trace_are_those_of_the_run(name):
    model, texts, _, trace = traced(name, [5, 3])
    with torch.no_grad():
        fast = model.classify(texts) if name == "gpt1" else model(texts)
    fast = fast["classification"] if name == "classifier" else fast
    last = trace.places[-1]
    for row in range(2):
        torch.testing.assert_close(trace.steps(last, row=row)["output"][0], fast[row], atol=1e-5, rtol=0)


def test_segments_are_part_of_the_embedding():
    torch.manual_seed(0)
    model = Bert(BertConfig(**BERT)).eval()
    texts = Sequences.of_ids([[3, 4, 5], [6, 7]])
    segments = torch.tensor([0, 1, 1, 0, 1])
    trace = Trace(model, texts, segments=segments)
    for row, own in enumerate(([0, 1, 1], [0, 1])):
        steps = trace.steps("embedding", row=row)
        torch.testing.assert_close(steps["segments"], model.embeddings.segments.weight[own])
        torch.testing.assert_close(steps["output"], trace.entering("encoder.layers.0", row))

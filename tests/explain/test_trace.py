"""A trace equals the fast run, costs no path of its own, and never lacks a value silently."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError, Sequences, Trace, Transformer, TransformerConfig
from regard.models.transformer import DecoderLayer, EncoderLayer


@given(
    lengths=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 6)), min_size=1, max_size=4),
    pre=st.booleans(),
    layers=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_every_layer_of_the_trace_is_the_fast_run(lengths, pre, layers):
    torch.manual_seed(len(lengths))
    config = TransformerConfig(
        vocab_size=23, d_model=12, encoder_layers=layers[0], decoder_layers=layers[1], attention_heads=3, ffn_dim=20,
        normalize_before=pre,
    )  # fmt: skip
    model = Transformer(config).eval()
    source = Sequences.of([torch.randint(3, 23, (length,)) for length, _ in lengths])
    target = Sequences.of([torch.randint(3, 23, (length,)) for _, length in lengths])
    trace = Trace(model, source, target)
    fast = model(source, target)
    assert torch.allclose(model.logits(trace.output.values), fast, atol=1e-5)
    for row in range(len(lengths)):
        for place in trace.places:
            if "layers" in place:
                assert trace.proof(place, row=row) < 1e-5


def test_one_query_is_a_row_of_all(model):
    trace = model.trace(["Python executes quickly"])
    for place in trace.places:
        everything, one = trace.steps(place), trace.steps(place, slice(2, 3))
        assert everything.keys() == one.keys()
        assert torch.allclose(one["output"][0], everything["output"][2], atol=1e-6)


def test_every_name_can_be_asked_for(model):
    trace = model.trace(["Python crawls"])
    assert "decoder.layers.1.cross_attention.weights" in trace.names
    assert "encoder.embedding.encoding" in trace.names
    for name in trace.names:
        assert trace[name].isfinite().all() or name.endswith("masked_scores")
    weights = trace["decoder.layers.0.self_attention.weights"]
    assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:2]))
    assert weights.triu(1).abs().max() == 0  # nobody sees the future


def test_an_unknown_name_is_told_with_the_nearest(model):
    trace = model.trace(["Python crawls"])
    with pytest.raises(RegardError, match=r"did you mean .*encoder\.layers\.0\.self_attention\.scores"):
        trace["encoder.layers.0.self_attention.score"]
    with pytest.raises(RegardError, match=r"no layer .encoder\.layers\.9."):
        trace.entering("encoder.layers.9")


def test_tracing_leaves_the_model_as_it_was(model):
    model.model.train()
    trace = model.trace(["Python crawls"], answers=[[5, 6]])
    assert model.model.training
    model.model.eval()
    layers = [module for module in model.model.modules() if isinstance(module, EncoderLayer | DecoderLayer)]
    assert layers
    assert not any(layer._forward_pre_hooks for layer in layers)
    assert all(value.values.dim() == 2 for value in trace.run.entering.values())  # the residual stream and nothing more


def test_heads_and_bias_add_up_to_the_attention_output(model):
    trace = model.trace(["Python executes quickly"])
    steps = trace.steps("encoder.layers.1")
    bias = model.model.encoder.layers[1].self_attention.output.bias
    assert torch.allclose(steps["self_attention.heads"].sum(0) + bias, steps["self_attention.output"], atol=1e-5)

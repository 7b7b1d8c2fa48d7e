"""Parts of attention maps equal the whole ones, of every kind of attention; and maps of long texts stay small."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError, Sequences, Transformer, TransformerConfig
from regard.attention import MultiHeadAttention
from regard.explain.attention_view import AttentionView
from regard.explain.cache import Cache
from regard.explain.trace import Trace
from regard.models.gpt import GPT, GPTConfig
from regard.models.llama import Llama, LlamaConfig
from regard.models.t5 import T5, T5Config

TEXTS = [[5, 6, 7, 8, 3, 9, 4], [9, 2], [11, 12, 13, 28]]
MODELS = {
    "transformer": lambda: Transformer(
        TransformerConfig(vocab_size=29, d_model=12, encoder_layers=2, decoder_layers=2, attention_heads=3, ffn_dim=20)
    ),
    "t5": lambda: T5(
        T5Config(vocab_size=29, d_model=12, d_kv=5, d_ff=20, encoder_layers=2, decoder_layers=2, num_heads=3)
    ),
    "gpt": lambda: GPT(GPTConfig(vocab_size=29, n_positions=13, n_embd=12, n_layer=2, n_head=3)),
    "llama": lambda: Llama(
        LlamaConfig(
            vocab_size=29, hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, attention_bias=True,
        )
    ),
}  # fmt: skip


def traced(name):
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    target = Sequences.of_ids([[1, 4, 5], [1], [1, 9]]) if name in ("transformer", "t5") else None
    return Trace(model, Sequences.of_ids(TEXTS), target)


@pytest.mark.parametrize("name", MODELS)
def test_every_head_of_every_attention_is_that_of_the_steps(name):
    trace = traced(name)
    kinds = ["self_attention", *(["cross_attention"] if trace.target is not None else [])]
    for place in trace.layers:
        for kind in kinds if place.startswith("decoder.") else kinds[:1]:
            for row in range(len(TEXTS)):
                steps = trace.steps(place, row=row)
                for head, weights in enumerate(steps[f"{kind}.weights"]):
                    view = trace.attention(f"{place}.{kind}", head, row)
                    torch.testing.assert_close(view.weights(), weights, atol=1e-5, rtol=0)
                    torch.testing.assert_close(view.queries, steps[f"{kind}.queries"][head], atol=1e-5, rtol=0)
                    torch.testing.assert_close(view.keys, steps[f"{kind}.keys"][head], atol=1e-5, rtol=0)
                    torch.testing.assert_close(view.mixed(), steps[f"{kind}.mixed"][head], atol=1e-5, rtol=0)


@given(st.data())
def test_any_part_at_any_resolution_is_that_of_the_whole(data):
    torch.manual_seed(2)
    queries, keys = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    causal = data.draw(st.booleans()) and keys >= queries
    attention = MultiHeadAttention(8, 2)
    x, memory = torch.randn(queries, 8), torch.randn(keys, 8)
    bound = data.draw(st.sampled_from([12 * 20, 12 * 400, 1 << 20]))  # one row at a time, all, and all kept
    kept = Cache(1 << 20)
    everything = AttentionView(attention, 1, lambda: x, lambda: memory, (queries, keys), causal, None, kept, "all")
    whole = everything.scores().softmax(dim=-1)
    view = AttentionView(attention, 1, lambda: x, lambda: memory, (queries, keys), causal, None, Cache(bound), "one")
    q = sorted(data.draw(st.lists(st.integers(0, queries), min_size=2, max_size=2, unique=True)))
    k = sorted(data.draw(st.lists(st.integers(0, keys), min_size=2, max_size=2, unique=True)))
    region = slice(*q), slice(*k)
    if whole[region].numel() * 12 <= bound:
        torch.testing.assert_close(view.weights(*region), whole[region], atol=1e-6, rtol=1e-5)
    resolution = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    found = view.map(*region, resolution)
    assert all(size <= most for size, most in zip(found.mean.shape, resolution, strict=True))
    for row in range(found.mean.shape[0]):
        for column in range(found.mean.shape[1]):
            part = whole[region][
                row * found.cell[0] : (row + 1) * found.cell[0], column * found.cell[1] : (column + 1) * found.cell[1]
            ]
            assert found.mean[row, column] == pytest.approx(part.mean().item(), abs=1e-6)
            assert found.largest[row, column] == pytest.approx(part.max().item(), abs=1e-6)
    seen = view.map(*region, resolution, sampled=True)
    assert (seen.cell, seen.mean.shape) == (found.cell, found.mean.shape)
    for row in range(found.mean.shape[0]):
        middle = min(q[0] + row * found.cell[0] + found.cell[0] // 2, q[1] - 1)
        for column, part in enumerate(whole[middle, region[1]].split(found.cell[1])):
            assert seen.mean[row, column] == pytest.approx(part.mean().item(), abs=1e-6)
            assert seen.largest[row, column] == pytest.approx(part.max().item(), abs=1e-6)


def test_a_row_is_normalised_once():
    trace = traced("gpt")
    view = trace.attention("decoder.layers.1.self_attention", 2)
    first = view.normaliser(slice(2, 4)).clone()
    kept = trace.cache.items()["attention/decoder.layers.1.self_attention/2/0/normaliser"][""]
    assert kept.isnan().tolist() == [True, True, False, False, True, True, True]
    assert torch.equal(view.normaliser()[2:4], first)


def test_what_is_not_there_is_told():
    trace = traced("transformer")
    with pytest.raises(RegardError, match=r"no attention .*layers\.9.*encoder\.layers\.0\.self_attention"):
        trace.attention("encoder.layers.9.self_attention", 0)
    with pytest.raises(RegardError, match="no head 3: this attention has heads 0 to 2"):
        trace.attention("encoder.layers.0.self_attention", 3)
    view = trace.attention("encoder.layers.0.self_attention", 0)
    for wrong in ({"resolution": (0, 4)}, {"queries": slice(3, 3)}, {"keys": slice(0, 4, 2)}):
        with pytest.raises(RegardError, match="a map needs cells"):
            view.map(**wrong)
    with pytest.raises(RegardError, match="not in steps of 2"):
        view.normaliser(slice(0, 4, 2))

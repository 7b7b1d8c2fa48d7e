"""The packed copy of an encoder answers as the model does, and leaves it as it is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from regard.layers.packed import PackedLinear, packed
from regard.models.albert import Albert, AlbertConfig
from regard.models.bert import Bert, BertConfig
from regard.sequences import Sequences

SIZES = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
         "intermediate_size": 40, "max_position_embeddings": 16}  # fmt: skip


def models(activation):
    torch.manual_seed(5)
    found = [Bert(BertConfig(heads=("classification",), labels=("a", "b", "c"), hidden_act=activation, **SIZES)),
             Albert(AlbertConfig(embedding_size=8, hidden_act=activation, **SIZES))]  # fmt: skip
    for model in found:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    return [model.eval() for model in found]


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
@pytest.mark.parametrize("number", [0, 1])
def test_the_same_hidden_states(activation, number):
    model = models(activation)[number]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = packed(model)

    @given(lengths=st.lists(st.integers(1, 16), min_size=1, max_size=6))
    def holds(lengths):
        tokens = Sequences.of([torch.randint(0, 40, (length,)) for length in lengths])
        with torch.no_grad():
            torch.testing.assert_close(fast.hidden(tokens).values, model.hidden(tokens).values, atol=2e-5, rtol=1e-4)

    holds()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert fast.embeddings.words.weight is model.embeddings.words.weight


def test_bfloat16_is_near():
    model = models("gelu")[0]
    tokens = Sequences.of([torch.randint(0, 40, (length,)) for length in (3, 3, 11)])
    with torch.no_grad():
        slow, fast = model.hidden(tokens).values, packed(model, "bf16").hidden(tokens).values
    assert fast.dtype == torch.float32
    assert 0 < (slow - fast).norm() / slow.norm() < 0.02


@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_map_without_onednn_is_the_same(bias, monkeypatch):
    linear, x = nn.Linear(7, 5, bias), torch.randn(11, 7)
    with torch.no_grad():
        expected = nn.functional.gelu(linear(x))
        torch.testing.assert_close(PackedLinear(linear, "fp32", "gelu")(x), expected)
        monkeypatch.setattr("regard.layers.packed._has_onednn", lambda weight: False)
        torch.testing.assert_close(PackedLinear(linear, "fp32", "gelu")(x), expected)

"""Operations counted from the configuration are those that PyTorch's counter sees, for every system."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from regard import attention
from regard.data.batches import Batch
from regard.data.blocks import Block
from regard.layers.recurrence import LSTM, LSTMState
from regard.models import rnnsearch
from regard.models.catalog import MODELS
from regard.sequences import Sequences
from regard.training.flops import forward_flops, training_flops

# Sizes that are all different primes or their multiples: no two can be confused.
SIZES = {
    "transformer": {"vocab_size": 101, "d_model": 14, "attention_heads": 2, "ffn_dim": 11, "encoder_layers": 3,
                    "decoder_layers": 2},
    "t5": {"vocab_size": 101, "d_model": 13, "num_heads": 2, "d_kv": 5, "d_ff": 11, "encoder_layers": 3,
           "decoder_layers": 2, "gated": True},
    "gpt": {"vocab_size": 101, "n_embd": 14, "n_head": 2, "n_layer": 3, "n_inner": 17, "n_positions": 20},
    "llama": {"vocab_size": 101, "hidden_size": 13, "intermediate_size": 17, "num_hidden_layers": 3,
              "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6},
    "bert": {"vocab_size": 101, "hidden_size": 14, "num_hidden_layers": 3, "num_attention_heads": 2,
             "intermediate_size": 17, "max_position_embeddings": 20},
    "albert": {"vocab_size": 101, "hidden_size": 14, "embedding_size": 5, "num_hidden_layers": 3,
               "num_attention_heads": 2, "intermediate_size": 17, "max_position_embeddings": 20},
    "seq2seq": {"vocab_size": 101, "target_vocab_size": 97, "embedding_size": 7, "hidden_size": 11,
                "num_hidden_layers": 3},
    "rnnsearch": {"vocab_size": 101, "target_vocab_size": 97, "embedding_size": 7, "hidden_size": 11,
                  "attention_size": 13, "maxout_size": 5},
    "awd_lstm": {"vocab_size": 101, "embedding_size": 7, "hidden_size": 11, "num_hidden_layers": 3},
    "ulmfit": {"vocab_size": 101, "embedding_size": 7, "hidden_size": 11, "num_hidden_layers": 3,
               "classifier_size": 5, "labels": ("a", "b", "c")},
}  # fmt: skip
TWO_SIDED = ("transformer", "t5", "seq2seq", "rnnsearch")


@pytest.fixture(autouse=True)
def no_fused_kernels(monkeypatch):
    """Recurrence token by token, attention as products: PyTorch's counter does not see into a CPU's fused kernels."""

    def forward(self: LSTM, x: Sequences, state: LSTMState | None = None) -> tuple[Sequences, LSTMState]:
        state, rows = state or self.start(len(x), x.values), x.pad()
        hidden = []
        for place in range(rows.shape[1]):
            _, state = self.step(rows[:, place], state)
            hidden.append(state.hidden)
        return x.with_values(x.layout.unpad(torch.stack(hidden, dim=1))), state

    monkeypatch.setattr(LSTM, "forward", forward)
    monkeypatch.setattr(rnnsearch, "loops_fast", lambda _: False)
    monkeypatch.setattr(attention, "is_ragged", lambda *_: False)
    with sdpa_kernel(SDPBackend.MATH):
        yield


def texts(rows: int, length: int) -> Sequences:
    return Sequences.of([torch.randint(3, 90, (length,)) for _ in range(rows)])


def run(name: str, source: Sequences, target: Sequences) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    kind = MODELS[name]
    model = kind(kind.config_class.model_validate(SIZES[name]))
    answer = model(source, target) if name in TWO_SIDED else model(source)
    if isinstance(answer, dict):
        answer = torch.cat([part.flatten() for part in answer.values()])
    return model, answer[0] if isinstance(answer, tuple) else answer


@pytest.mark.parametrize("name", SIZES)
def test_the_count_is_that_of_pytorchs_counter(name):
    source, target = texts(3, 5), texts(3, 7)
    with FlopCounterMode(display=False) as counter:
        model, answer = run(name, source, target)
    counted = forward_flops(model.config, source.lengths, target.lengths)
    # The counter leaves out products of a matrix and a vector: RNNsearch's scores, v^T tanh(...).
    left_out = 2 * SIZES[name]["attention_size"] * 3 * 5 * 7 if name == "rnnsearch" else 0
    assert counted - left_out == counter.get_total_flops()

    with FlopCounterMode(display=False) as counter:
        model, answer = run(name, source, target)
        answer.sum().backward()
    # Nearly: the first state of a recurrence is given, and has no gradient.
    assert 3 * (counted - left_out) == pytest.approx(counter.get_total_flops(), rel=0.08)


@pytest.mark.parametrize("name", SIZES)
@given(lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5))
def test_texts_of_a_batch_do_not_cost_each_other_anything(name, lengths):
    config = MODELS[name].config_class.model_validate(SIZES[name])
    together = forward_flops(config, [one for one, _ in lengths], [other for _, other in lengths])
    assert together == sum(forward_flops(config, [one], [other]) for one, other in lengths)


def test_a_training_step_is_three_forward_passes_over_what_the_batch_holds():
    config = MODELS["transformer"].config_class.model_validate(SIZES["transformer"])
    pairs = Batch(texts(2, 5), texts(2, 3), torch.zeros(6, dtype=torch.long))
    assert training_flops(config, pairs) == 3 * forward_flops(config, (5, 5), (3, 3))
    config = MODELS["gpt"].config_class.model_validate(SIZES["gpt"])
    block = Block(texts(2, 5), torch.zeros(10, dtype=torch.long))
    assert training_flops(config, block) == 3 * forward_flops(config, (5, 5))
    assert training_flops(config, object()) == 0  # cannot be told


def test_a_hidden_word_is_scored_where_it_is_hidden_only():
    config = MODELS["bert"].config_class.model_validate(SIZES["bert"])
    block = Block(texts(2, 23), torch.zeros(46, dtype=torch.long))
    assert training_flops(config, block) == 3 * forward_flops(config, (23, 23), predicted=6)

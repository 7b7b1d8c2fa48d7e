"""Llama, Mistral and Qwen2 against an implementation that nobody here wrote: same weights, ragged against padded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig as TheirConfig
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from regard import RegardError, Sequences
from regard.attention import causal_mask
from regard.explain.trace import Trace
from regard.generation.search import Search, search
from regard.hub import llama as hub
from regard.models.decoder import language_model_loss
from regard.models.llama import PRESETS, Llama, LlamaConfig

SIZES = {
    "vocab_size": 29, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
TEXTS = [[5, 6, 7, 8, 3, 9, 4], [9, 2], [11, 12, 13, 28]]
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CONFIGS = {LlamaForCausalLM: TheirConfig, MistralForCausalLM: MistralConfig, Qwen2ForCausalLM: Qwen2Config}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms get random values too, so that none of them goes unnoticed."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def twin(kind: type, **changes: object) -> torch.nn.Module:
    return shaken(kind(CONFIGS[kind](**{**SIZES, **IDS, "attn_implementation": "eager", **changes})))


def ours_of(theirs: torch.nn.Module) -> Llama:
    config = hub.read_config(theirs.config.to_dict())
    model = Llama(config).eval()
    model.load_state_dict(hub.read_weights(config, theirs.state_dict()))
    return model


def built(**changes: object) -> Llama:
    return shaken(Llama(LlamaConfig(**{**SIZES, **changes})))


def valid(values: torch.Tensor) -> torch.Tensor:
    return torch.cat([row[: len(text)] for row, text in zip(values, TEXTS, strict=True)])


CASES = [
    pytest.param(LlamaForCausalLM, {}, id="llama"),
    pytest.param(LlamaForCausalLM, {"num_key_value_heads": 6, "tie_word_embeddings": True}, id="all-heads-tied"),
    pytest.param(LlamaForCausalLM, {"num_key_value_heads": 1, "head_dim": 4, "rms_norm_eps": 0.1}, id="one-wide-head"),
    pytest.param(LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}, id="biases-gelu"),
    pytest.param(LlamaForCausalLM, {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}, id="base"),
    pytest.param(
        LlamaForCausalLM,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}},
        id="linear",
    ),
    pytest.param(LlamaForCausalLM, {"rope_parameters": LLAMA3, "head_dim": 8}, id="llama3"),
    pytest.param(MistralForCausalLM, {"sliding_window": None}, id="mistral"),
    pytest.param(Qwen2ForCausalLM, {}, id="qwen2"),
]


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_all_numbers_are_those_of_the_other_implementation(kind, changes):
    theirs = twin(kind, **changes)
    model = ours_of(theirs)
    tokens = Sequences.of_ids(TEXTS)
    ids, present = tokens.pad(), tokens.layout.present.long()
    other = theirs(
        ids, attention_mask=present, labels=ids.masked_fill(present == 0, -100),
        output_hidden_states=True, output_attentions=True,
    )  # fmt: skip
    logits, loss = model(tokens), language_model_loss(model, model.hidden(tokens), tokens)
    torch.testing.assert_close(logits, valid(other.logits), atol=2e-5, rtol=0)
    assert abs(loss - other.loss) < 1e-5
    trace = Trace(model, tokens)
    streams = [*(trace.entering_all(place) for place in trace.layers), trace.output]
    for stream, hidden in zip(streams, other.hidden_states, strict=True):
        torch.testing.assert_close(stream.values, valid(hidden), atol=1e-5, rtol=0)
    for layer, stream, attentions in zip(model.decoder.layers, streams, other.attentions, strict=False):
        for row, text in enumerate(TEXTS):
            size = len(text)
            steps = layer.steps(stream[row], slice(None), causal_mask(size, size))
            found = steps["self_attention.weights"]
            torch.testing.assert_close(found, attentions[row, :, :size, :size], atol=1e-5, rtol=0)
    loss.backward()
    other.loss.backward()
    gradients = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    expected = hub.read_weights(model.config, gradients)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_written_fields_and_weights_are_read_back(kind, changes):
    theirs = twin(kind, **changes)
    model = ours_of(theirs)
    fields = hub.write_config(model.config)
    again = {"LlamaForCausalLM": LlamaForCausalLM, "Qwen2ForCausalLM": Qwen2ForCausalLM}[fields["architectures"][0]]
    copy = again(again.config_class.from_dict(fields)).eval()
    missing, extra = copy.load_state_dict(hub.write_weights(model.config, model.state_dict()), strict=False)
    assert extra == []
    assert missing in ([], ["lm_head.weight"])
    copy.tie_weights()
    ids = torch.tensor([TEXTS[0]])
    torch.testing.assert_close(copy(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)


@given(st.lists(st.lists(st.integers(3, 28), min_size=1, max_size=8), min_size=1, max_size=4))
def test_any_prompts_at_any_step(rows):
    torch.manual_seed(3)
    model = built()
    state = model.start(Sequences.of_ids(rows))
    with torch.no_grad():
        for _ in range(3):
            tokens = torch.tensor([row[-1] for row in rows])
            logits, state = model.step(tokens, state)
            whole = model(Sequences.of_ids(rows)).split([len(row) for row in rows])
            expected = torch.stack([one[-1] for one in whole])
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
            rows = [[*row, int(token)] for row, token in zip(rows, logits.argmax(-1), strict=True)]


def test_greedy_answers_are_those_of_the_other_implementation():
    theirs = twin(LlamaForCausalLM, rope_parameters={"rope_type": "default", "rope_theta": 50.0})
    for text in TEXTS:
        given_ids = torch.tensor([text])
        theirs.generation_config.pad_token_id = 0
        written = theirs.generate(
            given_ids, attention_mask=torch.ones_like(given_ids), max_new_tokens=6, do_sample=False
        )[0].tolist()[len(text) :]
        [[answer]] = search(ours_of(theirs), Sequences.of_ids([text]), Search(None, 2, extra_length=6))
        assert list(answer.tokens) == (written[: written.index(2)] if 2 in written else written)


def test_every_step_of_a_trace_is_that_of_the_fast_run():
    model = built()
    trace = Trace(model, Sequences.of_ids(TEXTS))
    for place in trace.layers:
        for row in range(len(TEXTS)):
            assert trace.proof(place, row=row) < 1e-5
    weights = trace["decoder.layers.1.self_attention.weights"]
    assert weights.shape == (6, 7, 7)
    turned, before = (trace[f"decoder.layers.1.self_attention.{name}"] for name in ("queries", "unrotated_queries"))
    torch.testing.assert_close(turned.norm(dim=-1), before.norm(dim=-1))  # a rotation keeps lengths
    torch.testing.assert_close(turned[:, 0], before[:, 0])  # and position 0 is not turned
    assert not torch.allclose(turned[:, 3], before[:, 3])


@pytest.mark.parametrize(("name", "counted"), [("llama-7b", 6_738_415_616), ("smollm2-135m", 134_515_008)])
def test_presets_have_the_published_sizes(name, counted):
    with torch.device("meta"):
        model = Llama(PRESETS[name])
    assert model.count_parameters() == counted


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_type 'yarn' is not supported"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding_window 4096 is not supported"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window True is not supported"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"num_key_value_heads": 5}, "cannot share 5 heads of keys"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "llama3 needs low_freq_factor"),
    ],
)
def test_what_is_not_computed_is_refused(fields, match):
    with pytest.raises(RegardError, match=match):
        hub.read_config({"model_type": "llama", **SIZES, **fields})


def test_a_folder_gives_the_same_model_back(tmp_path):
    model = built(rope_scaling={"rope_type": "linear", "factor": 2.0}, attention_bias=True)
    model.save(tmp_path)
    back = Llama.load(tmp_path)
    assert back.config == model.config
    assert torch.equal(back(Sequences.of_ids(TEXTS)), model(Sequences.of_ids(TEXTS)))

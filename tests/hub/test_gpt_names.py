"""GPT folders in and out: what we write, transformers loads; what we cannot compute is refused by name."""

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2DoubleHeadsModel, GPT2LMHeadModel, OpenAIGPTConfig

from regard import RegardError, Sequences
from regard.hub import gpt as hub
from regard.models.base import check_weights
from regard.models.gpt import GPT, GPTConfig

SIZES = {"vocab_size": 29, "n_positions": 13, "n_embd": 12, "n_layer": 2, "n_head": 3}
IDS = torch.tensor([[5, 6, 7, 8, 3]])


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "OpenAIGPTLMHeadModel"),
        ({"activation_function": "silu", "labels": ("right",)}, "OpenAIGPTDoubleHeadsModel"),
        ({"normalize_before": True, "n_inner": 17, "scale_attn_weights": False}, "GPT2LMHeadModel"),
        ({"normalize_before": True, "tie_word_embeddings": False}, "GPT2LMHeadModel"),
        ({"normalize_before": True, "labels": ("a", "b"), "classifier_bias": False}, "GPT2ForSequenceClassification"),
    ],
)
def test_transformers_loads_what_we_write(tmp_path, changes, kind):
    model = GPT(GPTConfig(**{**SIZES, **changes})).eval()
    fields = hub.write_config(model.config)
    assert fields["architectures"] == [kind]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    save_file(hub.write_weights(model.config, model.state_dict()), tmp_path / "model.safetensors", {"format": "pt"})
    theirs, told = getattr(transformers, kind).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    other = theirs.eval()(IDS)
    tokens = Sequences.of_ids(IDS.tolist())
    if "ForSequence" in kind:
        assert (model.classify(tokens) - other.logits).abs().max() < 1e-5
        assert theirs.config.id2label == {0: "a", 1: "b"}
    else:
        assert (model(tokens) - other.logits[0]).abs().max() < 1e-5
    if "Double" in kind:
        assert (model.classify(tokens)[0] - other.mc_logits).abs().max() < 1e-5
    again = GPT(hub.read_config(json.loads((tmp_path / "config.json").read_text())))
    assert again.config.model_copy(update={"classifier_dropout": 0.1}) == model.config
    read = hub.read_weights(again.config, theirs.state_dict())
    check_weights(again, read, tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(read[name], value)


def test_a_folder_that_they_write_is_read(tmp_path):
    """Tied matrices are written once, under one of their names."""
    theirs = GPT2DoubleHeadsModel(GPT2Config(**SIZES, bos_token_id=1, eos_token_id=2)).eval()
    theirs.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "model.safetensors")
    config = hub.read_config(json.loads((tmp_path / "config.json").read_text()))
    model = GPT(config).eval()
    model.load_state_dict(hub.read_weights(config, weights))
    assert (model(Sequences.of_ids(IDS.tolist())) - theirs(IDS).logits[0]).abs().max() < 1e-5


def test_a_checkpoint_of_the_bare_model_is_read():
    """Without the prefix, with the mask as a buffer, as the first checkpoints were."""
    theirs = GPT2LMHeadModel(GPT2Config(**SIZES, bos_token_id=1, eos_token_id=2)).eval()
    bare = theirs.transformer.state_dict() | {"h.0.attn.bias": torch.ones(1, 1, 13, 13)}
    config = hub.read_config(theirs.config.to_dict())
    model = GPT(config).eval()
    model.load_state_dict(hub.read_weights(config, bare))
    assert (model(Sequences.of_ids(IDS.tolist())) - theirs(IDS).logits[0]).abs().max() < 1e-5


def test_what_is_missing_or_too_much_is_told_by_name(tmp_path):
    config = GPTConfig(**SIZES)
    weights = hub.write_weights(config, GPT(config).state_dict())
    weights["transformer.h.7.extra"] = weights.pop("transformer.h.1.ln_1.weight")
    found = hub.read_weights(config, weights)
    with pytest.raises(RegardError, match=r"unexpected transformer\.h\.7\.extra") as error:
        check_weights(GPT(config), found, tmp_path)
    assert "missing decoder.layers.1.self_attention_residual.norm.weight" in str(error.value)
    with pytest.raises(RegardError, match="no name in this format for nonsense"):
        hub.write_weights(config, {"nonsense": torch.ones(1)})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"add_cross_attention": True}, "add_cross_attention True is not supported, only False"),
        ({"activation_function": "gelu_python_tanh"}, "activation_function"),
        ({"architectures": ["GPT2ForTokenClassification"]}, "GPT2ForTokenClassification is not supported"),
        ({"architectures": ["GPT2DoubleHeadsModel"], "summary_activation": "tanh"}, "summary_activation 'tanh'"),
        ({"architectures": ["GPT2DoubleHeadsModel"], "summary_type": "mean"}, "summary_type 'mean'"),
        ({"n_head": 5}, "cannot be cut into 5 heads"),
    ],
)
def test_a_switch_that_is_not_computed_is_refused(change, told):
    fields = {**GPT2Config(**SIZES, bos_token_id=1, eos_token_id=2).to_dict(), **change}
    with pytest.raises(RegardError, match=told):
        hub.read_config(fields)


def test_what_the_format_cannot_say_is_refused():
    for change in ({"activation_function": "gelu"}, {"n_inner": 17}, {"labels": ("a", "b")}):
        [name] = change
        with pytest.raises(RegardError, match=f"cannot say {name}"):
            hub.write_config(GPTConfig(**{**SIZES, **change}))


def test_a_config_with_general_names_or_without_sizes_is_read():
    assert hub.read_config({"model_type": "gpt2"}).n_positions == GPT2Config().n_positions
    assert hub.read_config({"model_type": "openai-gpt"}).vocab_size == OpenAIGPTConfig().vocab_size
    general = {"model_type": "gpt2", "hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 2}
    config = hub.read_config(general | {"max_position_embeddings": 7, "eos_token_id": [3, 4]})
    assert (config.n_embd, config.n_layer, config.n_head, config.n_positions, config.eos_token_id) == (24, 5, 2, 7, 3)

"""GGUF files, written with the format's own library and read back."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

import regard
from regard import RegardError
from regard.hub import llama
from regard.models.llama import Llama, LlamaConfig
from regard.sequences import Sequences

NAMES = ["<unk>", "<s>", "</s>", *"▁abcdefghi", "▁a", "bc", "▁abc", "de"]
CONFIG = LlamaConfig(
    vocab_size=len(NAMES), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=500.0, bos_token_id=1,
    eos_token_id=2,
)  # fmt: skip
THEIRS = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.layers": "blk",
}  # fmt: skip


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's converter has it."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write(path, model, kind=GGMLQuantizationType.F32, architecture="llama", leave_out=(), **more):
    """A file as llama.cpp's converter would write it."""
    config, writer = model.config, GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_tokenizer_model(more.get("tokenizer", "llama"))
    writer.add_token_list(NAMES)
    writer.add_token_scores([0.0] * 3 + [-float(place) for place in range(len(NAMES) - 3)][::-1])
    writer.add_token_types([2, 3, 3] + [1] * (len(NAMES) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if "scaling" in more:
        writer.add_string(f"{architecture}.rope.scaling.type", more["scaling"])
    for name, value in llama.write_weights(config, model.state_dict()).items():
        array = value.numpy()
        if architecture == "llama" and ".q_proj." in name:
            array = permuted(array, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            array = permuted(array, config.key_value_heads)
        for ours, theirs in THEIRS.items():
            name = name.replace(ours, theirs)
        if name in leave_out:
            continue
        if array.ndim == 2:
            writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def model():
    torch.manual_seed(4)
    made = Llama(CONFIG).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


IDS = Sequences.of_ids([[1, 5, 6, 12, 14, 3]])


def test_a_file_gives_the_same_model_and_its_tokenizer(tmp_path, model):
    write(tmp_path / "a.gguf", model)
    loaded = regard.load(str(tmp_path / "a.gguf"))
    assert loaded.model.config == model.config
    torch.testing.assert_close(loaded.model(IDS), model(IDS), atol=1e-5, rtol=0)
    assert [loaded.tokenizer.inner.id_to_token(token) for token in loaded.check("abc de")] == ["<s>", "▁abc", "▁", "de"]
    assert loaded.tokenizer.decode(loaded.check("abc de")) == "abc de"


def test_weights_of_few_bits_are_read_as_what_they_stand_for(tmp_path, model):
    write(tmp_path / "a.gguf", model, GGMLQuantizationType.Q8_0)
    read = regard.load(str(tmp_path / "a.gguf")).model
    for name, value in model.state_dict().items():
        step = value.abs().max() / 127
        assert (read.state_dict()[name] - value).abs().max() <= step
    assert (read(IDS) - model(IDS)).abs().max() > 0


def test_qwen_has_its_own_order_of_channels_and_biases(tmp_path):
    torch.manual_seed(5)
    model = Llama(CONFIG.model_copy(update={"attention_bias": True})).eval()
    write(tmp_path / "a.gguf", model, architecture="qwen2")
    read = regard.load(str(tmp_path / "a.gguf")).model
    torch.testing.assert_close(read(IDS), model(IDS), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"architecture": "falcon"}, "general.architecture 'falcon' is not supported, only 'llama' or 'qwen2'"),
        ({"scaling": "yarn"}, "rope.scaling.type 'yarn' is not supported"),
        ({"tokenizer": "bert"}, "tokenizer.ggml.model 'bert' is not supported"),
        ({"leave_out": ("blk.1.ffn_up.weight",)}, r"missing decoder\.layers\.1\.feed_forward\.inner\.weight"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, model, changes, match):
    write(tmp_path / "a.gguf", model, **changes)
    with pytest.raises(RegardError, match=match):
        regard.load(str(tmp_path / "a.gguf"))


def test_what_is_no_such_file_is_told(tmp_path, model):
    with pytest.raises(RegardError, match="there is no file"):
        regard.load(str(tmp_path / "a.gguf"))
    (tmp_path / "a.gguf").write_bytes(b"GGUF nothing")
    with pytest.raises(RegardError, match="damaged or not a GGUF file"):
        regard.load(str(tmp_path / "a.gguf"))
    write(tmp_path / "b.gguf", model)
    whole = (tmp_path / "b.gguf").read_bytes()
    (tmp_path / "b.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RegardError, match="damaged or not a GGUF file"):
        regard.load(str(tmp_path / "b.gguf"))

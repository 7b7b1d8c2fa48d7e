"""Marian, Pegasus, BART and T5 against implementations that nobody here wrote: same weights, ragged against padded."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PegasusConfig,
    PegasusForConditionalGeneration,
    T5ForConditionalGeneration,
)
from transformers import T5Config as TheirT5Config

from regard import RegardError, Sequences, Transformer, TransformerConfig
from regard.explain.trace import Trace
from regard.generation.search import Search, search
from regard.hub import bart, t5
from regard.models.base import Model
from regard.models.t5 import PRESETS, T5, T5Config

SOURCES = [[5, 6, 7, 8, 2], [9, 2], [11, 12, 13, 2]]
TARGETS = [[4, 5, 2], [10, 11, 12, 13, 14, 2], [2]]
SIZES = {
    "vocab_size": 29, "d_model": 12, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "dropout": 0.0,
    "max_position_embeddings": 32, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1, "decoder_start_token_id": 3,
    "forced_eos_token_id": None, "forced_bos_token_id": None,
}  # fmt: skip
T5_SIZES = {
    "vocab_size": 29, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 3,
    "relative_attention_num_buckets": 6, "relative_attention_max_distance": 9, "dropout_rate": 0.0, "pad_token_id": 0,
    "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip
CONFIGS = {
    MarianMTModel: (MarianConfig, SIZES, bart),
    PegasusForConditionalGeneration: (PegasusConfig, SIZES, bart),
    BartForConditionalGeneration: (BartConfig, SIZES, bart),
    T5ForConditionalGeneration: (TheirT5Config, T5_SIZES, t5),
}
KINDS = {"marian": Transformer, "pegasus": Transformer, "bart": Transformer, "t5": T5}
SCALED_RELU = {"scale_embedding": True, "activation_function": "relu"}
CASES = [
    pytest.param(MarianMTModel, {"scale_embedding": True, "activation_function": "swish"}, id="marian"),
    pytest.param(MarianMTModel, {"scale_embedding": False, "activation_function": "relu"}, id="marian-unscaled"),
    pytest.param(PegasusForConditionalGeneration, SCALED_RELU, id="pegasus"),
    pytest.param(BartForConditionalGeneration, {}, id="bart"),
    pytest.param(BartForConditionalGeneration, SCALED_RELU, id="bart-scaled"),
    pytest.param(T5ForConditionalGeneration, {}, id="t5"),
    pytest.param(
        T5ForConditionalGeneration,
        {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "layer_norm_epsilon": 0.1},
        id="t5-1.1",
    ),
    pytest.param(T5ForConditionalGeneration, {"feed_forward_proj": "gelu", "d_kv": 4}, id="t5-gelu"),
    pytest.param(T5ForConditionalGeneration, {"feed_forward_proj": "gated-silu"}, id="t5-gated-silu"),
]  # fmt: skip


def twin(kind: type, **changes: object) -> torch.nn.Module:
    """Their model with random weights; biases and norms too, so that none of them goes unnoticed."""
    config_class, sizes, _ = CONFIGS[kind]
    model = kind(config_class(**{**sizes, "attn_implementation": "eager", **changes})).eval()
    if changes.get("tie_word_embeddings") is False:  # transformers ties them until a folder says otherwise
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name or kind is BartForConditionalGeneration:
                parameter.add_(0.2 * torch.randn_like(parameter))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    model.generation_config.forced_bos_token_id = changes.get("forced_bos_token_id")
    return model


def ours_of(theirs: torch.nn.Module) -> Model:
    fields = theirs.config.to_dict() | {"forced_bos_token_id": theirs.generation_config.forced_bos_token_id}
    hub = CONFIGS[type(theirs)][2]
    config = hub.read_config({**fields, "architectures": [type(theirs).__name__]})
    model = KINDS[fields["model_type"]](config).eval()
    model.load_state_dict(hub.read_weights(config, theirs.state_dict()))
    return model


def valid(values: torch.Tensor, rows: list[list[int]]) -> torch.Tensor:
    return torch.cat([row[: len(text)] for row, text in zip(values, rows, strict=True)])


def inputs_of(model: Model) -> tuple[Sequences, Sequences, torch.Tensor]:
    """Source, what the decoder reads, and what it should answer."""
    begun = [[model.config.bos_token_id, *row[:-1]] for row in TARGETS]
    return Sequences.of_ids(SOURCES), Sequences.of_ids(begun), Sequences.of_ids(TARGETS).values


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_all_numbers_are_those_of_the_other_implementation(kind, changes):
    theirs = twin(kind, **changes)
    model = ours_of(theirs)
    source, target, answers = inputs_of(model)
    other = theirs(
        source.pad(), attention_mask=source.layout.present.long(), decoder_input_ids=target.pad(),
        decoder_attention_mask=target.layout.present.long(),
        labels=Sequences.of_ids(TARGETS).pad().masked_fill(~target.layout.present, -100),
        output_hidden_states=True, output_attentions=True,
    )  # fmt: skip
    logits = model(source, target)
    torch.testing.assert_close(logits, valid(other.logits, TARGETS), atol=1e-5, rtol=1e-5)
    loss = F.cross_entropy(logits, answers)
    assert abs(loss - other.loss) < 1e-5
    trace = Trace(model, source, target)
    for side, rows in (("encoder", SOURCES), ("decoder", TARGETS)):
        states, attentions = getattr(other, f"{side}_hidden_states"), getattr(other, f"{side}_attentions")
        places = [place for place in trace.layers if place.startswith(side)]
        streams = [trace.entering_all(place).values for place in places]
        streams += [trace.memory.values if side == "encoder" else trace.output.values]
        if kind is PegasusForConditionalGeneration:  # its last state is taken before the last norm, in one place
            states, streams = states[:-1], streams[:-1]
        for stream, state in zip(streams, states, strict=True):
            torch.testing.assert_close(stream, valid(state, rows), atol=1e-5, rtol=1e-5)
        for number, place in enumerate(places):
            for row, text in enumerate(rows):
                steps, size = trace.steps(place, row=row), len(text)
                found = steps["self_attention.weights"]
                torch.testing.assert_close(found, attentions[number][row, :, :size, :size], atol=1e-5, rtol=0)
                assert trace.proof(place, row=row) < 1e-4
                if side == "decoder":
                    seen = other.cross_attentions[number][row, :, :size, : len(SOURCES[row])]
                    torch.testing.assert_close(steps["cross_attention.weights"], seen, atol=1e-5, rtol=0)
    loss.backward()
    other.loss.backward()
    gradients = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    expected = CONFIGS[kind][2].read_weights(model.config, gradients)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *CASES[:3],
        pytest.param(T5ForConditionalGeneration, {"num_decoder_layers": 2}, id="t5"),
        pytest.param(BartForConditionalGeneration, {"forced_bos_token_id": 7}, id="bart-forced"),
    ],
)
def test_answers_are_those_of_the_other_implementation(kind, changes, beams):
    theirs = twin(kind, **changes)
    model = ours_of(theirs)
    how = Search.of_translator(model.config, beams, length_penalty=0.0)
    for source in SOURCES:
        ids = torch.tensor([source])
        written = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_length=8, num_beams=beams, do_sample=False,
            length_penalty=0.0, bad_words_ids=[[token] for token in how.forbidden],
            early_stopping=False,
        )[0].tolist()[1:]  # fmt: skip
        written = written[: written.index(2)] if 2 in written else written
        limited = Search(
            how.bos, how.eos, beams, 0.0, extra_length=50, limit=7, forbidden=how.forbidden, first=how.first
        )
        [[best, *_]] = search(model, Sequences.of_ids([source]), limited)
        assert list(best.tokens) == written
        assert how.first is None or best.tokens[0] == how.first


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_written_fields_and_weights_are_read_back(kind, changes, tmp_path):
    theirs = twin(kind, **changes)
    model, hub = ours_of(theirs), CONFIGS[kind][2]
    copy = loaded(kind, hub.write_config(model.config), hub.write_weights(model.config, model.state_dict()), tmp_path)
    ids, begun = torch.tensor([SOURCES[0]]), torch.tensor([[3, 4, 5]])
    expected = theirs(ids, decoder_input_ids=begun).logits
    torch.testing.assert_close(copy(ids, decoder_input_ids=begun).logits, expected, atol=1e-5, rtol=1e-5)


def loaded(kind, fields, weights, folder):
    """What transformers makes of a folder."""
    (folder / "config.json").write_text(json.dumps(fields))
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return kind.from_pretrained(folder).eval()


@pytest.mark.parametrize(("before", "kind"), [(False, MarianMTModel), (True, PegasusForConditionalGeneration)])
def test_a_transformer_of_ours_is_written_with_its_channels_in_another_order(before, kind, tmp_path):
    config = TransformerConfig(
        vocab_size=29, d_model=12, encoder_layers=2, decoder_layers=3, attention_heads=3, ffn_dim=20,
        normalize_before=before, max_position_embeddings=32,
    )  # fmt: skip
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    copy = loaded(kind, bart.write_config(config), bart.write_weights(config, model.state_dict()), tmp_path)
    begun = [1, 4, 5, 9]
    ours = model(Sequences.of_ids([SOURCES[0]]), Sequences.of_ids([begun]))
    theirs = copy(torch.tensor([SOURCES[0]]), decoder_input_ids=torch.tensor([begun])).logits[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("hub", "fields", "match"),
    [
        (bart, {"model_type": "marian", "share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings"),
        (bart, {"model_type": "bart", "architectures": ["BartForSequenceClassification"]}, "BartForSequence"),
        (bart, {"model_type": "bart", "decoder_ffn_dim": 7}, "decoder_ffn_dim 7 is not supported, only 4096"),
        (t5, {"model_type": "t5", "architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
        (t5, {"model_type": "t5", "feed_forward_proj": "gated-tanh"}, "activation_function"),
    ],
)
def test_what_is_not_computed_is_refused(hub, fields, match):
    with pytest.raises(RegardError, match=match):
        hub.read_config(fields)


def test_no_format_can_say_everything():
    with pytest.raises(RegardError, match="this format cannot say normalize_embedding True"):
        bart.write_config(TransformerConfig(vocab_size=29, normalize_embedding=True))


@pytest.mark.parametrize(("name", "counted"), [("t5-small", 60_506_624), ("t5-base", 222_903_552)])
def test_presets_have_the_published_sizes(name, counted):
    with torch.device("meta"):
        model = T5(PRESETS[name])
    assert model.count_parameters() == counted


def test_a_folder_gives_the_same_model_back(tmp_path):
    torch.manual_seed(1)
    model = T5(T5Config(vocab_size=29, d_model=12, d_kv=4, d_ff=16, encoder_layers=1, decoder_layers=1, num_heads=2))
    model.eval().save(tmp_path)
    source, target, _ = inputs_of(model)
    assert torch.equal(T5.load(tmp_path)(source, target), model(source, target))

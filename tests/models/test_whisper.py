"""Whisper against transformers' on the same random weights: states, attention, logits, greedy answers."""

import pytest
import torch
from transformers import WhisperConfig as TheirConfig
from transformers import WhisperForConditionalGeneration

from regard import RegardError, Sequences
from regard.explain.trace import Trace
from regard.generation.search import Search, search
from regard.hub import whisper
from regard.models.whisper import PRESETS, Whisper, WhisperConfig

SIZES = {
    "vocab_size": 41, "num_mel_bins": 7, "d_model": 12, "encoder_layers": 2, "decoder_layers": 3,
    "encoder_attention_heads": 3, "decoder_attention_heads": 3, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20,
    "max_source_positions": 11, "max_target_positions": 17, "pad_token_id": 2, "eos_token_id": 2, "bos_token_id": 2,
    "decoder_start_token_id": 3, "suppress_tokens": [4, 9], "begin_suppress_tokens": [2, 5],
}  # fmt: skip
PROMPT = [3, 8, 6]
TARGETS = [[*PROMPT, 10, 11, 12], [*PROMPT, 13]]


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(1)
    model = WhisperForConditionalGeneration(TheirConfig(**SIZES, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "encoder.embed_positions" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def ours(theirs):
    fields = {**theirs.config.to_dict(), **SIZES, "forced_decoder_ids": list(enumerate(PROMPT[1:], start=1))}
    config = whisper.read_config({**fields, "architectures": ["WhisperForConditionalGeneration"]})
    model = Whisper(config).eval()
    model.load_state_dict(whisper.read_weights(config, theirs.state_dict()))
    return model


def sounds(lengths: tuple[int, ...] = (11, 11)) -> Sequences:
    torch.manual_seed(2)
    return Sequences.of([torch.randn(length, 2, 7) for length in lengths])


def spectra(source: Sequences) -> torch.Tensor:
    """As transformers takes them: (rows, bands, 10 ms steps)."""
    return source.pad().flatten(1, 2).transpose(1, 2)


def test_all_numbers_are_those_of_transformers(theirs, ours):
    source, target = sounds(), Sequences.of_ids(TARGETS)
    with torch.no_grad():
        other = theirs(
            input_features=spectra(source), decoder_input_ids=target.pad(), output_hidden_states=True,
            output_attentions=True,
        )  # fmt: skip
    trace = Trace(ours, source, target)
    for side, rows in (("encoder", [11, 11]), ("decoder", [6, 4])):
        states = getattr(other, f"{side}_hidden_states")
        places = trace.stack(side)
        streams = [trace.entering_all(place).values for place in places]
        streams.append((trace.memory if side == "encoder" else trace.output).values)
        assert len(states) == len(streams)
        for mine, other_state in zip(streams, states, strict=True):
            expected = torch.cat([row[:length] for row, length in zip(other_state, rows, strict=True)])
            torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)
        for place, weights in zip(places, getattr(other, f"{side}_attentions"), strict=True):
            for row, length in enumerate(rows):
                mine = trace.steps(place, row=row)["self_attention.weights"]
                torch.testing.assert_close(mine, weights[row, :, :length, :length], atol=1e-5, rtol=0)
    for place, weights in zip(trace.stack("decoder"), other.cross_attentions, strict=True):
        for row, length in enumerate([6, 4]):
            mine = trace.steps(place, row=row)["cross_attention.weights"]
            torch.testing.assert_close(mine, weights[row, :, :length], atol=1e-5, rtol=0)
    logits = torch.cat([row[:length] for row, length in zip(other.logits, [6, 4], strict=True)])
    torch.testing.assert_close(ours(source, target), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_greedy_answers_are_those_of_transformers(theirs, ours):
    theirs.generation_config.update(
        decoder_start_token_id=3, eos_token_id=2, pad_token_id=2, suppress_tokens=[4, 9], begin_suppress_tokens=[2, 5],
        forced_decoder_ids=None, max_length=17,
    )  # fmt: skip
    source = sounds()
    prompt = torch.tensor([PROMPT] * 2)
    written = theirs.generate(input_features=spectra(source), decoder_input_ids=prompt, do_sample=False, num_beams=1)
    config = ours.config
    how = Search(
        config.bos_token_id, config.eos_token_id, limit=17 - len(PROMPT), forbidden=config.forbidden,
        forbidden_first=config.forbidden_first,
    )  # fmt: skip
    for [answer], expected in zip(search(ours, source, how), written.tolist(), strict=True):
        new = expected[len(PROMPT) :] if expected[: len(PROMPT)] == PROMPT else expected
        new = new[: new.index(2)] if 2 in new else new
        assert list(answer.tokens) == new
        assert not {4, 9} & set(new)
        assert new[0] not in (2, 5)


def test_recordings_of_other_lengths_in_a_batch_change_nothing(ours):
    source, target = sounds((11, 3, 7)), Sequences.of_ids([[3, 8, 6, 7], [3, 8], [3, 8, 6]])
    together = ours.encode(source)
    for row, sound in enumerate(source):
        alone = Sequences.of([sound])
        torch.testing.assert_close(together[row], ours.encode(alone).values, atol=1e-5, rtol=0)
        one = Sequences.of([target[row]])
        torch.testing.assert_close(ours.decode(target, together)[row], ours.decode(one, ours.encode(alone)).values,
                                   atol=1e-5, rtol=0)  # fmt: skip


def test_step_by_step_is_all_at_once(ours):
    """The prompt is read by `start`; what follows gives the logits of teacher forcing."""
    source, words = sounds((11, 6)), [10, 11, 12]
    state, token = ours.start(source), torch.full((2,), ours.config.bos_token_id)
    expected = ours(source, Sequences.of_ids([[*PROMPT, *words]] * 2)).view(2, -1, 41)[:, len(PROMPT) - 1 :]
    for place, word in enumerate([*words, 0]):
        logits, state = ours.step(token, state)
        torch.testing.assert_close(logits, expected[:, place], atol=1e-5, rtol=0)
        token = torch.full((2,), word)


def test_gradients_reach_every_weight():
    sizes = {name: value for name, value in SIZES.items() if name in WhisperConfig.model_fields}
    model = Whisper(WhisperConfig(**sizes, attention_heads=3, ffn_dim=20, prompt=(3,)))
    model(sounds(), Sequences.of_ids([[3, 5], [3, 6]])).square().sum().backward()
    assert [name for name, one in model.named_parameters() if one.grad is None or not one.grad.abs().sum()] == []


def test_what_is_too_long_or_does_not_fit_is_told(ours):
    with pytest.raises(RegardError, match="12 positions of sound are too long: the model takes 11"):
        ours.encode(sounds((12,)))
    with pytest.raises(RegardError, match="cannot be cut into 5 heads"):
        whisper.read_config({"d_model": 12, "encoder_attention_heads": 5, "decoder_attention_heads": 5})
    with pytest.raises(RegardError, match="scale_embedding True is not supported"):
        whisper.read_config({"scale_embedding": True})
    with pytest.raises(RegardError, match="the prompt"):
        whisper.read_config({"vocab_size": 20})


@pytest.mark.parametrize(("name", "millions"), [("whisper-tiny", 38), ("whisper-base", 73), ("whisper-large", 1541)])
def test_presets_have_the_sizes_of_the_paper(name, millions):
    """Table 1 says 39, 74 and 1550 M."""
    with torch.device("meta"):
        assert abs(Whisper(PRESETS[name]).count_parameters() / 1e6 - millions) < 2

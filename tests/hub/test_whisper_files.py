"""Whisper's folders: as transformers writes and reads them, and CTranslate2's file, written here byte by byte."""

import json
import struct
import wave

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import WhisperForConditionalGeneration
from typer.testing import CliRunner

import regard
from regard import RegardError, Sequences
from regard.cli import app
from regard.hub import ctranslate2
from regard.hub.huggingface import write_folder
from regard.modalities.subwords import Special, Subwords
from regard.models.whisper import Whisper, WhisperConfig

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
NAMES = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>", *LETTERS]
CONFIG = WhisperConfig(
    vocab_size=len(NAMES), num_mel_bins=80, d_model=16, encoder_layers=2, decoder_layers=2, attention_heads=2,
    ffn_dim=24, max_source_positions=100, max_position_embeddings=24, prompt=(1, 2), forbidden=(7, 8, 1),
    forbidden_first=(0,), pad_token_id=0, eos_token_id=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(6)
    made = Whisper(CONFIG).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
            if name.endswith("projection.bias"):
                parameter[16:32] = 0  # keys have none
    return made


@pytest.fixture(scope="module")
def tokenizer():
    inner = Tokenizer(models.BPE({name: number for number, name in enumerate(NAMES)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(NAMES[:3])
    return Subwords(inner, Special(1, 0, 0))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "tone.wav"
    tone = (np.sin(np.arange(8000) * 0.3) * 9000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(tone.tobytes())
    return path


def packed(name: str, value: np.ndarray) -> bytes:
    kind = {"float32": 0, "int8": 1, "int16": 2, "float16": 4}[str(value.dtype)]
    head = struct.pack("<H", len(name) + 1) + name.encode() + b"\0" + struct.pack("<B", value.ndim)
    shape = b"".join(struct.pack("<I", size) for size in value.shape)
    return head + shape + struct.pack("<BI", kind, value.nbytes) + value.tobytes()


def write(folder, model, tokenizer, storage="float32", leave_out=(), version=6, **settings) -> None:
    """A folder of CTranslate2's kind; int8 weights with a scale for each row."""
    folder.mkdir(exist_ok=True)
    values = {"encoder/position_encodings/encodings": model.positions.encoding(torch.arange(100))}
    state = model.state_dict()
    for ours, theirs in ctranslate2._names(CONFIG).items():
        sizes = [len(state[ours])] if len(theirs) == 1 else [16, 32]
        values.update(zip(theirs, state[ours].split(sizes), strict=True))
    found = {"decoder/num_heads": np.int16(2), "encoder/num_heads": np.int16(2), "decoder/pre_norm": np.int8(1)}
    found |= {name.replace("__", "/"): np.int8(value) for name, value in settings.items()}
    for name, value in values.items():
        if storage == "int8" and name.endswith("/weight") and "conv" not in name:
            scale = 127 / value.abs().amax(dim=1)
            found[name] = (value * scale[:, None]).round().to(torch.int8).numpy()
            found[f"{name}_scale"] = scale.numpy()
        elif storage == "int16" and name.endswith("/weight") and "conv" not in name:
            one = 1023 / value.abs().max()
            found[name], found[f"{name}_scale"] = (value * one).round().to(torch.int16).numpy(), one.numpy()
        else:
            found[name] = value.numpy().astype("float16" if storage == "float16" else "float32")
    kept = {name: np.asarray(value) for name, value in found.items() if name not in leave_out}
    body = b"".join(packed(name, value) for name, value in kept.items())
    alias = b"".join(struct.pack("<H", len(name) + 1) + name.encode() + b"\0"
                     for name in ("decoder/projection/weight", "decoder/embeddings/weight"))  # fmt: skip
    head = struct.pack("<I", version) + struct.pack("<H", 12) + b"WhisperSpec\0" + struct.pack("<II", 3, len(kept))
    (folder / "model.bin").write_bytes(head + body + struct.pack("<I", 1) + alias)
    config = {"suppress_ids": [7, 8, 1], "suppress_ids_begin": [0], "alignment_heads": [[1, 0]]}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(folder)


@pytest.mark.parametrize(("storage", "close"), [("float32", 0.0), ("float16", 2e-3), ("int16", 2e-3), ("int8", 2e-2)])
def test_ctranslate2_weights_are_read_as_what_they_stand_for(tmp_path, model, tokenizer, storage, close):
    write(tmp_path, model, tokenizer, storage)
    loaded = regard.load(str(tmp_path))
    assert loaded.model.config == CONFIG
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], value, atol=close, rtol=0)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"version": 5}, "version 5 is not supported, only 6"),
        ({"decoder__pre_norm": 0}, "decoder/pre_norm 0 is not supported"),
        (
            {"leave_out": ("encoder/conv1/bias", "decoder/layer_1/ffn/linear_0/weight")},
            r"missing decoder\.layers\.1\.feed_forward\.inner\.weight; missing hearing\.first\.bias",
        ),
        ({"leave_out": ("encoder/num_heads",)}, "has no encoder/num_heads"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, model, tokenizer, changes, match):
    write(tmp_path, model, tokenizer, **changes)
    with pytest.raises(RegardError, match=match):
        regard.load(str(tmp_path))


def test_a_file_that_was_cut_off_is_damaged(tmp_path, model, tokenizer):
    write(tmp_path, model, tokenizer)
    whole = (tmp_path / "model.bin").read_bytes()
    for size in (2, 9, 40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "model.bin").write_bytes(whole[:size])
        with pytest.raises(RegardError, match="damaged"):
            regard.load(str(tmp_path))
    (tmp_path / "model.bin").write_bytes(whole + b"more")
    with pytest.raises(RegardError, match="4 bytes follow its end"):
        regard.load(str(tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_a_folder_goes_to_transformers_and_back(tmp_path, model, tokenizer):
    write_folder(model, tokenizer, tmp_path / "out")
    theirs = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    sound, begun = torch.randn(100, 2, 80), [1, 2, 9, 12]
    with torch.no_grad():
        spectra = sound.flatten(0, 1).T[None]
        expected = theirs(input_features=spectra, decoder_input_ids=torch.tensor([begun])).logits[0]
        found = model(Sequences.of([sound]), Sequences.of_ids([begun]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    theirs.save_pretrained(tmp_path / "again")
    tokenizer.save(tmp_path / "again")
    again = regard.load(str(tmp_path / "again"))
    assert again.model.config == CONFIG
    for name, value in model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)


def test_a_recording_is_written_down_and_traced(tmp_path, model, tokenizer, recording):
    write(tmp_path, model, tokenizer)
    loaded = regard.load(str(tmp_path))
    samples = loaded.samples(recording)
    assert len(samples) == 16000
    [text] = loaded.transcribe([recording])
    assert loaded.transcribe([samples, samples], beams=1) == [text, text]
    assert len(loaded.hypotheses([samples], beams=3)[0]) == 3
    trace = loaded.trace([recording])
    assert max(trace.proof(place) for place in trace.layers) < 1e-5
    words = trace.words()
    assert [word.text for word in words[:3]] == ["0.00 s", "0.02 s", "0.04 s"]
    assert (len(words), words[-1].text, words[-1].number, len(words[-1].places)) == (51, "silence", None, 50)
    assert trace["encoder.embedding.first"].shape == (100, 32)
    torch.testing.assert_close(trace["encoder.embedding.output"], trace.hidden(0), atol=1e-5, rtol=0)


def test_the_views_show_it_or_say_why_not(tmp_path, model, tokenizer, recording):
    write(tmp_path, model, tokenizer)
    loaded = regard.load(str(tmp_path))
    views = ["walkthrough", "alignment", "lens", "heads", "generation"]
    for result in loaded.ask(views, recording, beams=2):
        assert result.title
        assert result.blocks()
        json.dumps(result.to_dict())
        assert result.to_html()
    for kind in ("encoder", "decoder", "cross"):
        assert loaded.ask(["walkthrough", "heads"], recording, kind=kind)
    assert loaded.explain(recording, recording).walkthrough.difference < 1e-5
    for view in ("similarity", "context", "contribution", "attribution"):
        with pytest.raises(RegardError, match=f"{view} is about words that a model reads, and this one hears"):
            loaded.ask([view], recording)
    with pytest.raises(RegardError, match="sweep heads"):
        loaded.ask(["intervention"], recording, recording, sweep="patches")
    with pytest.raises(RegardError, match=r"3\.0 s, more than the 2 s that .* hears at once"):
        loaded.transcribe([torch.zeros(48000)])
    with pytest.raises(RegardError, match="empty"):
        loaded.transcribe([torch.zeros(0)])


def test_the_command_line_listens(tmp_path, model, tokenizer, recording):
    write(tmp_path, model, tokenizer)
    ended = CliRunner().invoke(app, ["run", str(tmp_path), str(recording), "--jsonl"])
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["answer"] == regard.load(str(tmp_path)).transcribe([recording])[0]
    ended = CliRunner().invoke(app, ["run", str(tmp_path), str(recording), "--precision", "int8"])
    assert ended.exit_code == 0, ended.output
    assert ended.stdout == regard.load(str(tmp_path), "int8").transcribe([recording])[0] + "\n"
    ended = CliRunner().invoke(app, ["explain", str(tmp_path), str(recording), "--view", "alignment"])
    assert ended.exit_code == 0, ended.output
    assert "Cross-attention" in ended.stdout

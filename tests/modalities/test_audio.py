"""Recordings and their spectrograms: against transformers' feature extractor, and by what must come out."""

import wave

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from regard import RegardError
from regard.modalities.audio import RATE, log_mel, mel_filters, read_recording, resample


def sound(seconds: float, rate: int = RATE) -> torch.Tensor:
    """A voice-like sound: a few harmonics that glide and swell, and some noise."""
    time = torch.arange(int(seconds * rate)) / rate
    tones = sum((140 * place * time * (1 + 0.1 * time)).mul(6.2832).sin() / place for place in range(1, 9))
    return 0.2 * tones * (3 * time).sin().abs() + 0.01 * torch.randn(len(time))


def write(path, samples: torch.Tensor, rate: int, width: int = 2, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        if width == 1:
            data = bytes(((samples + 1) * 127.5).round().to(torch.uint8).tolist())
        else:
            whole = (samples.double() * ((1 << 8 * width - 1) - 1)).round().long().tolist()
            data = b"".join(value.to_bytes(width, "little", signed=True) for value in whole)
        file.writeframes(data)


@pytest.mark.parametrize("bands", [80, 128])
@pytest.mark.parametrize("seconds", [0.013, 1.7, 30.0])
def test_the_spectrogram_is_that_of_transformers(bands, seconds):
    samples = sound(seconds)
    theirs = WhisperFeatureExtractor(feature_size=bands)(samples.numpy(), sampling_rate=RATE, return_tensors="pt")
    ours = log_mel(samples, 1500, bands)
    assert ours.shape == (1500, 2, bands)
    torch.testing.assert_close(ours.flatten(0, 1).T, theirs["input_features"][0], atol=2e-5, rtol=0)


def test_a_tone_is_loudest_in_the_band_of_its_pitch():
    for hertz in (300, 1000, 3500):
        tone = (torch.arange(RATE) / RATE * hertz * 6.283185307).sin()
        band = int(log_mel(tone).mean(dim=(0, 1)).argmax())
        peak = int(mel_filters()[band].argmax()) * RATE / 400
        assert abs(peak - hertz) < 0.06 * hertz + 40


@given(st.integers(1, 5000))
def test_every_length_becomes_whole_positions(samples):
    found = log_mel(0.1 * torch.randn(samples))
    assert found.shape == (-(-samples // 320), 2, 80)
    assert found.isfinite().all()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_any_width_are_read_as_they_are(tmp_path, width):
    samples = sound(0.1).clamp(-1, 1)
    write(tmp_path / "a.wav", samples, RATE, width)
    step = {1: 1 / 100, 2: 1e-4, 3: 1e-6, 4: 1e-6}[width]
    torch.testing.assert_close(read_recording(tmp_path / "a.wav"), samples, atol=step, rtol=0)


def test_channels_become_their_mean(tmp_path):
    left, right = sound(0.1), torch.zeros(1600)
    write(tmp_path / "a.wav", torch.stack([left, right], dim=1).flatten(), RATE, channels=2)
    torch.testing.assert_close(read_recording(tmp_path / "a.wav"), left / 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_another_rate_is_the_same_sound(tmp_path, rate):
    """A tone stays that tone: same pitch, strength and phase, away from the ends."""
    tone = (torch.arange(rate) / rate * 440 * 6.283185307).sin() * 0.5
    write(tmp_path / "a.wav", tone, rate)
    heard = read_recording(tmp_path / "a.wav")
    expected = (torch.arange(RATE) / RATE * 440 * 6.283185307).sin() * 0.5
    assert len(heard) == RATE
    torch.testing.assert_close(heard[400:-400], expected[400:-400], atol=2e-3, rtol=0)
    assert len(resample(torch.empty(0), rate)) == 0


def test_what_is_no_recording_is_told(tmp_path):
    with pytest.raises(RegardError, match="there is no recording"):
        read_recording(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes(b"RIFF nothing at all")
    with pytest.raises(RegardError, match="no WAV file that can be read"):
        read_recording(tmp_path / "a.wav")
    write(tmp_path / "b.wav", sound(0.1), 4000)
    with pytest.raises(RegardError, match="4000 samples a second"):
        read_recording(tmp_path / "b.wav")
    with pytest.raises(RegardError, match="empty"):
        log_mel(torch.empty(0))
    with pytest.raises(RegardError, match=r"31\.0 s, more than the 30 s"):
        log_mel(torch.zeros(31 * RATE), 1500)
    with pytest.raises(RegardError, match="not numbers"):
        log_mel(torch.tensor([0.0, float("nan")]))

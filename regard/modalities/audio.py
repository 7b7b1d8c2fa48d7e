"""Sound to a log-mel spectrogram, as Whisper hears it (Radford et al. 2022, section 2.2).

16,000 samples a second; a spectrum over 25 ms (400 samples, Hann window) every 10 ms; its power in 80 bands that are
narrow where the ear tells pitches apart well (mel); the logarithm to base 10, at most 8 (80 dB) below the loudest of
the recording, brought to about -1 to 1. The encoder of a Whisper makes one vector of every two spectra, so they stand
in pairs here: a position is 20 ms.

    >>> heard = log_mel(read_recording(Path("speech.wav")))    # (positions, 2, 80)
"""

from __future__ import annotations

import wave
from functools import cache
from math import gcd
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError

RATE = 16_000
"""Samples a second."""
WINDOW, HOP = 400, 160
"""Samples of a spectrum, and from one to the next."""
POSITION = 2 * HOP
"""Samples of a position of the encoder."""
SECONDS_A_POSITION = POSITION / RATE
_SPEECH_RATE = 8_000  # the least that speech is recorded with; below, words cannot be told


def read_recording(path: Path) -> Float[Tensor, "samples"]:
    """A WAV file (PCM of 8 to 32 bits) as samples from -1 to 1 at 16 kHz; several channels become their mean.

    Raises RegardError where there is no such file, or one that holds something else.
    """
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            samples = _samples(file.readframes(file.getnframes()), width)
    except FileNotFoundError as error:
        raise RegardError(f"there is no recording {path}") from error
    except (wave.Error, EOFError, OSError) as error:
        raise RegardError(f"{path} is no WAV file that can be read (PCM, 8 to 32 bits): {error}") from error
    if rate < _SPEECH_RATE:
        raise RegardError(f"{path} has {rate} samples a second; speech needs {_SPEECH_RATE} or more")
    whole = len(samples) // channels * channels  # a file that was cut off may end within a moment
    return resample(samples[:whole].view(-1, channels).mean(dim=1), rate)


def resample(samples: Float[Tensor, "samples"], rate: int) -> Float[Tensor, "resampled"]:
    """The same sound with 16,000 samples a second instead of `rate`, through a low-pass filter."""
    if rate == RATE or not len(samples):
        return samples
    from scipy.signal import resample_poly

    shared = gcd(rate, RATE)
    return torch.from_numpy(resample_poly(samples.numpy(), RATE // shared, rate // shared)).float()


def log_mel(
    samples: Float[Tensor, "samples"], positions: int | None = None, bands: int = 80
) -> Float[Tensor, "positions 2 bands"]:
    """The spectrogram of a recording, filled up with silence to so many positions (1500 are Whisper's 30 s).

    Raises RegardError for a recording that is empty, holds what is no number, or is longer than that.
    """
    if not len(samples):
        raise RegardError("the recording is empty: it has no sample")
    if not bool(samples.isfinite().all()):
        raise RegardError("the recording holds samples that are not numbers")
    room = (-(-len(samples) // POSITION) if positions is None else positions) * POSITION
    if len(samples) > room:
        raise RegardError(
            f"the recording has {len(samples) / RATE:.1f} s, more than the {room / RATE:g} s that are heard at once: "
            "cut it into parts"
        )
    filled = F.pad(samples.float(), (0, max(room, WINDOW) - len(samples)))
    window = torch.hann_window(WINDOW, device=samples.device)
    spectra = torch.stft(filled, WINDOW, HOP, window=window, return_complex=True)[:, : room // HOP]
    power = mel_filters(bands).to(samples.device) @ spectra.abs().square()
    loudness = power.clamp_min(1e-10).log10()
    scaled = (loudness.maximum(loudness.max() - 8.0) + 4.0) / 4.0
    return scaled.T.reshape(-1, 2, bands).contiguous()


@cache
def mel_filters(bands: int = 80) -> Float[Tensor, "bands frequencies"]:
    """How much of each frequency of a spectrum (0 to 8 kHz) belongs to each band.

    Triangles whose corners are equally far apart in mel, of equal area: Slaney 1998, "Auditory Toolbox".
    """
    frequencies = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    corners = _hertz(torch.linspace(0, float(_mel(torch.tensor(RATE / 2.0))), bands + 2, dtype=torch.float64))
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - left) / (middle - left), (right - frequencies) / (right - middle)
    return (rising.minimum(falling).clamp_min(0) * 2 / (right - left)).float()


# Slaney's mel: linear up to 1 kHz (15 mel), then 27 mel for each factor of 6.4.
_LINEAR, _TOP, _STEP = 200 / 3, 15.0, 27 / torch.tensor(6.4, dtype=torch.float64).log()


def _mel(hertz: Tensor) -> Tensor:
    return torch.where(hertz < 1000, hertz / _LINEAR, _TOP + (hertz.double() / 1000).log() * _STEP)


def _hertz(mel: Float[Tensor, "corners"]) -> Float[Tensor, "corners"]:
    return torch.where(mel < _TOP, mel * _LINEAR, 1000 * ((mel - _TOP) / _STEP).exp())


def _samples(data: bytes, width: int) -> Float[Tensor, "samples"]:
    """PCM of so many bytes a sample, smallest byte first; of one byte without a sign."""
    raw = torch.frombuffer(bytearray(data[: len(data) // width * width]), dtype=torch.uint8) if data else torch.empty(0)
    if not data:
        return raw
    if width == 1:
        return raw.float() / 128 - 1
    parts = raw.view(-1, width).to(torch.int64)
    value = sum((parts[:, place] << 8 * place for place in range(width)), torch.zeros(len(parts), dtype=torch.int64))
    half = 1 << 8 * width - 1
    return ((value ^ half) - half).double().div(half).float()

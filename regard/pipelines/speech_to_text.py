"""A loaded model that hears: it writes down recordings, and shows where it listened for each word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError
from regard.explain.alignment import align
from regard.explain.result import Result
from regard.explain.trace import Side, Trace
from regard.explain.views import ask, options_of
from regard.generation.search import Going, Hypothesis, Search, search
from regard.modalities.audio import POSITION, RATE, SECONDS_A_POSITION, log_mel, read_recording
from regard.modalities.subwords import Subwords
from regard.modalities.text import Piece
from regard.models.whisper import Whisper
from regard.pipelines.explanation import Explanation, explain_traced
from regard.pipelines.prepared import Prepared
from regard.sequences import Sequences

Recording = str | Path | Float[Tensor, "samples"]
"""A WAV file, or samples at 16 kHz."""
_AT_ONCE = 8
"""Recordings heard at a time: 30 s of a small model's attention are 50 MB a layer."""


class SpeechToText(Prepared):
    """A model with its tokenizer. Recordings are WAV files or samples at 16 kHz, up to 30 s."""

    def __init__(self, name: str, model: Whisper, tokenizer: Subwords) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.model: Any = model

    def transcribe(self, recordings: Sequence[Recording], beams: int = 1) -> list[str]:
        """What is said in each recording."""
        return [self.text(found[0].tokens) for found in self.hypotheses(recordings, beams)]

    def hypotheses(
        self, recordings: Sequence[Recording], beams: int = 1, length_penalty: float = 0.0
    ) -> list[list[Hypothesis]]:
        """All transcripts found of each recording, the best first, with their scores."""
        if beams < 1:
            raise RegardError(f"beams must be 1 (greedy) or more, not {beams}")
        sounds, found = [self.samples(one) for one in recordings], []
        for begin in range(0, len(sounds), _AT_ONCE):
            source = self.heard(sounds[begin : begin + _AT_ONCE])
            found += search(self.generator(), source, self.search(beams, length_penalty))
        return found

    def rows(
        self, recordings: Sequence[Recording], numbers: Sequence[int] | None = None, beams: int = 1
    ) -> Iterator[dict[str, Any]]:
        """For each recording what `regard run --jsonl` prints: source, answer and hypotheses."""
        for recording, found in zip(recordings, self.hypotheses(recordings, beams), strict=True):
            listed = [{"text": self.text(one.tokens), "log_p": one.log_probability} for one in found]
            yield {"source": str(recording), "answer": listed[0]["text"], "hypotheses": listed}

    def search(self, beams: int, length_penalty: float) -> Search:
        config = self.model.config
        return Search(
            config.bos_token_id,
            config.eos_token_id,
            beams,
            length_penalty,
            limit=config.max_position_embeddings - len(config.prompt),
            forbidden=tuple(set(config.forbidden) - {config.eos_token_id}),
            forbidden_first=config.forbidden_first,
        )

    def samples(self, recording: Recording) -> Float[Tensor, "samples"]:
        """A recording as samples; RegardError for a file that cannot be read, or a recording that is too long."""
        found = recording if isinstance(recording, Tensor) else read_recording(Path(recording))
        longest = self.model.config.max_source_positions * POSITION
        if not len(found):
            raise RegardError(f"{_named(recording)} is empty: it has no sample")
        if len(found) > longest:
            raise RegardError(
                f"{_named(recording)} has {len(found) / RATE:.1f} s, more than the {longest / RATE:g} s that "
                f"{self.name} hears at once: cut it into parts"
            )
        return found

    def heard(self, sounds: Sequence[Float[Tensor, "_"]]) -> Sequences:
        """Their spectra, filled up to the length that the model was trained on."""
        config = self.model.config
        spectra = [log_mel(one, config.max_source_positions, config.num_mel_bins) for one in sounds]
        return Sequences.of(spectra).to(self.model.device)

    def text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens).strip()

    def answers(self, recordings: Sequence[Recording]) -> list[str]:
        """What stands beside each recording in an explanation: its transcript."""
        return self.transcribe(recordings)

    def ask(self, views: Sequence[str], *recordings: Recording, **options: Any) -> list[Result]:
        """Ask views by name (`regard explain --list`), each with the options that it takes.

        With `beams` the generation view shows the beam as a tree.
        """
        beams = options.pop("beams", 1)
        if beams == 1:
            return ask(self.trace(recordings), views, options_of(options))
        seen: list[Going] = []
        source = self.heard([self.samples(one) for one in recordings])
        found = search(self.model, source, self.search(beams, 0.0), seen)
        begun = self.model.config.prompt[1:]  # the answer of the trace begins with it, so the beams do too
        seen = [(row, (*begun, *beam), total) for row, beam, total in seen]
        return ask(self.trace(recordings, [one[0].tokens for one in found]), views, options_of(options, seen=seen))

    def trace(self, recordings: Sequence[Recording], answers: Sequence[Sequence[int]] | None = None) -> Trace:
        """A trace over recordings and what the model writes down (or other tokens, without the end).

        A position of the source is 20 ms and reads as the time at which it begins; the silence that fills up the 30 s
        stands together. The first positions of the target are the prompt.
        """
        if answers is None:
            answers = [found[0].tokens for found in self.hypotheses(recordings)]
        config, sounds = self.model.config, [self.samples(one) for one in recordings]
        begun = [[*config.prompt, *ids] for ids in answers]
        pieces: dict[Side, list[list[Piece]]] = {
            "source": [moments(len(one), config.max_source_positions) for one in sounds],
            "target": [self.tokenizer.pieces_of(ids) for ids in begun],
            "produced": [self.tokenizer.pieces_of([*ids[1:], config.eos_token_id]) for ids in begun],
        }
        trace = Trace(self.model, self.heard(sounds), Sequences.of_ids(begun, self.model.device), pieces=pieces)
        trace.texts = [_named(one) for one in recordings]
        trace.spell = self.tokenizer.spell
        return trace

    def explain(
        self, *recordings: Recording, query: str | int | None = None, layer: int = 0, head: int | None = None
    ) -> Explanation:
        """The complete process for one moment of the first recording (`query`: its position), and what was heard when.

        Several recordings share no words before they are written down, so their contexts are not compared.
        """
        if not recordings:
            raise RegardError("give at least one recording to explain")
        found = [one[0].tokens for one in self.hypotheses(recordings)]
        trace = self.trace(recordings, found)
        texts, answers = [_named(one) for one in recordings], [self.text(ids) for ids in found]
        walked = explain_traced(self.name, trace, texts[:1], answers[:1], query, layer, head)
        alignments = [align(trace, row=row) for row in range(len(recordings))]
        return replace(walked, texts=texts, answers=answers, alignments=alignments)


def moments(samples: int, positions: int) -> list[Piece]:
    """How each position reads: the moment at which it begins; after the recording's samples one long silence."""
    sounding = -(-samples // POSITION)
    found = [Piece(place, f"{place * SECONDS_A_POSITION:.2f} s", place, place) for place in range(sounding)]
    for place in range(sounding, positions):
        text = "silence" if place == sounding else ""
        found.append(Piece(place, text, None, None))
    return found


def _named(recording: Recording) -> str:
    if isinstance(recording, Tensor):
        return f"a recording of {len(recording) / RATE:.2f} s"
    return str(recording)

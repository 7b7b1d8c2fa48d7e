"""The models of a service, by name: only those named at start, with why one of them could not be opened."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from regard.errors import RegardError, unknown
from regard.pipelines.language_model import LanguageModel
from regard.pipelines.text_to_text import TextToText


@dataclass
class Volume:
    """One model, or why it is not there."""

    name: str
    place: str
    state: Literal["loading", "ready", "failed"] = "loading"
    reason: str = ""
    pipeline: Any = None

    @property
    def kind(self) -> str:
        """`translator`, `language model` or `reader`."""
        if isinstance(self.pipeline, TextToText):
            return "translator"
        return "language model" if isinstance(self.pipeline, LanguageModel) else "reader"

    @property
    def abilities(self) -> tuple[str, ...]:
        """What it can be asked to do."""
        if self.kind == "translator":
            return ("translate",)
        return ("generate",) if self.kind == "language model" else tuple(self.pipeline.abilities)

    def told(self) -> dict[str, Any]:
        """What a client is told of it; never where it lies."""
        found: dict[str, Any] = {"name": self.name, "state": self.state, "reason": self.reason}
        if self.state == "ready":
            config = self.pipeline.model.config
            limit = self.pipeline.limit if self.kind != "translator" else config.max_position_embeddings
            found |= {"kind": self.kind, "abilities": list(self.abilities), "system": config.model_type}
            found |= {"vocabulary": config.vocab_size, "limit": limit, "labels": list(getattr(config, "labels", ()))}
            mask = getattr(getattr(self.pipeline, "tokenizer", None), "special", None)
            if "fill" in self.abilities and mask is not None:
                found["mask"] = self.pipeline.tokenizer.inner.id_to_token(mask.mask)
        return found


class NotReadyError(Exception):
    """The model is still being opened, or could not be."""


class Shelf:
    """Volumes in the order in which they were named."""

    def __init__(self, places: tuple[str, ...], load: Callable[[str], Any]) -> None:
        self._load = load
        self.volumes: dict[str, Volume] = {}
        for place in places:
            name = wanted = Path(place).name or place
            number = 1
            while name in self.volumes:
                number += 1
                name = f"{wanted}-{number}"
            self.volumes[name] = Volume(name, place)

    def open(self, name: str) -> None:
        """Load one; a failure is noted, not raised: the others go on answering."""
        volume = self.volumes[name]
        try:
            volume.pipeline = self._load(volume.place)
            volume.state = "ready"
        except RegardError as error:
            volume.state, volume.reason = "failed", str(error).replace(volume.place, volume.name)
            logging.getLogger(__name__).warning("%s could not be opened: %s", volume.place, error)
        except Exception as error:  # a damaged file can raise anything; it must not stop the others
            logging.getLogger(__name__).exception("%s could not be opened", volume.place)
            volume.state, volume.reason = "failed", f"{type(error).__name__} while it was opened: the log has more"

    @property
    def ready(self) -> bool:
        """Whether every model can be asked."""
        return all(volume.state == "ready" for volume in self.volumes.values())

    def find(self, name: str, ability: str | None = None) -> Volume:
        """A model that can be asked; RegardError if there is none of this name, or it cannot do this."""
        if name not in self.volumes:
            raise unknown("model", name, self.volumes)
        volume = self.volumes[name]
        if volume.state != "ready":
            raise NotReadyError(f"{name} is {volume.state}" + (f": {volume.reason}" if volume.reason else ""))
        if ability is not None and ability not in volume.abilities:
            raise RegardError(f"{name} cannot {ability}: it can {' and '.join(volume.abilities)}")
        return volume

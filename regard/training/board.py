"""TensorBoard: the events of a run as curves, beside its log. Needs the package `tensorboard`."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from regard.errors import RegardError
from regard.training.events import Event, Measured, Stepped, Validated

BOARD = "tensorboard"


def on_board(events: Iterator[Event], folder: Path) -> Generator[Event, None, None]:
    """The same events; what they tell goes into `folder/tensorboard` on the way. Closing it closes them."""
    writer = _writer(folder / BOARD)
    try:
        for event in events:
            for name, value, step in curves(event):
                writer.add_scalar(name, value, step)
            if isinstance(event, Validated):
                writer.add_text("over-fitting", event.verdict, event.step)
                writer.flush()
            yield event
    finally:
        writer.close()
        close: Any = getattr(events, "close", lambda: None)
        close()


def curves(event: Event) -> list[tuple[str, float, int]]:
    """Name, value and step of every number that an event adds to a curve."""
    if isinstance(event, Stepped):
        return [("loss/training", event.loss, event.step), ("rate", event.rate, event.step)]
    if isinstance(event, Validated):
        scores = [(f"score/{name}", value, event.step) for name, value in event.scores.items()]
        gap = [] if event.train_loss is None else [("loss/gap", event.loss - event.train_loss, event.step)]
        return [("loss/validation", event.loss, event.step), *gap, *scores]
    if isinstance(event, Measured):
        found = {
            "speed/tokens_per_second": event.tokens_per_second,
            "speed/flops_per_second": event.flops_per_second,
            "speed/share_of_peak": event.share_of_peak,
            "cost/peak_memory": event.peak_memory,
            "cost/energy_wh": event.energy_wh,
            "cost/co2_grams": event.co2_grams,
            "cost/money": event.money,
        }
        return [(name, float(value), event.step) for name, value in found.items() if value is not None]
    return []


def _writer(folder: Path) -> Any:
    # TensorBoard takes TensorFlow where it finds it, only to write files: seconds, and a page of warnings.
    sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RegardError("TensorBoard events need the package tensorboard: pip install tensorboard") from error
    return SummaryWriter(str(folder))

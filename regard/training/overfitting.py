"""Over-fitting in words: what the losses on training and on validation data say together.

Both are plain cross-entropy, but the training loss is a mean over the steps since the last validation, with dropout, so
it is higher than that of the finished model: a validation loss below it is nothing unusual.
"""

from __future__ import annotations

from collections.abc import Sequence

from regard.training.events import Validated

RISE, FALL = 0.01, 0.005
"""A change smaller than this share of a loss is none: two validations of the same weights differ by nothing, but two
batches do."""


def verdict(history: Sequence[Validated]) -> str:
    """What the validations so far say, in a sentence; empty where no training loss was taken down."""
    known = [(one.step, one.train_loss, one.loss) for one in history if one.train_loss is not None]
    if not known:
        return ""
    if len(known) < 3:
        return f"{_gap(known)}; too early to tell about over-fitting"
    step, learnt, best = min(known, key=lambda one: one[2])
    _, last_learnt, last = known[-1]
    falls = last_learnt < known[-2][1] * (1 - FALL)
    if last > best * (1 + RISE) and last_learnt < learnt * (1 - FALL):
        return (
            f"over-fitting since step {step}: validation loss went from {best:.3f} up to {last:.3f} while training "
            f"loss fell from {learnt:.3f} to {last_learnt:.3f}; the weights of step {step} are the better ones"
        )
    if last > best * (1 + RISE):
        return f"{_gap(known)}; validation loss has risen since step {step}, and training loss has not fallen: unstable"
    if last >= known[-2][2] * (1 - FALL) and falls:
        return f"{_gap(known)}; the training loss still falls and the validation loss no longer does: at its limit"
    if last < known[-2][2] * (1 - FALL):
        return f"{_gap(known)}; no over-fitting: the validation loss still falls"
    return f"{_gap(known)}; no over-fitting: both losses have come to rest"


def _gap(known: Sequence[tuple[int, float, float]]) -> str:
    _, learnt, last = known[-1]
    return f"validation loss {abs(last - learnt):.3f} {'above' if last >= learnt else 'below'} training loss"

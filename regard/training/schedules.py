"""Learning rates over time."""

import math
from itertools import pairwise

from regard.training.recipe import Training


def peak_rate(training: Training, width: int) -> float:
    """The recipe's peak, or the paper's: 1 / sqrt(d_model x warmup_steps) (Vaswani et al. 2017, equation 3)."""
    return training.learning_rate or float((width * training.warmup_steps) ** -0.5)


def learning_rate(step: int, training: Training, width: int) -> float:
    """Rate of step 1, 2, ...: a straight rise over the warm-up, then the recipe's schedule; anew after each restart.

    `inverse_sqrt`: rate = peak x sqrt(warmup / step), equation 3 of the paper; `linear`: down to zero at the end;
    `cosine`: the same, slow at both ends; `halving`: the peak, then half of it again and again; `constant`: the peak;
    `slanted`: ULMFiT's triangle, without the warm-up.
    """
    ends = (0, *training.restarts, training.max_steps)
    begun, end = next((pair for pair in pairwise(ends) if step <= pair[1]), ends[-2:])
    step, steps = step - begun, end - begun
    peak, warmup = peak_rate(training, width), training.warmup_steps
    if training.schedule == "slanted":
        return peak * slanted_triangular(step - 1, steps)
    if step <= warmup:
        return peak * step / warmup
    if training.schedule == "constant":
        return peak
    if training.schedule == "inverse_sqrt":
        return float(peak * (warmup / step) ** 0.5)
    if training.schedule == "halving":
        halvings = 1 + (step - training.halve_after - 1) // training.halve_every if step > training.halve_after else 0
        return float(peak * 0.5**halvings)
    left = min(1.0, max(0.0, (steps - step + 1) / (steps - warmup + 1)))
    return peak * (1 - math.cos(math.pi * left)) / 2 if training.schedule == "cosine" else peak * left


def slanted_triangular(step: int, steps: int, cut_frac: float = 0.1, ratio: float = 32) -> float:
    """Share of the peak rate at step t = 0, 1, ... of T: a steep rise, then a long fall to 1 / ratio.

    Howard & Ruder 2018, equation 3: cut = floor(T cut_frac), where the peak is; p = t / cut before it and
    1 - (t - cut) / (cut (1 / cut_frac - 1)) after it; (1 + p (ratio - 1)) / ratio.
    """
    cut = max(1, int(steps * cut_frac))
    share = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / cut_frac - 1))
    return (1 + max(0.0, share) * (ratio - 1)) / ratio

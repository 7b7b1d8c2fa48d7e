"""Learning rates over time."""

from itertools import pairwise

from regard.training.recipe import Training


def peak_rate(training: Training, width: int) -> float:
    """The recipe's peak, or the paper's: 1 / sqrt(d_model x warmup_steps) (Vaswani et al. 2017, equation 3)."""
    return training.learning_rate or float((width * training.warmup_steps) ** -0.5)


def learning_rate(step: int, training: Training, width: int) -> float:
    """Rate of step 1, 2, ...: a straight rise over the warm-up, then the recipe's schedule; anew after each restart.

    `inverse_sqrt`: rate = peak x sqrt(warmup / step), equation 3 of the paper; `linear`: down to zero at the end.
    """
    ends = (0, *training.restarts, training.max_steps)
    begun, end = next((pair for pair in pairwise(ends) if step <= pair[1]), ends[-2:])
    step, steps = step - begun, end - begun
    peak, warmup = peak_rate(training, width), training.warmup_steps
    if step <= warmup:
        return peak * step / warmup
    if training.schedule == "inverse_sqrt":
        return float(peak * (warmup / step) ** 0.5)
    return peak * max(0.0, (steps - step + 1) / (steps - warmup + 1))

"""Learning rates over time."""

from regard.training.recipe import Training


def peak_rate(training: Training, width: int) -> float:
    """The recipe's peak, or the paper's: 1 / sqrt(d_model x warmup_steps) (Vaswani et al. 2017, equation 3)."""
    return training.learning_rate or float((width * training.warmup_steps) ** -0.5)


def learning_rate(step: int, training: Training, width: int) -> float:
    """Rate of step 1, 2, ...: a straight rise over the warm-up, then the recipe's schedule.

    `inverse_sqrt`: rate = peak x sqrt(warmup / step), equation 3 of the paper; `linear`: down to zero at max_steps.
    """
    peak, warmup = peak_rate(training, width), training.warmup_steps
    if step <= warmup:
        return peak * step / warmup
    if training.schedule == "inverse_sqrt":
        return float(peak * (warmup / step) ** 0.5)
    return peak * max(0.0, (training.max_steps - step + 1) / (training.max_steps - warmup + 1))

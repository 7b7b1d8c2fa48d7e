"""What training minimises: cross-entropy with label smoothing.

Szegedy et al. 2016, section 7; Vaswani et al. 2017, section 5.4.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def smoothed_cross_entropy(
    logits: Float[Tensor, "tokens vocabulary"], answers: Int[Tensor, "tokens"], smoothing: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean over the tokens of the smoothed loss, and of the plain one (nats; for reading, without gradient).

    The right answer has probability 1 - smoothing + smoothing / V in the target distribution, every other word
    smoothing / V: what `torch.nn.functional.cross_entropy(label_smoothing=...)` computes.
    """
    smoothed, plain = _SmoothedCrossEntropy.apply(logits, answers, smoothing)  # type: ignore[no-untyped-call]
    return smoothed, plain


class _SmoothedCrossEntropy(torch.autograd.Function):
    """One buffer of the logits' size for loss and gradient both, where autograd would keep four."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, answers: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        scores = logits.float()
        log_sums = scores.logsumexp(dim=-1)
        right = scores.gather(1, answers[:, None])[:, 0]
        plain = (log_sums - right).mean()
        spread = (log_sums - scores.mean(dim=-1)).mean()
        if ctx.needs_input_grad[0]:
            tokens, vocabulary = scores.shape
            gradient = torch.sub(scores, log_sums[:, None]).exp_().sub_(smoothing / vocabulary)
            rows = torch.arange(tokens, device=scores.device)
            gradient[rows, answers] -= 1 - smoothing
            ctx.save_for_backward(gradient.div_(tokens).to(logits.dtype))
        ctx.mark_non_differentiable(plain)
        return (1 - smoothing) * plain + smoothing * spread, plain

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].to(gradient.dtype), None, None

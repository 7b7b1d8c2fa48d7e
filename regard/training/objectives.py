"""What training minimises: cross-entropy with label smoothing.

Szegedy et al. 2016, section 7; Vaswani et al. 2017, section 5.4.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_CACHED_ENTRIES = 1 << 18  # 1 MiB of float32


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
    """Loss and gradient together, a few rows at a time, so that all but the gradient itself stays in the cache.

    Half the processor time of the same over all rows at once; autograd would keep four buffers of the logits' size.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, answers: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        tokens, vocabulary = logits.shape
        rows = max(1, _CACHED_ENTRIES // vocabulary) if logits.device.type == "cpu" else max(1, tokens)
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if wanted else logits
        right = logits.new_zeros((), dtype=torch.float32)
        spread = right.clone()
        parts = zip(logits.split(rows), answers.split(rows), gradient.split(rows), strict=True)
        for part, chosen, place in parts:
            scores = part.float().log_softmax(dim=-1)
            right -= scores.gather(1, chosen[:, None]).sum()
            spread -= scores.mean(dim=-1).sum()
            if wanted:
                scores.exp_().sub_(smoothing / vocabulary)
                scores.scatter_add_(1, chosen[:, None], scores.new_full((len(chosen), 1), smoothing - 1))
                place.copy_(scores.div_(tokens))
        if wanted:
            ctx.save_for_backward(gradient)
        plain = right / tokens
        ctx.mark_non_differentiable(plain)
        return (1 - smoothing) * plain + smoothing * spread / tokens, plain

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].to(gradient.dtype), None, None

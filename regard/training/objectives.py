"""What training minimises: cross-entropy with label smoothing.

Szegedy et al. 2016, section 7; Vaswani et al. 2017, section 5.4.
"""

import ctypes
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from regard.native import ObjectiveStruct, library
from regard.native.matrices import KINDS

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
        tokens = len(logits)
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else None
        compute = _in_native_code if _has_kernel(logits, answers) else _in_parts
        right, spread = compute(logits, answers, smoothing, gradient)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        plain = right / tokens
        ctx.mark_non_differentiable(plain)
        return (1 - smoothing) * plain + smoothing * spread / tokens, plain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = ctx.saved_tensors  # in place: a second time PyTorch refuses, as it has been changed
        return gradient.mul_(gradients[0].to(gradient.dtype)), None, None


def _has_kernel(logits: Tensor, answers: Tensor) -> bool:
    known = library() is not None and logits.device.type == "cpu" and logits.dtype in KINDS and len(logits) > 0
    return known and bool(answers.min() >= 0) and bool(answers.max() < logits.shape[1])


def _in_native_code(
    logits: Tensor, answers: Tensor, smoothing: float, gradient: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Sums over the tokens of the plain loss and of the mean of all words' losses; the gradient into `gradient`."""
    native = library()
    assert native is not None
    logits, answers = logits.contiguous(), answers.contiguous()
    losses = torch.empty(2, len(logits))
    call = ObjectiveStruct(
        kind=KINDS[logits.dtype],
        threads=torch.get_num_threads(),
        tokens=len(logits),
        vocabulary=logits.shape[1],
        logits=logits.data_ptr(),
        answers=answers.data_ptr(),
        gradient=None if gradient is None else gradient.data_ptr(),
        smoothing=smoothing,
        right=losses[0].data_ptr(),
        spread=losses[1].data_ptr(),
    )
    native.regard_objective(ctypes.byref(call))
    right, spread = losses.sum(dim=1)
    return right, spread


def _in_parts(logits: Tensor, answers: Tensor, smoothing: float, gradient: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same in PyTorch."""
    tokens, vocabulary = logits.shape
    rows = max(1, _CACHED_ENTRIES // vocabulary) if logits.device.type == "cpu" else max(1, tokens)
    right = logits.new_zeros((), dtype=torch.float32)
    spread = right.clone()
    places = repeat(None) if gradient is None else gradient.split(rows)
    for part, chosen, place in zip(logits.split(rows), answers.split(rows), places, strict=False):
        scores = part.float().log_softmax(dim=-1)
        right -= scores.gather(1, chosen[:, None]).sum()
        spread -= scores.mean(dim=-1).sum()
        if place is not None:
            scores.exp_().sub_(smoothing / vocabulary)
            scores.scatter_add_(1, chosen[:, None], scores.new_full((len(chosen), 1), smoothing - 1))
            place.copy_(scores.div_(tokens))
    return right, spread

"""Several processes that train one model together, each on its share of every batch (data parallel).

Every worker holds the whole model. After the backward pass the gradients of all shares are summed in one message, so
all take the same step and stay equal; the sum is that of the whole batch, so the losses are those of one process.
PyTorch's engine carries the messages: gloo between processors, NCCL between GPUs.

    torchrun --nproc-per-node 4 -m regard train RECIPE     # or, on one machine: regard train RECIPE --workers 4
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from regard.errors import RegardError

_MEETING = timedelta(minutes=5)
_PATIENCE = timedelta(hours=6)  # others wait while the first one validates; a dead process is noticed at once


@dataclass
class Share:
    """What one worker computed of a step."""

    predictions: int = 0
    tokens: int = 0
    read: float = 0.0
    """Sum of the plain loss over the predictions."""
    flops: float = 0.0


@dataclass(frozen=True)
class Summed:
    """What the shares of one step come to."""

    loss: float
    """Mean plain loss over all predictions."""
    tokens: int
    stopping: bool
    """One of the workers was asked to stop."""
    flops: float = 0.0


class Workers:
    """One process among `count`; the first, of rank 0, writes, shows and decides."""

    def __init__(self, rank: int = 0, count: int = 1, group: Any = None) -> None:
        self.rank, self.count, self.group = rank, count, group
        self.asked_to_stop = False

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, chosen: np.ndarray) -> np.ndarray:
        """This worker's examples of a batch: every `count`-th one, so that shares are about equal in length."""
        return chosen[self.rank :: self.count]

    def seed(self, training_seed: int, step: int) -> None:
        """Random numbers that follow from seed, step and rank alone: nothing about them needs to be saved."""
        torch.manual_seed(int(np.random.SeedSequence((training_seed, step, self.rank)).generate_state(1)[0]))

    def backward(self, loss: Tensor, predictions: int, all_predictions: int) -> None:
        """Gradients of a part of this share: `loss` is a mean over `predictions` of all that the share has."""
        weight = predictions / all_predictions if self.count == 1 else predictions  # several divide after the sum
        (loss * weight).backward()

    def sum(self, model: nn.Module, share: Share) -> Summed:
        """After the backward passes: gradients of the whole batch's mean loss in every worker."""
        if self.count == 1:
            return Summed(share.read / share.predictions, share.tokens, self.asked_to_stop, share.flops)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        facts = [share.predictions, share.tokens, share.read, float(self.asked_to_stop), share.flops]
        parts = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        flat = torch.cat([weights[0].new_tensor(facts), *(part.reshape(-1) for part in parts)])
        self._send(lambda: dist.all_reduce(flat, group=self.group))
        all_predictions, all_tokens, all_read, stops, flops = flat[: len(facts)].tolist()
        sums = (flat[len(facts) :] / all_predictions).split([weight.numel() for weight in weights])
        for weight, total in zip(weights, sums, strict=True):
            weight.grad = total.view_as(weight)
        return Summed(all_read / all_predictions, int(all_tokens), stops > 0, flops)

    def told(self, value: Any) -> Any:
        """What the first worker says, in all of them."""
        if self.count == 1:
            return value
        box = [value]
        self._send(lambda: dist.broadcast_object_list(box, src=0, group=self.group))
        return box[0]

    def _send(self, message: Callable[[], Any]) -> None:
        try:
            message()
        except RuntimeError as error:  # the engine's own errors are of this class
            reason = str(error).splitlines()[0]
            advice = "go on from the last checkpoint with --resume"
            raise RegardError(f"another worker is gone: {advice} ({reason})") from error


def join_workers(device: str) -> Workers:
    """The worker that this process is, by the variables that `torchrun` sets; alone where there are none.

    Names: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT. RegardError where the others cannot be met.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Workers()
    rank = int(os.environ["RANK"])
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        if not dist.is_initialized():
            backend = "nccl" if device.startswith("cuda") else "gloo"
            dist.init_process_group(backend, rank=rank, world_size=count, timeout=_MEETING)
        return Workers(rank, count, dist.new_group(timeout=_PATIENCE))
    except (RuntimeError, ValueError) as error:
        raise RegardError(f"the {count} workers cannot meet: {str(error).splitlines()[0]}") from error


def leave_workers() -> None:
    """Close the connections to the others."""
    if dist.is_initialized():
        dist.destroy_process_group()

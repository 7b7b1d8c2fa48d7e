"""Several processes that train one model together, each on its share of every batch (data parallel).

Every worker holds the whole model, or a part of it (see `regard.training.placement`). After the backward pass the
gradients of all shares are summed, in one message where models are whole, so all take the same step and stay equal; the
sum is that of the whole batch, so the losses are those of one process.
PyTorch's engine carries the messages: gloo between processors, NCCL between GPUs.

    torchrun --nproc-per-node 4 -m regard train RECIPE     # or, on one machine: regard train RECIPE --workers 4
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

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
    predictions: int = 0


class Workers:
    """One process among `count`; the first, of rank 0, writes, shows and decides."""

    together = 1
    """So many, of neighbouring ranks, compute each layer together: they have the same share of a batch."""

    def __init__(self, rank: int = 0, count: int = 1, group: Any = None) -> None:
        self.rank, self.count, self.group = rank, count, group
        self.asked_to_stop = False

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def shares(self) -> int:
        """Into how many shares a batch is cut."""
        return self.count // self.together

    def share(self, chosen: np.ndarray) -> np.ndarray:
        """This worker's examples of a batch: every n-th one of n shares, so that these are about equal in length."""
        return chosen[self.rank // self.together :: self.shares]

    def seed(self, training_seed: int, step: int) -> None:
        """Random numbers that follow from seed, step and share alone: nothing about them needs to be saved."""
        share = self.rank // self.together
        torch.manual_seed(int(np.random.SeedSequence((training_seed, step, share)).generate_state(1)[0]))

    def backward(self, loss: Tensor, predictions: int, all_predictions: int) -> None:
        """Gradients of a part of this share: `loss` is a mean over `predictions` of all that the share has."""
        weight = predictions / all_predictions if self.count == 1 else predictions  # several divide after the sum
        (loss * weight).backward()

    def sum(self, model: nn.Module, share: Share) -> Summed:
        """After the backward passes: gradients of the whole batch's mean loss in every worker."""
        if self.count == 1:
            return Summed(share.read / share.predictions, share.tokens, self.asked_to_stop, share.flops)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        facts = self._facts(share)
        parts = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        flat = torch.cat([weights[0].new_tensor(facts), *(part.reshape(-1) for part in parts)])
        self._send(lambda: dist.all_reduce(flat, group=self.group))
        found = _summed(flat[: len(facts)].tolist())
        sums = (flat[len(facts) :] / found.predictions).split([weight.numel() for weight in weights])
        for weight, total in zip(weights, sums, strict=True):
            weight.grad = total.view_as(weight)
        return found

    def sum_facts(self, share: Share, device: torch.device) -> Summed:
        """The same without the gradients. Of those that have the same share, one counts."""
        facts = torch.tensor(self._facts(share), dtype=torch.float64, device=device)
        self._send(lambda: dist.all_reduce(facts, group=self.group))
        return _summed(facts.tolist())

    def added(self, numbers: Sequence[float], device: torch.device) -> Sequence[float]:
        """Sums over all workers. Of those that have the same share, one counts."""
        if self.count == 1:
            return numbers
        sums = torch.tensor(numbers, dtype=torch.float64, device=device) * (self.rank % self.together == 0)
        self._send(lambda: dist.all_reduce(sums, group=self.group))
        found: list[float] = sums.tolist()
        return found

    def _facts(self, share: Share) -> list[float]:
        stop = float(self.asked_to_stop)
        if self.rank % self.together:
            return [0.0, 0.0, 0.0, stop, 0.0]
        return [share.predictions, share.tokens, share.read, stop, share.flops]

    def told(self, value: Any) -> Any:
        """What the first worker says, in all of them."""
        if self.count == 1:
            return value
        box = [value]
        self._send(lambda: dist.broadcast_object_list(box, src=0, group=self.group))
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """What each of them says, in all of them."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        self._send(lambda: dist.all_gather_object(found, value, group=self.group))
        return found

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Within the block messages are sent along with computing. RegardError where another worker is gone."""
        try:
            yield
        except RuntimeError as error:
            if _is_of_connection(error):
                raise _gone(error) from error
            raise

    def _send(self, message: Callable[[], Any]) -> None:
        try:
            message()
        except RuntimeError as error:  # the engine's own errors are of this class
            raise _gone(error) from error


def _summed(facts: list[float]) -> Summed:
    predictions, tokens, read, stops, flops = facts
    return Summed(read / predictions, int(tokens), stops > 0, flops, int(predictions))


def _gone(error: RuntimeError) -> RegardError:
    left = _number("TORCHELASTIC_MAX_RESTARTS") - _number("TORCHELASTIC_RESTART_COUNT")
    advice = "all are started again" if left > 0 else "go on from the last checkpoint with --resume"
    return RegardError(f"another worker is gone: {advice} ({str(error).splitlines()[0]})")


def _is_of_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))


def restarted() -> bool:
    """Whether `torchrun` has started all workers again after one of them died."""
    return _number("TORCHELASTIC_RESTART_COUNT") > 0


def starter() -> str:
    """Which call of `torchrun` has started this process, for the first time or again; empty where none has."""
    if "TORCHELASTIC_RESTART_COUNT" not in os.environ:
        return ""
    named = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return f"{socket.gethostname()}:{os.getppid()}" if named == "none" else named


def _number(variable: str) -> int:
    return int(os.environ.get(variable, "0"))


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
            store, _, _ = next(rendezvous("env://", rank, count, timeout=_MEETING))
            # torchrun keeps one store: those who are started again must not find where the dead ones listened.
            own = PrefixStore(f"start {_number('TORCHELASTIC_RESTART_COUNT')}", store)
            dist.init_process_group(backend, store=own, rank=rank, world_size=count, timeout=_MEETING)
        return Workers(rank, count, dist.new_group(timeout=_PATIENCE))
    except (RuntimeError, ValueError) as error:
        raise RegardError(f"the {count} workers cannot meet: {str(error).splitlines()[0]}") from error


def leave_workers() -> None:
    """Close the connections to the others."""
    if dist.is_initialized():
        dist.destroy_process_group()

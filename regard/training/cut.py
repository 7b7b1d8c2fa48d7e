"""A model cut over processes: FSDP2 shards (ZeRO stage 3), tensor parallel, or both on a mesh of two dimensions.

Rajbhandari et al. 2020, "ZeRO"; Zhao et al. 2023, "PyTorch FSDP". `fully_shard` keeps of each layer's weights,
gradients and optimiser state one part a process, and gathers a layer's weights while it computes. All of it is applied
from outside: the model's file knows nothing of it, and the weights keep their names.

Processes that compute a layer together (`tensor_parallel`) read the same batch; the others share it as always.

Optimisers and means of weights move the part that is here, a plain tensor that shares its memory with the model's: what
they compute is done value by value, so nothing is sent for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn, optim
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from regard.layers.blocks import DecoderLayer, EncoderLayer
from regard.models.base import LEARNING, Model
from regard.training.placement import Placement, all_finite
from regard.training.recipe_parts import Processes
from regard.training.tasks import Task
from regard.training.tensor_parallel import Turned, cut_layers
from regard.training.workers import Share, Summed, Workers


class CutPlacement(Placement):
    """Every process holds a part of the weights, or of some of them."""

    cut = True

    def __init__(self, task: Task, model: Model, wanted: Processes, workers: Workers, device: torch.device) -> None:
        super().__init__(task, model, workers)
        self.device, together = device, wanted.tensor_parallel
        shape = (workers.count // together, together)
        self.mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "tensor"))
        self.turned: dict[str, Turned] = cut_layers(model, self.mesh["tensor"]) if together > 1 else {}
        self.shards = wanted.shard and shape[0] > 1
        self.learner = _Learner(task, model)
        if self.shards:
            self._shard()  # which moves the parts that stay here, and no more
        else:
            model.to(device)
        self.flat = init_device_mesh(device.type, (workers.count,)) if self.turned else self.mesh
        self.wholes = dict(model.named_parameters())
        self.here = {name: nn.Parameter(_local(whole)) for name, whole in self.wholes.items()}
        """The part of each parameter that this process moves."""

    def _shard(self) -> None:
        """Layer by layer, and what stands around them as one more."""
        mesh = self.mesh["data"]
        for layer in _layers(self.model):
            fully_shard(layer, mesh=mesh)
        fully_shard(self.learner, mesh=mesh)
        for part in self.learner.modules():
            if isinstance(part, FSDPModule):  # the sum over the shares, which is divided when it is known by what
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)

    def parts(self, chosen: np.ndarray, count: int) -> list[tuple[np.ndarray, bool]]:
        """As many in every process, since all compute a layer together; who has none left reads what does not count."""
        workers = self.workers
        longest = -(-len(chosen) // workers.shares)
        parts = np.array_split(workers.share(chosen), min(count, longest))
        return [(part, True) if len(part) else (chosen[:1], False) for part in parts]

    def loss(self, batch: Any, smoothing: float) -> tuple[Tensor, Tensor]:
        with self.workers.reached():
            found: tuple[Tensor, Tensor] = self.learner(batch, smoothing)
        return found

    def backward(self, loss: Tensor, predictions: int, all_predictions: int) -> None:
        with self.workers.reached():
            (loss * predictions).backward()

    @torch.no_grad()
    def sum(self, share: Share) -> Summed:
        found = self.workers.sum_facts(share, self.device)
        for name, whole in self.wholes.items():
            part, gradient = self.here[name], whole.grad
            part.requires_grad_(whole.requires_grad)
            part.data = _local(whole)  # where FSDP holds it now
            part.grad = torch.zeros_like(part) if gradient is None else _local(gradient)
            whole.grad = None
        if not self.shards and self.workers.shares > 1:
            self._sum_gradients()
        gradients = [part.grad for part in self.here.values() if part.grad is not None]
        torch._foreach_div_(gradients, float(found.predictions))
        return found

    def _sum_gradients(self) -> None:
        """Over the shares, where each process has the gradients of its own."""
        gradients = [part.grad for part in self.here.values() if part.grad is not None]
        flat = torch.cat([one.reshape(-1) for one in gradients])
        with self.workers.reached():
            dist.all_reduce(flat, group=self.mesh.get_group("data"))
        for one, total in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
            one.copy_(total.view_as(one))

    @torch.no_grad()
    def clip(self, longest: float) -> float:
        """By the norm of the whole gradient: squares are added up over those processes that hold parts of a matrix."""
        groups: dict[tuple[str, ...], list[Tensor]] = {}
        for name, whole in self.wholes.items():
            gradient = self.here[name].grad
            if gradient is not None:
                groups.setdefault(self._cut_over(whole), []).append(gradient)
        squares = torch.zeros((), device=self.device)
        for dimensions, gradients in groups.items():
            own = nn.utils.get_total_norm(gradients).square()
            with self.workers.reached():
                for dimension in dimensions:
                    dist.all_reduce(own, group=self.mesh.get_group(dimension))
            squares += own
        norm = squares.sqrt()
        torch._foreach_mul_([one for part in groups.values() for one in part], (longest / (norm + 1e-6)).clamp_max(1.0))
        return float(norm)

    def _cut_over(self, whole: Tensor) -> tuple[str, ...]:
        """The dimensions of the mesh over which a parameter is cut."""
        if not isinstance(whole, DTensor):
            return ()
        names = whole.device_mesh.mesh_dim_names or ()
        return tuple(name for name, one in zip(names, whole.placements, strict=True) if not one.is_replicate())

    def parameters(self) -> dict[str, nn.Parameter]:
        return self.here

    def take(self, optimizers: Sequence[optim.Optimizer]) -> None:
        own = {id(whole): self.here[name] for name, whole in self.wholes.items()}
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["params"] = [own[id(whole)] for whole in group["params"]]

    def finite(self) -> bool:
        found = torch.tensor(float(all_finite(self.here.values())), device=self.device)
        with self.workers.reached():
            dist.all_reduce(found, dist.ReduceOp.MIN, group=self.workers.group)
        return bool(found)

    # What a checkpoint holds of a parameter, or of what an optimiser keeps for it: a tensor that knows which part of
    # the whole it is. Where rows were turned they are gathered, put back in order, and cut again, one matrix at a time.

    def laid_out(self, name: str, part: Tensor) -> Tensor:
        """For writing: the part that is here, of a parameter or of its like."""
        whole = self.wholes[name]
        if not isinstance(whole, DTensor):
            return part.detach()
        sizes: Any = {"shape": whole.shape, "stride": whole.stride()}
        placed = DTensor.from_local(part.detach(), whole.device_mesh, whole.placements, run_check=False, **sizes)
        if name not in self.turned:
            return placed
        with self.workers.reached():
            usual = self.turned[name].back(_full(placed))
        return distribute_tensor(usual, self.flat, [Shard(0)], src_data_rank=None)

    def vessel(self, name: str) -> Tensor:
        """For reading: the same, to be filled."""
        return self.laid_out(name, torch.zeros_like(self.here[name]))

    def taken(self, name: str, filled: Tensor) -> Tensor:
        """The part that belongs here."""
        if name not in self.turned:
            return _local(filled)
        assert isinstance(filled, DTensor)
        with self.workers.reached():
            turned = self.turned[name].turn(filled.full_tensor())
        rank = self.mesh.get_local_rank
        own = turned.chunk(self.mesh["tensor"].size())[rank("tensor")]
        if self.shards:  # FSDP cuts what tensor parallel has left
            parts = own.chunk(self.workers.shares)
            own = parts[rank("data")] if rank("data") < len(parts) else own[:0]
        return own.contiguous()

    @torch.no_grad()
    def whole(self) -> Model | None:
        model = self.bare() if self.workers.leads else None
        weights = {}
        for name, value in self.model.state_dict().items():
            with self.workers.reached():
                full = _full(value) if isinstance(value, DTensor) else value
            if model is not None:
                weights[name] = self.turned[name].back(full) if name in self.turned else full
        if model is not None:
            model.load_state_dict(weights)
        return model

    def bare(self) -> Model:
        model = type(self.model)(self.model.config)
        if isinstance(learning := getattr(self.model, LEARNING, None), nn.Linear):
            model.add_module(LEARNING, nn.Linear(learning.in_features, learning.out_features, bias=False))
        return model.to(self.device).train()


class _Learner(nn.Module):
    """A task's loss as a module, so that weights outside of the layers are gathered first, whatever the task calls."""

    def __init__(self, task: Task, model: Model) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Any, smoothing: float) -> tuple[Tensor, Tensor]:
        return self.task.loss(self.model, batch, smoothing)


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Those that attend, but not those that share weights with others (ALBERT): weights have one place."""
    layers = [part for part in model.modules() if isinstance(part, EncoderLayer | DecoderLayer)]
    owners = Counter(id(weight) for layer in layers for weight in layer.parameters())
    return (layer for layer in layers if all(owners[id(weight)] == 1 for weight in layer.parameters()))


def _local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is here, in the same memory."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def _full(tensor: DTensor) -> Tensor:
    """All parts of a tensor, one dimension of the mesh after the other."""
    if tensor.device_mesh.ndim == 2:
        tensor = tensor.redistribute(placements=[Replicate(), tensor.placements[1]])
    return tensor.full_tensor()

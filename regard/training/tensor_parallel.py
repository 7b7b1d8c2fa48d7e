"""Tensor parallel: several processes compute each layer together, every one its share of the heads and inner widths.

Shoeybi et al. 2019, "Megatron-LM", section 3: the first maps of attention and of the feed-forward network are cut by
columns, the last ones by rows, so that a sublayer ends with one sum over the processes (and begins with one in the
backward pass). `torch.distributed.tensor.parallel` cuts the matrices and sends the sums. What stands between the
layers (the residual stream, norms, embeddings, heads) is computed alike in all of them.

Queries, keys and values are one matrix here. Its rows are put into another order first, so that each process gets the
queries, keys and values of its own heads (`Turned`); checkpoints and model folders keep the usual order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from regard.attention import MultiHeadAttention
from regard.errors import RegardError
from regard.layers.feed_forward import FeedForward, GatedFeedForward
from regard.layers.positions import RelativePositions
from regard.native.products import linear


@dataclass(frozen=True)
class Turned:
    """A matrix or bias whose rows stand in another order in training than in files."""

    order: Tensor
    """Which row of the usual order stands at each place."""

    def turn(self, usual: Tensor) -> Tensor:
        """Rows in the order of training."""
        return usual[self.order.to(usual.device)]

    def back(self, turned: Tensor) -> Tensor:
        """Rows in the usual order."""
        return turned[self.order.argsort().to(turned.device)]


def cut_layers(model: nn.Module, mesh: DeviceMesh) -> dict[str, Turned]:
    """Cut every attention and feed-forward network of a model over a mesh of one dimension.

    The parameters whose rows have another order now, by name. RegardError where something cannot be cut evenly.
    """
    count = mesh.size()
    _check(model, count)
    turned: dict[str, Turned] = {}
    for name, part in model.named_modules():
        if isinstance(part, MultiHeadAttention):
            one = _cut_attention(part, mesh)
            turned |= {f"{name}.projection.{kind}": one for kind, _ in part.projection.named_parameters()}
        elif isinstance(part, FeedForward | GatedFeedForward):
            columns = ["inner", "gate"] if isinstance(part, GatedFeedForward) else ["inner"]
            parallelize_module(part, mesh, {**{one: ColwiseParallel() for one in columns}, "output": RowwiseParallel()})
        elif isinstance(part, RelativePositions):
            part.register_forward_hook(partial(_own_heads, mesh))
    return turned


def _check(model: nn.Module, count: int) -> None:
    parts = list(model.modules())
    for part in parts:
        if isinstance(part, MultiHeadAttention):
            for heads, what in ((part.heads, "of attention"), (part.key_heads, "of keys and values")):
                if heads % count:
                    problem = f"does not divide the number of heads {what}, {heads}"
                    raise RegardError(f"processes.tensor_parallel = {count} {problem}")
        elif isinstance(part, FeedForward | GatedFeedForward) and part.inner.out_features % count:
            width = part.inner.out_features
            raise RegardError(f"processes.tensor_parallel = {count} does not divide the inner width {width}")
    if not any(isinstance(part, MultiHeadAttention) for part in parts):
        raise RegardError("processes.tensor_parallel cuts heads of attention, and this model has none")


@torch.no_grad()
def _cut_attention(attention: MultiHeadAttention, mesh: DeviceMesh) -> Turned:
    count, projection = mesh.size(), attention.projection
    widths = [attention.query_width, attention.key_width, attention.key_width]
    queries, keys, values = torch.arange(sum(widths)).split(widths)
    turned = Turned(torch.cat([part.chunk(count)[rank] for rank in range(count) for part in (queries, keys, values)]))
    for parameter in projection.parameters():
        parameter.copy_(turned.turn(parameter))
    parallelize_module(attention, mesh, {"projection": ColwiseParallel(), "output": RowwiseParallel()})
    attention.heads, attention.key_heads = attention.heads // count, attention.key_heads // count
    attention.query_width, attention.key_width = attention.query_width // count, attention.key_width // count
    # Cross-attention takes queries from one matrix and keys and values from another: from rows of this one.
    asking, rest = slice(None, attention.query_width), slice(attention.query_width, None)
    attention.project_queries = partial(_projected, projection, mesh, asking)  # type: ignore[method-assign]
    attention.project_memory = partial(_projected, projection, mesh, rest)  # type: ignore[method-assign]
    return turned


def _projected(projection: nn.Linear, mesh: DeviceMesh, rows: slice, x: Tensor) -> Tensor:
    """Some rows of this process's part of the projection, of a vector that all processes have."""
    weight, bias = _here(projection.weight), None if projection.bias is None else _here(projection.bias)
    return linear(_entering(x, mesh), weight[rows], None if bias is None else bias[rows])


def _own_heads(mesh: DeviceMesh, _: nn.Module, __: Any, added: Tensor) -> Tensor:
    """Of what is added to the scores of all heads, that of this process's."""
    return _entering(added, mesh).chunk(mesh.size())[mesh.get_local_rank()]


def _entering(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """The same values; their gradient is the sum over the processes (Megatron-LM's f)."""
    found: Tensor = DTensor.from_local(x, mesh, [Replicate()], run_check=False).to_local(grad_placements=[Partial()])
    return found


def _here(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter

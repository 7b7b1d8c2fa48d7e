"""How a run is cut over GPUs: what a recipe and the number of processes say together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """`tensor` GPUs compute each layer together; `data` of such groups share every batch."""

    data: int = 1
    tensor: int = 1
    shard: bool = False
    """Weights, gradients and optimiser state are cut over the groups (FSDP); else each group holds them all."""
    micro_batches: int = 1
    """A group's share of a batch is computed in so many parts."""
    checkpointing: bool = False
    """Layers keep what enters them only, and are computed again for the backward pass."""

    @property
    def gpus(self) -> int:
        return self.data * self.tensor

    @property
    def shards(self) -> int:
        return self.data if self.shard else 1

    @property
    def words(self) -> str:
        """In a few words, for a line of a table."""
        kind = "FSDP" if self.shard else "data parallel"
        parts = [f"{kind} {self.data}"] if self.data > 1 or self.tensor == 1 else []
        parts += [f"tensor parallel {self.tensor}"] if self.tensor > 1 else []
        return " x ".join(parts)

    @property
    def settings(self) -> tuple[str, ...]:
        """What a recipe sets for it."""
        return (
            f"processes.shard={str(self.shard).lower()}",
            f"processes.tensor_parallel={self.tensor}",
            f"training.micro_batches={self.micro_batches}",
            f"training.activation_checkpointing={str(self.checkpointing).lower()}",
        )

"""What was computed from a trace, kept under a bound on memory: what was not asked for longest is forgotten first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

Values = dict[str, Tensor]


class Cache:
    """Named results of at most `bound` bytes in all. A result that is larger than that is given, not kept."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._kept: OrderedDict[str, Values] = OrderedDict()
        self.size = 0

    def values(self, name: str, compute: Callable[[], Values]) -> Values:
        """The tensors of that name: those kept, or what `compute` gives."""
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        found = compute()
        self.keep(name, found)
        return found

    def value(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """The same for a single tensor."""
        return self.values(name, lambda: {"": compute()})[""]

    def keep(self, name: str, found: Values) -> None:
        """Take a result in; older ones leave until all fit."""
        size = _bytes(found)
        if size > self.bound:
            return
        self._kept[name] = found
        self.size += size
        while self.size > self.bound:
            _, forgotten = self._kept.popitem(last=False)
            self.size -= _bytes(forgotten)

    def items(self) -> dict[str, Values]:
        """All that is kept now."""
        return dict(self._kept)


def _bytes(values: Values) -> int:
    return sum(value.numel() * value.element_size() for value in values.values())

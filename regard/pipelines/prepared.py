"""A pipeline's model as it generates: prepared by the engine when it is first asked, anew when its weights change."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from regard.generation.engine import Engine, prepare
from regard.generation.matrices import Precision
from regard.models.base import Model

_LARGEST_COPY = 300_000_000
"""Parameters of the largest model that is prepared in float32, where prepared weights take as much memory again."""


class Prepared:
    """What translators and language models share: `precision`, and `generator`, which search works with."""

    model: Any
    precision: Precision = "fp32"
    """Of the weights while answers are searched: fp32, bf16 or int8. A trace is always float32."""
    _engine: Engine | None = None
    _made_of: tuple[Any, ...] = ()

    def generator(self) -> Any:
        """The engine; or the model itself: where hooks watch or change it, where no engine can be made of it, and
        where it is so large that a second copy in float32 would not pay.
        """
        model = self.model
        if model.training or any(part._forward_hooks or part._forward_pre_hooks for part in model.modules()):
            return model
        if self.precision == "fp32" and model.count_parameters() > _LARGEST_COPY:
            return model
        now = made_of(model, self.precision)
        if now != self._made_of:
            made = prepare(model, self.precision)
            self._engine, self._made_of = (made if isinstance(made, Engine) else None), now
        return self._engine or model


def made_of(model: Model, precision: Precision) -> tuple[Any, ...]:
    """What tells whether weights have been changed, or others put in their place, since they were prepared."""
    return id(model), precision, *((one.data_ptr(), _version(one)) for one in model.parameters())


def _version(parameter: Tensor) -> int:
    """Inference tensors keep none: they cannot have been changed in place by training."""
    return 0 if parameter.is_inference() else parameter._version

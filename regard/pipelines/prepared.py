"""A pipeline's model as it generates: prepared by the engine when it is first asked, anew when its weights change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.errors import RegardError
from regard.generation.engine import Engine, prepare
from regard.generation.room import Capture
from regard.generation.static import Static, StaticPrecision, check_static, prepare_static
from regard.models.base import Model
from regard.native.matrices import Precision, checked_precision

_LARGEST_COPY = 300_000_000
"""Parameters of the largest model that is prepared in float32, where prepared weights take as much memory again."""


class Prepared:
    """What translators and language models share: `precision`, and `generator`, which search works with."""

    model: Any
    precision: Precision | StaticPrecision = "fp32"
    """Of the weights while answers are searched: fp32, bf16 or int8; on a GPU fp8 for int8. A trace is float32."""
    capture: Capture | None = None
    """How steps of fixed shapes are run. None: as a recorded graph on a GPU; on a CPU by the engine instead."""
    _engine: Engine | Static | None = None
    _made_of: tuple[Any, ...] = ()

    def generator(self) -> Any:
        """The engine; or the model itself: where hooks watch or change it, where no engine can be made of it, and
        where it is so large that a second copy in float32 would not pay.
        """
        model = self.model
        if model.training or any(part._forward_hooks or part._forward_pre_hooks for part in model.modules()):
            return model
        static = self.capture is not None or model.device.type == "cuda"
        if not static and self.precision == "fp32" and model.count_parameters() > _LARGEST_COPY:
            return model
        now = *made_of(model, self.precision), self.capture
        if now != self._made_of:
            made: Any = (
                prepare_static(model, self.precision, self.capture) if static else prepare(model, self.precision)
            )
            self._engine, self._made_of = (made if isinstance(made, Engine | Static) else None), now
        return self._engine or model


def place(loaded: Any, precision: str, device: str, capture: str | None) -> None:
    """Say of a loaded model where and how it answers. RegardError where that cannot be."""
    model = loaded.model.to(usable(device))
    if capture is not None and not isinstance(loaded, Prepared):
        raise RegardError(f"capture is for what generates with attention; {loaded.name} does not")
    if isinstance(loaded, Prepared) and (capture is not None or model.device.type == "cuda"):
        check_static(model, precision, capture)
        loaded.precision, loaded.capture = precision, capture  # type: ignore[assignment]
    else:
        loaded.precision = checked_precision(precision)


def usable(device: str) -> torch.device:
    """The device of this name; `auto` is a GPU where there is one. RegardError where there is none of this name."""
    try:
        found = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise RegardError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return found


def made_of(model: Model, precision: str) -> tuple[Any, ...]:
    """What tells whether weights have been changed, or others put in their place, since they were prepared."""
    return id(model), precision, *((one.data_ptr(), _version(one)) for one in model.parameters())


def _version(parameter: Tensor) -> int:
    """Inference tensors keep none: they cannot have been changed in place by training."""
    return 0 if parameter.is_inference() else parameter._version

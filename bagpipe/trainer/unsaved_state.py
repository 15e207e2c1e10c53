"""Notices what a model changes while it is trained and no checkpoint holds: a resumed run would begin with it anew.

A checkpoint holds the model's `state_dict`. Buffers that are not part of it (`persistent=False`) are constants by what
they say of themselves: other trainers, checkpoints, exports and evaluations do without them. So one that changes is
refused. An attribute that changes may be a counter for the user's own log, so it is told in the trainer's log.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bagpipe.errors import UserCodeError
from bagpipe.trainer.torch_private import version_of
from bagpipe.trainer.user_code import definition_of

log = logging.getLogger(__name__)

State = Mapping[str, object]
"""By name: a value that is equal as long as nothing was changed."""
_OURS = ("bagpipe.", "torch.")
"""Packages whose modules keep in attributes only what no result depends on, or what every step sets anew."""


class UnsavedState:
    """What the model keeps beside its `state_dict`, as it is when training begins."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._saved = _saved_shapes(model)
        self._buffers, self._attributes = _buffers(model), _attributes(model)
        self._told = False

    def check(self, step: int) -> None:
        """Compare with what is there now.

        Args:
            step: number of steps trained, this one included.

        Raises:
            UserCodeError: names the first buffer that is another.
        """
        if (changed := self._changed_buffer()) is not None:
            where = definition_of(self._model) or type(self._model).__name__
            raise UserCodeError(
                f"{where}: {changed} by step {step}, so a resumed run would not end as this one; register what "
                "training changes in the constructor, as a buffer with persistent=True, and keep what each call "
                "computes anew in no buffer"
            )
        if not self._told and (name := _first_difference(self._attributes, _attributes(self._model))) is not None:
            self._told = True
            log.warning(
                "%s: attribute %s has changed by step %d and is in no checkpoint: a resumed run begins with it anew; "
                "if the result depends on it, make it a buffer",
                *(type(self._model).__name__, name, step),
            )

    def _changed_buffer(self) -> str | None:
        saved = _saved_shapes(self._model)
        for name in [*self._saved, *saved]:
            if name not in saved:
                return f"buffer {name} was removed"
            if name not in self._saved:
                return f"buffer {name} was made"
            if saved[name] != self._saved[name]:
                return f"buffer {name} has become {list(saved[name])} from {list(self._saved[name])}"
        now = _buffers(self._model)
        changed = _first_difference(self._buffers, now)
        self._buffers = now  # One that a first call made may be a cache, but must then stay as it is.
        if changed is None:
            return None
        return f"buffer {changed}, which no checkpoint holds (persistent=False), has changed"


def _saved_shapes(model: nn.Module) -> Mapping[str, torch.Size]:
    """Shapes of the buffers that a checkpoint holds."""
    saved = model.state_dict().keys()
    return {name: buffer.shape for name, buffer in model.named_buffers() if name in saved}


def _buffers(model: nn.Module) -> State:
    """All that the `state_dict` does not have."""
    saved = model.state_dict().keys()
    return {name: _digest(buffer) for name, buffer in model.named_buffers() if name not in saved}


def _attributes(model: nn.Module) -> State:
    """Numbers, tensors and arrays that the user's modules hold as they are."""
    found: dict[str, object] = {}
    for prefix, module in model.named_modules():
        if not type(module).__module__.startswith(_OURS):
            known = {name: _comparable(value) for name, value in _own(module)}
            found |= {f"{prefix}.{name}" if prefix else name: value for name, value in known.items()}
    return {name: value for name, value in found.items() if value is not None}


def _own(module: nn.Module) -> Iterator[tuple[str, Any]]:
    plain = vars(nn.Module())
    return ((name, value) for name, value in vars(module).items() if name not in plain)


def _comparable(value: Any) -> object:
    """None: nothing that is looked at."""
    if isinstance(value, bool | int | float):
        return repr(value)  # NaN is what it was
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return (value.shape, hashlib.sha256(value.tobytes()).digest())
    return _Version(value, version_of(value)) if isinstance(value, torch.Tensor) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Version:
    """A tensor and how often it has been written to, which costs nothing to know, however large it is."""

    tensor: torch.Tensor
    count: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Version) and other.tensor is self.tensor and other.count == self.count

    __hash__ = None  # type: ignore[assignment]  # for comparison only


def _digest(tensor: torch.Tensor) -> object:
    """Of type, shape and every bit; of tensors of other layouts, whose bits lie elsewhere, only which one it is."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        return id(tensor)
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return (tensor.dtype, tuple(tensor.shape), hashlib.sha256(content.data).digest())


def _first_difference(before: State, now: State) -> str | None:
    """Of the names that were there before."""
    return next((name for name in before if name not in now or before[name] != now[name]), None)

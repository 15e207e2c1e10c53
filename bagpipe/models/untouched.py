"""Lets a model compute once without a trace: afterwards its weights, buffers and attributes are what they were.

Inside, it works on copies of its tensors, and of the lists and dictionaries that its modules hold. So nothing that it
writes to is what autograd keeps for a backward pass. What it reaches by other ways, a global or an object of the
user's own, is not covered.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

LARGEST = 1 << 30
"""Bytes of a tensor up to which it is copied: larger ones are tables that are read, and a copy may not fit."""


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Inside, whatever the model changes of itself is undone at the end; see above."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    copies: dict[int, Any] = {}
    for module, attributes in before:
        vars(module).update({name: _copied(value, copies) for name, value in attributes.items()})
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def _copied(value: Any, copies: dict[int, Any]) -> Any:
    """A copy of what a model may write to, and anything else as it is.

    Args:
        copies: those there are, by the identity of what was copied: a tied weight stays tied.
    """
    if id(value) in copies:
        return copies[id(value)]
    copy = value
    if isinstance(value, torch.Tensor):
        copy = _of_tensor(value)
    elif isinstance(value, torch.Generator):
        copy = value.clone_state()
    elif isinstance(value, np.ndarray) and value.nbytes <= LARGEST:
        copy = value.copy()
    elif type(value) in (list, dict, set):
        copy = type(value)()
    copies[id(value)] = copy
    if type(value) is list:
        copy.extend(_copied(item, copies) for item in value)
    elif type(value) is dict:
        copy.update({key: _copied(item, copies) for key, item in value.items()})
    elif type(value) is set:
        copy.update(value)
    return copy


def _of_tensor(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.numel() * tensor.element_size() > LARGEST:
        return tensor
    copy = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copy, requires_grad=tensor.requires_grad)
    return copy

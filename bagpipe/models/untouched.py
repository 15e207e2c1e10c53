"""Lets a model compute once without a trace: afterwards its weights, buffers and attributes are what they were.

Inside, it works on copies of its tensors, and of the lists and dictionaries that its modules hold. So nothing that it
writes to is what autograd keeps for a backward pass. Counters and lists that its classes, or the globals of their
modules, hold are put back too. What it reaches by other ways, an object of the user's own, is not covered.
"""

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

LARGEST = 1 << 30
"""Bytes of a tensor up to which it is copied: larger ones are tables that are read, and a copy may not fit."""
_NOT_USERS = frozenset({"torch", "bagpipe", "builtins", "typing", "abc"})
"""Packages whose classes hold nothing that a forward pass changes."""
_BOUND_ANEW = (bool, int, float, complex, str, bytes, tuple, frozenset, type(None))
_CONTAINERS = (list, dict, set)
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Inside, whatever the model changes of itself is undone at the end; see above."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    copies: dict[int, Any] = {}
    with _classes_untouched(model):
        try:  # The copies too: memory may not suffice for all of them, and a model must not train on some.
            for module, attributes in before:
                vars(module).update({name: _copied(value, copies) for name, value in attributes.items()})
            yield
        finally:
            for module, attributes in before:
                vars(module).clear()
                vars(module).update(attributes)


@contextmanager
def _classes_untouched(model: nn.Module) -> Iterator[None]:
    """Inside, the user's classes and the modules that define them hold copies of their lists and dictionaries."""
    before = [(owner, _data_of(owner)) for owner in _owners(model)]
    try:
        for owner, values in before:
            for name, value in values.items():
                if not isinstance(value, _BOUND_ANEW):
                    _bind(owner, name, copy.deepcopy(value) if isinstance(value, _GENERATORS) else copy.copy(value))
        yield
    finally:
        for owner, values in before:
            for name in _data_of(owner).keys() - values.keys():
                delattr(owner, name)
            for name, value in values.items():
                if name not in vars(owner) or vars(owner)[name] is not value:
                    _bind(owner, name, value)


def _owners(model: nn.Module) -> list[Any]:
    """The classes of the user's own in a model, and the modules in which they are."""
    bases = (base for module in model.modules() for base in type(module).__mro__)
    classes = dict.fromkeys(base for base in bases if base.__module__.partition(".")[0] not in _NOT_USERS)
    modules = dict.fromkeys(sys.modules[one.__module__] for one in classes if one.__module__ in sys.modules)
    return [*classes, *modules]


def _data_of(owner: Any) -> dict[str, Any]:
    """By name, what a class or module holds that a forward pass may bind anew, or write to."""
    data = (*_BOUND_ANEW, *_GENERATORS)
    return {
        name: value
        for name, value in list(vars(owner).items())
        if not name.startswith("__") and (isinstance(value, data) or type(value) in _CONTAINERS)
    }


def _bind(owner: Any, name: str, value: Any) -> None:
    """Also where a metaclass would say something about it."""
    (type.__setattr__ if isinstance(owner, type) else setattr)(owner, name, value)


def _copied(value: Any, copies: dict[int, Any]) -> Any:
    """A copy of what a model may write to, and anything else as it is.

    Args:
        copies: those there are, by the identity of what was copied: a tied weight stays tied.
    """
    if id(value) in copies:
        return copies[id(value)]
    made = value
    if isinstance(value, torch.Tensor):
        made = _of_tensor(value)
    elif isinstance(value, torch.Generator):
        made = value.clone_state()
    elif isinstance(value, np.ndarray) and value.nbytes <= LARGEST:
        made = value.copy()
    elif isinstance(value, _GENERATORS):
        made = copy.deepcopy(value)
    elif type(value) in _CONTAINERS:
        made = type(value)()
    copies[id(value)] = made
    if type(value) is list:
        made.extend(_copied(item, copies) for item in value)
    elif type(value) is dict:
        made.update({key: _copied(item, copies) for key, item in value.items()})
    elif type(value) is set:
        made.update(value)
    return made


def _of_tensor(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.numel() * tensor.element_size() > LARGEST:
        return tensor
    clone = tensor.detach().clone()
    return nn.Parameter(clone, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else clone

"""Loads the user's own figures: Python functions that a setting names."""

from collections.abc import Iterable
from importlib import import_module
from inspect import Signature, signature
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bagpipe.config.metrics import SETTING, Metric
from bagpipe.errors import ConfigError


class Function(Protocol):
    """A figure of one label: greater is better."""

    def __call__(
        self,
        labels: npt.NDArray[np.float64],
        scores: npt.NDArray[np.float64],
        weights: npt.NDArray[np.float64] | None,
        groups: npt.NDArray[np.int64] | None,
        /,
    ) -> float:
        """All arrays `[N]`: labels; probabilities, or expected values; weights and groups where examples have them."""
        ...


def load_functions(metrics: Iterable[Metric]) -> dict[str, Function]:
    """The functions among these figures, by `Metric.name`.

    Raises:
        ConfigError: one cannot be imported, is no function, or takes other arguments.
    """
    return {metric.name: _load(metric.name) for metric in metrics if metric.own}


def check_takes(function: Any, place: str) -> None:
    """Refuse a function that cannot be called with what a figure is made of.

    Args:
        place: the setting, or the function's name in it, for the message.

    Raises:
        ConfigError: it does not take four arguments by position.
    """
    try:
        takes: Signature = signature(function)
    except (TypeError, ValueError):  # Compiled functions may not tell.
        return
    try:
        takes.bind("labels", "scores", "weights", "groups")
    except TypeError:
        raise ConfigError(
            f"{place}: expected a function of (labels, scores, weights, groups), found one of {takes}; write one "
            "that takes these four and calls it"
        ) from None


def _load(name: str) -> Function:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute, None)
    except Exception as error:  # whatever the user's module does when it is imported
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(
            f"{SETTING}: {name}: cannot import {module!r} ({why}); it must be found where the oracle runs, beside the "
            "job file or installed"
        ) from error
    if not callable(found):
        raise ConfigError(f"{SETTING}: {name}: {module!r} has no function {attribute!r}")
    check_takes(found, f"{SETTING}: {name}")
    function: Function = found
    return function

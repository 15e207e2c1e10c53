"""Loads the user's own figures: Python functions that a setting names."""

from collections.abc import Iterable
from importlib import import_module
from typing import Protocol

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
        ConfigError: one cannot be imported, or is no function.
    """
    return {metric.name: _load(metric.name) for metric in metrics if metric.own}


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
    function: Function = found
    return function

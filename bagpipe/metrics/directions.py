"""Which way a figure is better."""

from bagpipe.errors import ConfigError

FAILED = "failed"
"""Key of the reason where an evaluation has no figures."""

HIGHER = frozenset({"auc"})
LOWER = frozenset({"logLoss", "rmse", "mae"})
NEAREST_TO = {"calibration": 1.0, "bias": 0.0}
"""Figures that have a value which is the best one."""


def goodness(metric: str, value: float) -> float:
    """A number that is greater where the figure is better.

    Raises:
        ConfigError: there is no such figure.
    """
    if metric in HIGHER:
        return value
    if metric in LOWER:
        return -value
    if metric in NEAREST_TO:
        return -abs(value - NEAREST_TO[metric])
    raise ConfigError(f"expected a figure that has a better and a worse, found {metric!r}")

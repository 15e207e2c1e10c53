"""Which way a figure is better."""

FAILED = "failed"
"""Key of the reason where an evaluation has no figures."""

LOWER = frozenset({"logLoss", "normalizedEntropy", "rmse", "mae"})
"""Every other figure is better when it is greater, those of the user's own too, but for the next ones."""
NEAREST_TO = {"calibration": 1.0, "bias": 0.0}
"""Figures that have a value which is the best one."""


def goodness(metric: str, value: float) -> float:
    """A number that is greater where the figure is better."""
    if metric in LOWER:
        return -value
    if metric in NEAREST_TO:
        return -abs(value - NEAREST_TO[metric])
    return value

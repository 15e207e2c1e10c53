"""Tells whether a figure is better when it is greater, when it is smaller, or near a value."""

FAILED = "failed"
"""Key of the reason where an evaluation has no figures."""

LOWER = frozenset({"logLoss", "normalizedEntropy", "rmse", "mae"})
"""Figures that are better when they are smaller."""
NEAREST_TO = {"calibration": 1.0, "bias": 0.0}
"""Figures that are best at this value. All others, the user's own too, are better when they are greater."""


def goodness(metric: str, value: float) -> float:
    """A number that is greater where the figure is better."""
    if metric in LOWER:
        return -value
    if metric in NEAREST_TO:
        return -abs(value - NEAREST_TO[metric])
    return value

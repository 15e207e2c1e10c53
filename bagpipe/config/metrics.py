"""Names of the figures of an evaluation, as settings name them: `auc`, `recall@10`, `package.module:function`. Pure."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from bagpipe.config.losses import Figures
from bagpipe.errors import ConfigError

SETTING = "spec.evaluation.metrics"
PLAIN = ("auc", "logLoss", "normalizedEntropy", "calibration", "rmse", "mae", "bias", "groupedAuc")
AT_K = ("recall", "ndcg", "map")
"""Rankings of the first k of each group."""
OF_CLICKS = frozenset({"auc", "logLoss", "normalizedEntropy", "calibration", "groupedAuc"})
"""Figures of probabilities."""
GREATEST_K = 1_000_000
DEFAULT: dict[Figures, tuple[str, ...]] = {
    "clicks": ("auc", "logLoss", "calibration"),
    "values": ("rmse", "mae", "bias"),
    "counts": ("rmse", "mae", "bias"),
    "choices": ("groupedAuc", "recall@1", "ndcg@10"),
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure."""

    key: str
    """Its name among the figures."""
    name: str
    """The figure without k; for a function of the user's, `package.module:function`."""
    k: int = 0
    """How many of each group's highest scores count; 0: not a ranking."""

    @property
    def own(self) -> bool:
        """Whether it is a function of the user's."""
        return ":" in self.name

    @property
    def needs_groups(self) -> bool:
        return self.k > 0 or self.name == "groupedAuc"


def parse_metric(text: str) -> Metric:
    """The figure that a setting names.

    Raises:
        ConfigError: there is no such figure.
    """
    if ":" in text:
        module, _, function = text.partition(":")
        if not module or not function.isidentifier():
            raise ConfigError(f"{SETTING}: expected package.module:function, found {text!r}")
        return Metric(function, text)
    if text in PLAIN:
        return Metric(text, text)
    name, at, number = text.partition("@")
    if name in AT_K and at:
        if not number.isdecimal() or not 1 <= int(number) <= GREATEST_K:
            raise ConfigError(f"{SETTING}: {text!r}: expected a number of items from 1 to {GREATEST_K:,} behind the @")
        return Metric(f"{name}@{int(number)}", name, int(number))
    known = [*PLAIN, *(f"{one}@10" for one in AT_K)]
    near = difflib.get_close_matches(text, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(known)}, or package.module:function"
    raise ConfigError(f"{SETTING}: expected a figure, found {text!r}; {hint}")


def metrics_of(names: Sequence[str], kind: Figures | None) -> tuple[Metric, ...] | None:
    """The figures that are computed; None: the default ones of whatever the labels turn out to be.

    Raises:
        ConfigError: a name is of no figure, is given twice, or its figure does not fit what the loss predicts.
    """
    if not names:
        return None if kind is None else tuple(parse_metric(name) for name in DEFAULT[kind])
    found: dict[str, Metric] = {}
    for metric in map(parse_metric, names):
        if metric.key in found:
            raise ConfigError(f"{SETTING}: two figures are called {metric.key!r}; remove one, or rename the function")
        if kind == "choices" and not (metric.own or metric.needs_groups):
            raise ConfigError(
                f"{SETTING}: {metric.key}: the loss softmax trains nothing but the order of an example's candidates; "
                "name groupedAuc, or rankings such as recall@1, ndcg@10 and map@10"
            )
        if metric.name in OF_CLICKS and kind not in (None, "clicks", "choices"):
            raise ConfigError(f"{SETTING}: {metric.key} is a figure of probabilities, but the loss predicts {kind}")
        found[metric.key] = metric
    return tuple(found.values())


def keys_of(names: Sequence[str], kind: Figures | None) -> tuple[str, ...]:
    """The names of the figures; all default ones, where only the labels will show what is predicted."""
    metrics = metrics_of(names, kind)
    return DEFAULT["clicks"] + DEFAULT["values"] if metrics is None else tuple(metric.key for metric in metrics)

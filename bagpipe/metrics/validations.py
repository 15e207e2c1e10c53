"""Decides which evaluation was the best, and when training stops early. Pure: both follow from the figures so far.

The figures of every evaluation are kept in each later checkpoint, and there is no other state. So a resumed run decides
like one that was never interrupted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bagpipe.config.document import JobSpec
from bagpipe.config.evaluation import EarlyStopping, EvaluationConfig
from bagpipe.config.losses import loss_kind, task_names
from bagpipe.config.metrics import keys_of
from bagpipe.errors import ConfigError
from bagpipe.metrics.directions import FAILED, goodness
from bagpipe.metrics.tasks import by_task


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation of the validation part."""

    step: int
    """Steps trained before it."""
    figures: dict[str, Any]
    """As `evaluate_tasks` gives them, or why there are none (`FAILED`)."""


def figure(validation: Validation, name: str) -> float | None:
    """A figure by its name, `metric` or `label/metric`; None where it is undefined. A single task has no name here."""
    label, _, metric = name.rpartition("/")
    tasks = by_task(validation.figures)
    figures = tasks[label] if label in tasks else tasks.get("", {})
    found = figures.get(metric)
    return found if isinstance(found, float) else None


def goodness_of(validation: Validation, name: str) -> float | None:
    """A number that is greater where the figure is better; None where the figure is undefined."""
    value = figure(validation, name)
    return None if value is None else goodness(name.rpartition("/")[2], value)


def best_step(history: Sequence[Validation], name: str, among: frozenset[int] | None = None) -> int | None:
    """The step whose evaluation was best, the earliest of equal ones; None where the figure was never defined.

    Args:
        among: the steps that count; None: all.
    """
    scored = [
        (score, -validation.step)
        for validation in history
        if (among is None or validation.step in among) and (score := goodness_of(validation, name)) is not None
    ]
    return -max(scored)[1] if scored else None


def without_improvement(history: Sequence[Validation], stopping: EarlyStopping, every: int) -> tuple[int, int | None]:
    """How many of the latest evaluations in a row brought no improvement, and the step at which they were `patience`.

    Only evaluations at multiples of `every` count, because a run that ended and was resumed for longer was also
    evaluated at its end. A failed evaluation is ignored; an undefined figure is no improvement.
    """
    best: float | None = None
    waited = 0
    for validation in history:
        if validation.step % every or FAILED in validation.figures:
            continue
        score = goodness_of(validation, stopping.metric)
        if score is not None and (best is None or score > best + stopping.min_delta):
            best, waited = score, 0
        else:
            waited += 1
        if waited >= stopping.patience:
            return waited, validation.step
    return waited, None


def stops_at(history: Sequence[Validation], config: EvaluationConfig) -> int | None:
    """The step after which training ends early; None: not yet."""
    if config.early_stopping is None:
        return None
    return without_improvement(history, config.early_stopping, config.every)[1]


def may_stop(history: Sequence[Validation], config: EvaluationConfig) -> bool:
    """Whether the next evaluation may end training."""
    if config.early_stopping is None:
        return False
    waited, step = without_improvement(history, config.early_stopping, config.every)
    return step is not None or waited + 1 >= config.early_stopping.patience


def check_figure_name(setting: str, name: str, labels: Sequence[str], metrics: Sequence[str]) -> None:
    """Refuse a figure that no evaluation of this job has.

    Args:
        labels: names of the labels; with one, its name may be left out.
        metrics: names of the figures of each label.

    Raises:
        ConfigError: lists what there is.
    """
    label, _, metric = name.rpartition("/")
    if metric not in metrics:
        raise ConfigError(
            f"{setting}: expected a figure of this job's evaluations ({', '.join(metrics)}), found {name!r}"
        )
    if label and label not in labels:
        raise ConfigError(f"{setting}: {name!r}: there is no label {label!r}; the data has {', '.join(labels)}")
    if not label and len(labels) > 1:
        example = f"{labels[0]}/{metric}"
        raise ConfigError(
            f"{setting}: {name!r}: the data has {len(labels)} labels; name one of them, as in {example!r}"
        )


def check_watched_figures(spec: JobSpec, label_names: Sequence[str]) -> None:
    """Refuse a best checkpoint, or an early stop, by a figure that no evaluation of this job has.

    Args:
        label_names: all labels of the data.

    Raises:
        ConfigError: names the setting, and lists what there is.
    """
    loss = loss_kind(spec.model)
    metrics = keys_of(spec.evaluation.metrics, None if loss is None else loss.figures)
    labels, stopping = task_names(spec.model, label_names), spec.evaluation.early_stopping
    if spec.checkpoint.best is not None:
        check_figure_name("spec.checkpoint.best", spec.checkpoint.best, labels, metrics)
    if stopping is not None:
        check_figure_name("spec.evaluation.earlyStopping.metric", stopping.metric, labels, metrics)


def summary_of(history: Sequence[Validation], config: EvaluationConfig, best: str | None) -> Mapping[str, Any] | None:
    """The entry `validation` of a run's report; None where the validation part was never evaluated."""
    if not history:
        return None
    last = history[-1]
    found: dict[str, Any] = {"evaluations": len(history), "step": last.step, **last.figures}
    stopping = config.early_stopping
    watched = best or (stopping.metric if stopping is not None else None)
    if watched is not None and (step := best_step(history, watched)) is not None:
        value = next(figure(v, watched) for v in history if v.step == step)
        found["best"] = {"step": step, "metric": watched, "value": value}
    if stopping is not None:
        found["stoppedEarly"] = stops_at(history, config) == last.step
    return found

"""Which evaluation is the best and when training stops: by a slow computation over the whole history."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe.config.evaluation import EarlyStopping, EvaluationConfig
from bagpipe.errors import ConfigError
from bagpipe.metrics.directions import goodness
from bagpipe.metrics.validations import (
    Validation,
    best_step,
    check_figure_name,
    figure,
    may_stop,
    stops_at,
)

figures = st.one_of(st.none(), st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.9]))
histories = st.lists(st.tuples(st.integers(1, 3), figures, st.booleans()), max_size=12)


def history_of(entries: list[tuple[int, Any, bool]]) -> list[Validation]:
    """Rising steps; the last of each entry says whether that evaluation failed."""
    step, found = 0, []
    for gap, value, failed in entries:
        step += gap
        found.append(Validation(step=step, figures={"failed": "no"} if failed else {"examples": 9, "auc": value}))
    return found


@given(entries=histories, patience=st.integers(1, 4), delta=st.sampled_from([0.0, 0.06]), every=st.integers(1, 3))
def test_training_stops_after_so_many_evaluations_without_improvement(
    entries: list[tuple[int, Any, bool]], patience: int, delta: float, every: int
) -> None:
    """The first step at which `patience` counted evaluations have passed since the last improvement."""
    history = history_of(entries)
    config = EvaluationConfig(
        every=every, early_stopping=EarlyStopping(metric="auc", patience=patience, min_delta=delta)
    )
    counted = [one for one in history if one.step % every == 0 and "failed" not in one.figures]
    expected = None
    for end in range(1, len(counted) + 1):
        best, improved_at = -math.inf, 0
        for place, one in enumerate(counted[:end], 1):
            value = one.figures["auc"]
            if value is not None and (best == -math.inf or value > best + delta):
                best, improved_at = value, place
        if end - improved_at >= patience and expected is None:
            expected = counted[end - 1].step
    assert stops_at(history, config) == expected
    # A planner that plans on where a stop was possible would train too long.
    if expected is not None:
        before = [one for one in history if one.step < expected]
        assert may_stop(before, config)


@given(entries=histories)
def test_the_best_is_the_earliest_of_the_greatest(entries: list[tuple[int, Any, bool]]) -> None:
    """An undefined figure and a failed evaluation are never the best."""
    history = history_of(entries)
    defined = [(one.step, one.figures["auc"]) for one in history if one.figures.get("auc") is not None]
    expected = None
    for step, value in defined:
        if all(value > other for earlier, other in defined if earlier < step) and all(
            value >= other for _, other in defined
        ):
            expected = step
    assert best_step(history, "auc") == expected
    among = frozenset(step for step, _ in defined[::2])
    assert best_step(history, "auc", among=among) == best_step([one for one in history if one.step in among], "auc")


@pytest.mark.parametrize(
    ("metric", "better", "worse"),
    [("auc", 0.7, 0.6), ("logLoss", 0.4, 0.5), ("rmse", 1.0, 2.0), ("mae", 1.0, 2.0), ("calibration", 0.9, 1.2),
     ("calibration", 1.05, 0.9), ("bias", -0.1, 0.2)],
)  # fmt: skip
def test_each_figure_has_its_better_side(metric: str, better: float, worse: float) -> None:
    """Greater, less, nearest to one, nearest to zero."""
    assert goodness(metric, better) > goodness(metric, worse)


def test_a_figure_is_found_by_its_label() -> None:
    """With one label its name may be left out; with several it is needed."""
    several = Validation(step=3, figures={"examples": 2, "tasks": {"click": {"auc": 0.7}, "buy": {"auc": None}}})
    assert figure(several, "click/auc") == 0.7
    assert figure(several, "buy/auc") is None and figure(several, "auc") is None
    one = Validation(step=3, figures={"examples": 2, "auc": 0.7})
    assert figure(one, "auc") == 0.7 and figure(one, "label/auc") == 0.7
    with pytest.raises(ConfigError, match=r"spec.checkpoint.best: 'auc': the data has 2 labels; .* 'click/auc'"):
        check_figure_name("spec.checkpoint.best", "auc", ["click", "buy"], ["auc"])
    check_figure_name("spec.checkpoint.best", "buy/auc", ["click", "buy"], ["auc"])

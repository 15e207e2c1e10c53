"""Figures as settings name them: each is what it says, or null with a reason; functions of one's own too."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.config.metrics import metrics_of, parse_metric
from bagpipe.errors import ConfigError
from bagpipe.metrics.figures import Task, figures_of
from bagpipe.metrics.functions import load_functions
from bagpipe.metrics.tasks import evaluate_tasks

ALL = ("auc", "logLoss", "normalizedEntropy", "calibration", "rmse", "mae", "bias")


def hit_rate(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None, groups: np.ndarray | None) -> float:
    """Share of the examples on the right side of a half."""
    assert weights is None and groups is None
    return float(np.mean((scores > 0.5) == (labels > 0.5)))


def broken(labels: np.ndarray, *_: object) -> float:
    raise IndexError(f"of {len(labels)}")


def nothing(*_: object) -> float:
    return math.nan


def slow(outputs: list[float], labels: list[float], weights: list[float]) -> dict[str, float | None]:
    """Every figure in plain Python, one example after the other; None where it is undefined."""
    total = sum(weights)
    rates = [1 / (1 + math.exp(-x)) for x in outputs]
    rows = list(zip(rates, labels, weights, strict=True))
    clicks = sum(w * y for _, y, w in rows)
    loss = -sum(w * (y * math.log(p) + (1 - y) * math.log(1 - p)) for p, y, w in rows) / total
    mean = clicks / total
    entropy = -(mean * math.log(mean) + (1 - mean) * math.log(1 - mean)) if 0 < mean < 1 else None
    pairs = won = 0.0
    for p, y, w in rows:
        for q, z, v in rows:
            pairs += w * y * v * (1 - z)
            won += w * y * v * (1 - z) * (1.0 if p > q else 0.5 if p == q else 0.0)
    return {
        "auc": won / pairs if pairs else None,
        "logLoss": loss,
        "normalizedEntropy": loss / entropy if entropy else None,
        "calibration": sum(w * p for p, _, w in rows) / clicks if clicks else None,
        "rmse": math.sqrt(sum(w * (p - y) ** 2 for p, y, w in rows) / total),
        "mae": sum(w * abs(p - y) for p, y, w in rows) / total,
        "bias": sum(w * (p - y) for p, y, w in rows) / total,
    }


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([-2.0, -0.5, 0.0, 1.5]), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.5, 1.0, 3.0])
        ),
        min_size=1,
        max_size=12,
    ),
    weighted=st.booleans(),
)
def test_each_figure_is_that_of_plain_python(rows: list[tuple[float, float, float]], weighted: bool) -> None:
    """With ties, with labels that are probabilities, with weights, and with one class only."""
    outputs, labels, weights = (list(column) for column in zip(*rows, strict=True))
    expected = slow(outputs, labels, weights if weighted else [1.0] * len(rows))
    metrics = metrics_of(ALL, "clicks")
    assert metrics is not None
    own = np.array(weights) if weighted else None
    found = figures_of(Task(np.array(outputs), np.array(labels), "clicks", own), metrics, {})
    for name in ALL:
        if expected[name] is None:
            assert found[name] is None and found["undefined"][name]
        else:
            assert found[name] == pytest.approx(expected[name], abs=1e-9), name


def test_functions_of_ones_own_stand_beside_the_others() -> None:
    """They get probabilities; one that raises, or gives no finite number, is null with the reason."""
    names = ("auc", f"{__name__}:hit_rate", f"{__name__}:broken", f"{__name__}:nothing")
    metrics = metrics_of(names, "clicks")
    assert metrics is not None
    outputs, labels = np.array([[2.0], [-1.0], [1.0]], np.float32), np.array([[1.0], [0.0], [0.0]], np.float32)
    found = evaluate_tasks(outputs, labels, ["y"], "clicks", metrics=metrics, functions=load_functions(metrics))
    assert found["hit_rate"] == pytest.approx(2 / 3) and found["auc"] == 1.0
    assert found["broken"] is None and found["nothing"] is None
    assert found["undefined"] == {"broken": "IndexError: of 3", "nothing": "the function gave nan"}


def test_figures_by_group_say_why_they_are_null() -> None:
    """Without groups, with groups of one class, and with outputs that are not finite."""
    metrics = metrics_of(("groupedAuc", "ndcg@2"), "clicks")
    assert metrics is not None
    labels, groups = np.array([0.0, 0.0]), np.array([1, 2])
    nobody = figures_of(Task(np.zeros(2), labels, "clicks"), metrics, {})
    assert "data.columns.group" in nobody["undefined"]["groupedAuc"]
    alike = figures_of(Task(np.zeros(2), labels, "clicks", None, groups), metrics, {})
    assert alike["undefined"] == {
        "groupedAuc": "no group has both classes",
        "ndcg@2": "no group has an example with a label above 0",
    }
    diverged = figures_of(Task(np.array([np.nan, 0.0]), labels, "clicks", None, groups), metrics, {})
    assert diverged["undefined"]["ndcg@2"] == "1 of 2 outputs are not finite"


def test_candidates_of_one_example_are_one_group() -> None:
    """The task whose labels are candidates ranks them within each example."""
    metrics = metrics_of(("recall@1",), "clicks")
    outputs = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], np.float32)
    labels = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], np.float32)
    found = evaluate_tasks(outputs, labels, ["a", "b", "c"], "clicks", candidates=True, metrics=metrics)
    assert found == {"examples": 2, "recall@1": 0.5}


@pytest.mark.parametrize(
    ("names", "kind", "said"),
    [
        (("acu",), "clicks", r"found 'acu'; did you mean 'auc'\?"),
        (("recall",), "clicks", "did you mean 'recall@10'"),
        (("ndcg@0",), "clicks", "expected a number of items from 1"),
        (("auc", "auc"), "clicks", "two figures are called 'auc'"),
        (("auc",), "values", "auc is a figure of probabilities, but the loss predicts values"),
        (("a.b:",), "clicks", "expected package.module:function"),
    ],
)
def test_a_name_of_no_figure_is_refused(names: tuple[str, ...], kind: str, said: str) -> None:
    """In one line that says what there is."""
    with pytest.raises(ConfigError, match=said):
        metrics_of(names, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "said"), [("no.such:thing", "cannot import"), (f"{__name__}:gone", "has no function")]
)
def test_a_function_that_is_not_there_is_refused(name: str, said: str) -> None:
    """Before anything is trained."""
    with pytest.raises(ConfigError, match=said):
        load_functions([parse_metric(name)])

"""Each label's figures are its own."""

import numpy as np
import pytest

from bagpipe.metrics.clicks import evaluate
from bagpipe.metrics.tasks import by_task, evaluate_tasks
from bagpipe.metrics.values import value_errors

RNG = np.random.default_rng(3)
OUTPUTS = RNG.normal(size=(200, 2)).astype(np.float32)
LABELS = (RNG.random((200, 2)) < [0.5, 0.1]).astype(np.float32)


def test_several_labels_have_figures_by_name_over_examples():
    """Two tasks are judged each by its own column, however the outputs are shaped, and an example counts once."""
    found = evaluate_tasks(OUTPUTS.reshape(-1), LABELS, ("clicked", "bought"), "clicks")
    assert found["examples"] == 200
    assert list(found["tasks"]) == ["clicked", "bought"]
    for task, name in enumerate(("clicked", "bought")):
        alone = evaluate(OUTPUTS[:, task], LABELS[:, task])
        assert found["tasks"][name] == {
            "auc": alone.auc,
            "logLoss": alone.log_loss,
            "calibration": alone.calibration,
        }
    pooled = evaluate(OUTPUTS, LABELS).auc
    assert all(figures["auc"] != pooled for figures in found["tasks"].values())
    assert list(by_task(found)) == ["clicked", "bought"]


def test_one_label_keeps_the_flat_form():
    """Its figures stand beside the number of examples, with no other entry."""
    alone = evaluate(OUTPUTS[:, 0], LABELS[:, 0])
    expected = {"examples": 200, "auc": alone.auc, "logLoss": alone.log_loss, "calibration": alone.calibration}
    assert evaluate_tasks(OUTPUTS[:, :1], LABELS[:, :1], ("label",), "clicks") == expected
    assert by_task(expected) == {"": {name: expected[name] for name in ("auc", "logLoss", "calibration")}}


def test_candidates_of_one_task_are_judged_together():
    """Caser's labels are candidates of an example: its figures are over all of them, its examples are counted once."""
    found = evaluate_tasks(OUTPUTS, LABELS, ("a", "b"), None, candidates=True)
    assert (found["examples"], found["auc"]) == (200, evaluate(OUTPUTS, LABELS).auc)


def test_values_and_counts_have_errors():
    """A count's prediction is the exponential of the output; labels beyond 1 of an unknown loss are values."""
    counts = np.arange(200, dtype=np.float32).reshape(200, 1) % 7
    outputs = OUTPUTS[:, :1]
    as_values, as_counts = value_errors(outputs, counts), value_errors(np.exp(outputs.astype(float)), counts)
    assert evaluate_tasks(outputs, counts, ("n",), "counts")["rmse"] == as_counts.rmse
    assert evaluate_tasks(outputs, counts, ("n",), "values")["mae"] == as_values.mae
    assert evaluate_tasks(outputs, counts, ("n",), None)["rmse"] == as_values.rmse
    assert "auc" in evaluate_tasks(outputs, LABELS[:, :1], ("n",), None)


def test_a_figure_that_is_null_says_why():
    """Labels of one class give null with a word, and so does a model that diverged."""
    zeros = np.zeros((200, 1), np.float32)
    found = evaluate_tasks(OUTPUTS[:, :1], zeros, ("label",), "clicks")
    assert (found["auc"], found["undefined"]["auc"]) == (None, "every label is 0")
    found = evaluate_tasks(np.full((200, 1), np.inf), zeros, ("label",), "values")
    assert (found["rmse"], found["undefined"]["rmse"]) == (None, "a prediction is not finite")


def test_weights_count():
    """An example of weight 0 is not there, for every task."""
    half = np.arange(200) < 100
    found = evaluate_tasks(OUTPUTS, LABELS, ("a", "b"), "clicks", weights_B=half)
    expected = evaluate_tasks(OUTPUTS[:100], LABELS[:100], ("a", "b"), "clicks")
    for name in ("a", "b"):
        assert found["tasks"][name] == pytest.approx(expected["tasks"][name])


def test_another_number_of_outputs_is_refused():
    """Outputs that are not one for each label are a ValueError with both numbers."""
    with pytest.raises(ValueError, match="gave 600 outputs for 400 labels"):
        evaluate_tasks(np.zeros(600), LABELS, ("a", "b"), "clicks")

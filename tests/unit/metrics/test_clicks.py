"""AUC, log loss and calibration against slow and obvious definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.metrics.clicks import FIGURES, Evaluation, calibration_bins, evaluate

EXAMPLES = st.lists(
    st.tuples(st.one_of(st.sampled_from([-1.0, 0.0, 0.5]), st.floats(-50, 50, width=32)), st.integers(0, 1)),
    min_size=1,
    max_size=40,
)


def slow_auc(examples):
    clicks = [x for x, y in examples if y]
    others = [x for x, y in examples if not y]
    if not clicks or not others:
        return None
    won = sum((a > b) + 0.5 * (a == b) for a in clicks for b in others)
    return won / (len(clicks) * len(others))


@settings(deadline=None)
@given(EXAMPLES)
def test_figures_equal_their_definitions(examples):
    """AUC over all pairs with ties at half; log loss and calibration by the textbook."""
    logits, labels = (np.array([x for x, _ in examples], np.float32), np.array([y for _, y in examples], np.float32))
    found = evaluate(logits, labels)
    p = [1 / (1 + math.exp(-float(x))) for x in logits]
    assert found.examples == len(examples)
    assert found.auc == slow_auc(examples)
    loss = [math.log1p(math.exp(-x)) if y else math.log1p(math.exp(-x)) + x for x, y in examples]
    assert found.log_loss == pytest.approx(sum(loss) / len(loss), rel=1e-9, abs=1e-12)
    if labels.any():
        assert found.calibration == pytest.approx(sum(p) / float(labels.sum()), rel=1e-9)
    else:
        assert found.calibration is None


@settings(deadline=None)
@given(EXAMPLES, st.randoms())
def test_the_order_of_examples_never_matters(examples, random):
    """To the last bit: a different batching or number of trainers reports the same figures."""
    shuffled = list(examples)
    random.shuffle(shuffled)
    assert evaluate(*zip(*examples, strict=True)) == evaluate(*zip(*shuffled, strict=True))


def test_degenerate_sets_give_none_not_nan():
    """One class has no AUC, no click has no calibration, no example has nothing."""
    assert evaluate([], []) == Evaluation(0, None, None, None)
    assert evaluate([0.0, 1.0], [1, 1]).auc is None
    only = evaluate([0.0, 1.0], [0, 0])
    assert (only.auc, only.calibration) == (None, None)
    assert only.log_loss == pytest.approx((math.log(2) + math.log1p(math.e)) / 2)


def test_extreme_logits_do_not_overflow():
    """Log loss and AUC of logits up to 1e30 are finite and exact."""
    found = evaluate([1e30, -1e30, 800.0], [1, 0, 0])
    assert found.log_loss == pytest.approx(800 / 3)
    assert found.auc == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_model_has_no_figures(bad):
    """NaN would sort anywhere; the figures are None, never NaN and never a number that means nothing."""
    assert evaluate([0.0, bad, 1.0], [0, 1, 1]) == Evaluation(3, None, None, None)


def assert_same(found, expected):
    """Sums of other numbers of terms differ in the last bits."""
    for name in FIGURES:
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None and other is None) or one == pytest.approx(other, rel=1e-9, abs=1e-12), name


@settings(deadline=None)
@given(EXAMPLES, st.data())
def test_a_weight_counts_as_so_many_examples(examples, data):
    """An example of weight 3 is the example three times, one of weight 0 is none."""
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(examples), max_size=len(examples)))
    repeated = [example for example, weight in zip(examples, weights, strict=True) for _ in range(weight)]
    found = evaluate(*zip(*examples, strict=True), weights)
    expected = evaluate(*zip(*repeated, strict=True)) if repeated else evaluate([], [])
    assert found.examples == len(examples)
    assert_same(found, expected)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 10)), min_size=1, max_size=20))
def test_a_label_between_is_so_much_of_a_click(examples):
    """A label of 0.3 gives the figures of ten examples, three of them clicks."""
    logits, labels = [float(x) for x, _ in examples], [y / 10 for _, y in examples]
    tenfold = [(float(x), float(k < y)) for x, y in examples for k in range(10)]
    found, expected = evaluate(logits, labels), evaluate(*zip(*tenfold, strict=True))
    assert_same(found, expected)


def test_normalized_entropy_is_one_for_who_predicts_the_mean():
    """It is 1 for a model that always predicts the mean label, and less for a better one."""
    labels = [1, 0, 0, 0]
    assert evaluate([math.log(1 / 3)] * 4, labels).normalized_entropy == pytest.approx(1)
    assert evaluate([2.0, -2.0, -2.0, -2.0], labels).normalized_entropy < 0.5


def test_a_figure_that_is_none_says_why():
    """One class, no example and a diverged model are told apart."""
    assert evaluate([0.0, 1.0], [0, 0]).undefined["auc"] == "every label is 0"
    assert evaluate([0.0, 1.0], [1, 1]).undefined == dict.fromkeys(("auc", "normalized_entropy"), "every label is 1")
    assert evaluate([], []).undefined["log_loss"] == "there is no example"
    assert evaluate([0.0, math.nan], [0, 1]).undefined["auc"] == "1 of 2 logits are not finite"
    assert evaluate([0.0], [1], [0.0]).undefined["auc"] == "every weight is 0"


def test_each_logit_needs_a_label():
    """Other numbers of logits and labels are a ValueError that names both."""
    with pytest.raises(ValueError, match="2 logits and 1 labels"):
        evaluate([0.0, 1.0], [0])


def test_calibration_bins_cover_all_examples_in_order():
    """Ten parts of equal size by rising prediction, each with its mean prediction and mean label."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=1003)
    labels = rng.random(1003) < 1 / (1 + np.exp(-logits))
    bins = calibration_bins(logits, labels)
    assert sum(b.examples for b in bins) == 1003
    assert [b.mean_prediction for b in bins] == sorted(b.mean_prediction for b in bins)
    assert all(abs(b.mean_prediction - b.mean_label) < 0.15 for b in bins)
    assert len(calibration_bins([0.0], [1])) == 1

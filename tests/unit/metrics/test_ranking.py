"""Ranking figures by hand."""

import math

import numpy as np
import pytest

from bagpipe.metrics.ranking import rank_users


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_figures_by_hand() -> None:
    """Two users of five items, k = 3: hits at places 1 and 3, and none; what was seen is passed over."""
    scores = np.array([[9.0, 8, 7, 6, 5], [1.0, 2, 3, 4, 5]])
    result = rank_users(scores, [ids(0), ids(2)], [ids(1, 3, 0), ids(0)], k=3)
    # User 0: 0 is seen, first three are 1, 2, 3: hits at 1 and 3. User 1: 4, 3, 1: no hit.
    assert result.users == 2
    assert result.precision == pytest.approx((2 / 3 + 0) / 2)
    assert result.recall == pytest.approx((2 / 3 + 0) / 2)
    assert result.mean_average_precision == pytest.approx(((1 / 1 + 2 / 3) / 3 + 0) / 2)
    assert result.hit_rate == 1 / 2
    best = 1 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert result.ndcg == pytest.approx(((1 / math.log2(2) + 1 / math.log2(4)) / best + 0) / 2)


def test_users_with_nothing_to_find_do_not_count() -> None:
    """They are left out; nobody at all gives zeros."""
    scores = np.zeros((2, 4))
    assert rank_users(scores, [ids(), ids()], [ids(), ids(0)], k=1).users == 1
    nobody = rank_users(scores[:1], [ids()], [ids()])
    assert (nobody.precision, nobody.hit_rate, nobody.ndcg) == (0.0, 0.0, 0.0)


def test_equal_scores_rank_by_number_and_seen_items_are_never_hits() -> None:
    """The order is fixed, and k beyond the unseen items finds nothing more."""
    result = rank_users(np.zeros((1, 4)), [ids(2, 3)], [ids(1, 3)], k=4)
    assert (result.precision, result.recall) == (1 / 4, 1 / 2)
    assert result.mean_average_precision == pytest.approx((1 / 2) / 2)


def test_mismatches_are_refused() -> None:
    """One list of items for each user."""
    with pytest.raises(ValueError, match="expected 2 users"):
        rank_users(np.zeros((2, 4)), [ids()], [ids(), ids()])
    with pytest.raises(ValueError, match="positive k"):
        rank_users(np.zeros((1, 4)), [ids()], [ids()], k=0)

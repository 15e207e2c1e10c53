"""Figures by group equal plain Python over every order of equal scores, whatever the order of the examples."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.metrics.groups import grouped_auc, map_at, ndcg_at, recall_at

Example = tuple[float, float, int, float]
"""Score, label, group, weight."""
examples = st.lists(
    st.tuples(
        st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
        st.sampled_from([0.0, 0.0, 1.0, 1.0]),
        st.integers(-1, 2),
        st.sampled_from([0.5, 1.0, 2.0]),
    ),
    max_size=9,
)
graded = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.0, 1.0, 3.0]), st.integers(0, 1), st.just(1.0)),
    max_size=8,
)


def arrays(found: Sequence[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    columns = list(zip(*found, strict=True)) or [(), (), (), ()]
    scores, labels, groups, weights = columns
    return np.array(scores, float), np.array(labels, float), np.array(groups, np.int64), np.array(weights, float)


def slow_mean(found: Sequence[Example], one: Callable[[list[float]], float]) -> float | None:
    """The mean over groups of the mean over every order of equal scores; groups with nothing relevant are left out."""
    values = []
    for group in sorted({example[2] for example in found}):
        members = [example for example in found if example[2] == group]
        if not any(example[1] > 0 for example in members):
            continue
        orders = [
            [members[place][1] for place in order]
            for order in itertools.permutations(range(len(members)))
            if all(members[a][0] >= members[b][0] for a, b in itertools.pairwise(order))
        ]
        values.append(sum(map(one, orders)) / len(orders))
    return sum(values) / len(values) if values else None


def slow_recall(ranked: list[float], k: int) -> float:
    return sum(label > 0 for label in ranked[:k]) / sum(label > 0 for label in ranked)


def slow_map(ranked: list[float], k: int) -> float:
    total = 0.0
    for place in range(min(k, len(ranked))):
        if ranked[place] > 0:
            total += sum(label > 0 for label in ranked[: place + 1]) / (place + 1)
    return total / min(k, sum(label > 0 for label in ranked))


def slow_ndcg(ranked: list[float], k: int) -> float:
    def gain(labels: list[float]) -> float:
        return sum(label / math.log2(place + 2) for place, label in enumerate(labels[:k]))

    return gain(ranked) / gain(sorted(ranked, reverse=True))


def close(found: float | None, expected: float | None) -> bool:
    return found is None if expected is None else found == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(found=examples.filter(lambda one: len(one) < 8), k=st.integers(1, 6))
def test_recall_and_map_are_means_over_every_order_of_equal_scores(found: list[Example], k: int) -> None:
    """Also where all scores are equal, where k is larger than a group, and where no group has anything relevant."""
    scores, labels, groups, _ = arrays(found)
    assert close(recall_at(scores, labels, groups, k), slow_mean(found, lambda ranked: slow_recall(ranked, k)))
    assert close(map_at(scores, labels, groups, k), slow_mean(found, lambda ranked: slow_map(ranked, k)))


@settings(deadline=None, max_examples=60)
@given(found=graded.filter(lambda one: len(one) < 8), k=st.integers(1, 6))
def test_ndcg_takes_labels_for_gains(found: list[Example], k: int) -> None:
    """Clicks, and grades of several sizes."""
    scores, labels, groups, _ = arrays(found)
    assert close(ndcg_at(scores, labels, groups, k), slow_mean(found, lambda ranked: slow_ndcg(ranked, k)))


@settings(deadline=None)
@given(found=examples, weighted=st.booleans())
def test_grouped_auc_counts_the_pairs_within_groups(found: list[Example], weighted: bool) -> None:
    """Each group counts by its examples, or by their weights; groups of one class are left out."""
    total = won = 0.0
    for group in {example[2] for example in found}:
        members = [(s, y, w if weighted else 1.0) for s, y, g, w in found if g == group]
        pairs = better = 0.0
        for (a, one, wa), (b, other, wb) in itertools.product(members, members):
            if one > other:
                pairs += wa * wb
                better += wa * wb * (1.0 if a > b else 0.5 if a == b else 0.0)
        if pairs:
            counts = sum(w for _, _, w in members)
            total, won = total + counts, won + counts * better / pairs
    scores, labels, groups, weights = arrays(found)
    expected = won / total if total else None
    assert close(grouped_auc(scores, labels, groups, weights if weighted else None), expected)


@settings(deadline=None, max_examples=40)
@given(found=examples, seed=st.integers(0, 9))
def test_the_order_of_the_examples_changes_no_bit(found: list[Example], seed: int) -> None:
    """A model that gives everybody the same score gets no better by how a file is sorted."""
    order = np.random.default_rng(seed).permutation(len(found))
    scores, labels, groups, weights = arrays(found)
    for figure in (recall_at, map_at, ndcg_at):
        assert figure(scores, labels, groups, 3) == figure(scores[order], labels[order], groups[order], 3)
    assert grouped_auc(scores, labels, groups, weights) == grouped_auc(
        scores[order], labels[order], groups[order], weights[order]
    )

"""Figures within groups: the AUC of a user's examples, the ranking of a request's candidates.

Equal scores have no order: a figure is the mean over every order of them, so it does not depend on how examples lie in
their files. All sums are float64 and run in sorted order. Examples of weight 0 are left out.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bagpipe.metrics.clicks import evaluate

Floats64 = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]


def grouped_auc(scores: Floats64, labels: Floats64, groups: Groups, weights: Floats64 | None = None) -> float | None:
    """Mean of each group's AUC, counted by the group's examples (by their weights, where they have some).

    Groups of one class have no AUC and are left out; None: there is no other.
    """
    total = found = 0.0
    for members in _members(groups):
        own = None if weights is None else weights[members]
        auc = evaluate(scores[members], labels[members], own).auc
        if auc is not None:
            counts = float(len(members)) if own is None else float(np.sum(np.sort(own)))
            found, total = found + counts * auc, total + counts
    return found / total if total else None


def recall_at(scores: Floats64, labels: Floats64, groups: Groups, k: int) -> float | None:
    """Mean over groups: share of its relevant examples that are among its k highest scores.

    An example is relevant if its label is above 0. Groups without one are left out; None: there is no other.
    """
    return _mean(_recall(ties, k) for ties in _relevant_ties(scores, labels, groups))


def map_at(scores: Floats64, labels: Floats64, groups: Groups, k: int) -> float | None:
    """Mean over groups of the average precision: the precisions at each relevant example among its k highest scores,
    summed, over min(k, its relevant examples). Groups as in `recall_at`.
    """
    return _mean(_average_precision(ties, k) for ties in _relevant_ties(scores, labels, groups))


def ndcg_at(scores: Floats64, labels: Floats64, groups: Groups, k: int) -> float | None:
    """Mean over groups of the discounted cumulative gain of its k highest scores, over its greatest value.

    The gain of an example is its label, at least 0; the discount at place i is 1 / log2(i + 1). Groups as in
    `recall_at`.
    """
    return _mean(
        _ndcg(scores[members], labels[members], k) for members in _members(groups) if np.any(labels[members] > 0)
    )


def _members(groups: Groups) -> Iterator[npt.NDArray[np.intp]]:
    """The places of each group's examples, by rising group."""
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    return iter(np.split(order, ends)) if len(groups) else iter(())


def _mean(values: Iterator[float]) -> float | None:
    found = np.array(list(values), np.float64)
    return float(np.mean(np.sort(found))) if len(found) else None


Ties = list[tuple[int, int]]
"""A group's examples by falling score: of each score, how many there are and how many of them are relevant."""


def _relevant_ties(scores: Floats64, labels: Floats64, groups: Groups) -> Iterator[Ties]:
    for members in _members(groups):
        relevant = labels[members] > 0
        if relevant.any():
            yield [(int(count), int(hits)) for count, hits in _by_score(scores[members], relevant.astype(np.float64))]


def _by_score(scores: Floats64, values: Floats64) -> Iterator[tuple[int, float]]:
    """For each score, from the highest: how many examples have it, and the sum of their values."""
    order = np.lexsort((values, -scores))
    scores, values = scores[order], values[order]
    first = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
    sums = np.add.reduceat(values, first)
    return zip(np.diff([*first, len(scores)]).tolist(), sums.tolist(), strict=True)


def _recall(ties: Ties, k: int) -> float:
    place, hits = 0, 0.0
    for count, relevant in ties:
        taken = min(count, k - place)
        if taken <= 0:
            break
        hits += relevant * taken / count
        place += count
    return hits / sum(relevant for _, relevant in ties)


def _average_precision(ties: Ties, k: int) -> float:
    """The mean over all orders of examples with equal scores.

    Of `count` examples with one score, the one at place i is relevant with probability relevant / count. If it is, then
    on average (i - 1)(relevant - 1) / (count - 1) of the i - 1 before it are relevant.
    """
    place, before, total = 0, 0, 0.0
    for count, relevant in ties:
        if relevant:
            among = np.arange(min(count, max(0, k - place)), dtype=np.float64)
            earlier = among * (relevant - 1) / (count - 1) if count > 1 else 0.0 * among
            total += relevant / count * float(np.sum((before + 1 + earlier) / (place + 1 + among)))
        place, before = place + count, before + relevant
    return total / min(k, before)


def _ndcg(scores: Floats64, gains: Floats64, k: int) -> float:
    discounts = 1.0 / np.log2(np.arange(2, min(k, len(gains)) + 2))
    place, found = 0, 0.0
    for count, gain in _by_score(scores, gains):
        found += gain / count * float(np.sum(discounts[place : place + count]))
        place += count
    best = np.sort(gains)[::-1][: len(discounts)]
    return found / float(np.sum(best * discounts))

"""Figures of a ranking of items: precision, recall, MAP, hit rate and NDCG of each user's first k.

Items that a user has had already are never recommended. Pure numpy; no torch, no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Items = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Means over the users that have relevant items."""

    users: int
    precision: float
    """Share of the first k items that are relevant."""
    recall: float
    """Share of the relevant items that are among the first k."""
    mean_average_precision: float
    """Mean of the precisions at each hit among the first k, over min(k, relevant items)."""
    hit_rate: float
    """Share of the users that have at least one relevant item among the first k."""
    ndcg: float
    """Sum over hits of 1 / log2(1 + place), over its largest value for this number of relevant items."""


def rank_users(
    scores_UI: npt.NDArray[np.floating], seen: Sequence[Items], relevant: Sequence[Items], k: int = 10
) -> Ranking:
    """Rank all items for each user by descending score (equal scores: by ascending number) and evaluate the first k.

    Args:
        scores_UI: `[users, items]`.
        seen: items of each user that are not recommended.
        relevant: items of each user that are to be found; a user with none is left out.

    Raises:
        ValueError: there is not one `seen` and one `relevant` for each user, or k is not positive.
    """
    if not len(scores_UI) == len(seen) == len(relevant):
        raise ValueError(f"expected {len(scores_UI)} users in seen and relevant, found {len(seen)} and {len(relevant)}")
    if k < 1:
        raise ValueError(f"expected a positive k, found {k}")
    figures = [
        _one(np.asarray(scores, np.float64).copy(), had, wanted, k)
        for scores, had, wanted in zip(scores_UI, seen, relevant, strict=True)
        if len(wanted)
    ]
    if not figures:
        return Ranking(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    return Ranking(len(figures), *np.mean(np.array(figures, np.float64), axis=0).tolist())


def _one(scores_I: npt.NDArray[np.float64], seen: Items, relevant: Items, k: int) -> tuple[float, ...]:
    scores_I[seen] = -np.inf
    first = np.argsort(-scores_I, kind="stable")[:k]
    hits = np.isin(first, relevant) & np.isfinite(scores_I[first])
    precisions = np.cumsum(hits) / np.arange(1, len(first) + 1)
    found, wanted = int(hits.sum()), len(np.unique(relevant))
    gains = 1.0 / np.log2(np.arange(2, len(first) + 2))
    ndcg = float(np.sum(gains * hits) / np.sum(1.0 / np.log2(np.arange(2, min(k, wanted) + 2))))
    average = float(np.sum(precisions * hits)) / min(k, wanted)
    return found / k, found / wanted, average, float(found > 0), ndcg

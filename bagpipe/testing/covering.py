"""Chooses few settings in which every two values of different axes meet: a pairwise covering."""

import itertools
import random
from collections.abc import Sequence
from typing import Any

Setting = tuple[Any, ...]


def covering(axes: Sequence[Sequence[Any]], seed: int = 0, *, draws: int = 200) -> list[Setting]:
    """Settings in which every two values of different axes meet at least once. Greedy, reproducible.

    Args:
        draws: random settings from which the one with most pairs that have not met is taken next.
    """
    draw = random.Random(seed)
    missing = {
        (i, a, j, b) for (i, one), (j, other) in itertools.combinations(enumerate(axes), 2) for a in one for b in other
    }
    chosen = []
    while missing:
        candidates = [tuple(draw.choice(axis) for axis in axes) for _ in range(draws)]
        # One of the pairs that have not met, so that each turn takes at least one away.
        i, a, j, b = min(missing, key=repr)
        candidates.append(tuple(a if n == i else b if n == j else draw.choice(axis) for n, axis in enumerate(axes)))
        best = max(candidates, key=lambda one: len(missing & pairs(one)))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def pairs(setting: Setting) -> set[tuple[int, Any, int, Any]]:
    """Every two values of a setting, each with its axis."""
    return {(i, setting[i], j, setting[j]) for i, j in itertools.combinations(range(len(setting)), 2)}

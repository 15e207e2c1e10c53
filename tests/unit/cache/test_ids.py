"""Ids of the paper's API and their embeddings, against a slow lookup by name."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray

from bagpipe.cache.by_id import embeddings_of
from bagpipe.cache.ids import PADDING, BatchIds
from bagpipe.errors import ConfigError
from bagpipe.plan import GroupPlan
from bagpipe.tables import Table, TableLayout

LAYOUT = TableLayout.of(
    [Table("a", 5, 2, ("x",)), Table("b", 4, 3, ("y", "z")), Table("c", 6, 2, ("w",))],
)
FEATURES = ("x", "y", "z", "w")
TABLE = {"x": "a", "y": "b", "z": "b", "w": "c"}
DIM = {"x": 2, "y": 3, "z": 3, "w": 2}
SIZE = {"x": 5, "y": 4, "z": 4, "w": 6}

Bags = dict[str, list[list[int]]]


class Plan:
    """As much of a `GroupPlan` as ids need: the distinct keys in an order of their own."""

    def __init__(self, keys_K: NDArray[np.int64], inverse_N: NDArray[np.int32], lengths_BT: NDArray[np.int32] | None):
        self.keys_K, self.inverse_N, self.lengths_BT = keys_K, inverse_N, lengths_BT


def plans_of(bags: Bags, examples: int, *, single: bool) -> list[GroupPlan]:
    plans = []
    for group in LAYOUT.groups:
        keys, lengths = [], np.zeros((examples, len(group.feature_names)), np.int32)
        offsets = {f: at for t, at in zip(group.tables, group.offsets, strict=True) for f in t.feature_names}
        for example in range(examples):
            for place, feature in enumerate(group.feature_names):
                bag = bags[feature][example]
                lengths[example, place] = len(bag)
                keys += [one + offsets[feature] for one in bag]
        distinct = np.array(sorted(set(keys), key=lambda key: (key * 7) % 5), np.int64)
        inverse = np.array([int(np.flatnonzero(distinct == key)[0]) for key in keys], np.int32)
        plans.append(Plan(distinct, inverse, None if single else lengths))
    return plans  # type: ignore[return-value]


def weight(feature: str, row: int) -> list[float]:
    """Row `row` of the feature's table."""
    return [ord(TABLE[feature]) + row * 10.0 + column for column in range(DIM[feature])]


def rows_of(plans: list[GroupPlan]) -> list[torch.Tensor]:
    found = []
    for group, plan in zip(LAYOUT.groups, plans, strict=True):
        named = {}
        for table, at in zip(group.tables, group.offsets, strict=True):
            named |= {at + row: weight(table.feature_names[0], row) for row in range(table.num_embeddings)}
        weights = [named[int(key)] for key in plan.keys_K]
        found.append(torch.tensor(weights).reshape(-1, group.embedding_dim).requires_grad_())
    return found


def bags_of(*, single: bool) -> st.SearchStrategy[tuple[int, Bags]]:
    def sized(examples: int) -> st.SearchStrategy[tuple[int, Bags]]:
        few, most = (1, 1) if single else (0, 3)
        bags = {
            f: st.lists(
                st.lists(st.integers(0, SIZE[f] - 1), min_size=few, max_size=most), min_size=examples, max_size=examples
            )
            for f in FEATURES
        }
        return st.tuples(st.just(examples), st.fixed_dictionaries(bags))

    return st.integers(1, 5).flatmap(sized)


@settings(max_examples=60, deadline=None)
@given(st.booleans().flatmap(lambda single: st.tuples(st.just(single), bags_of(single=single))), st.booleans())
def test_ids_and_their_embeddings(given_bags: tuple[bool, tuple[int, Bags]], own: bool) -> None:
    """Features come in the order of the job's tables, across widths; a bag's places are its rows, in order, and what is
    left of the longest bag's length is padding without value or gradient.
    """
    single, (examples, bags) = given_bags
    plans = plans_of(bags, examples, single=single)
    ids = BatchIds(plans, LAYOUT)
    assert isinstance(ids.ids, torch.Tensor) == single
    longest = {f: max(len(bag) for bag in bags[f]) for f in FEATURES}
    padded = {f: [bag + [PADDING] * (longest[f] - len(bag)) for bag in bags[f]] for f in FEATURES}
    for feature, found in zip(FEATURES, ids.ids, strict=True):
        assert found.reshape(examples, longest[feature]).tolist() == padded[feature]
    rows = rows_of(plans)
    asked = ids.ids if own else [found.tolist() for found in ids.ids]
    for feature, found in zip(FEATURES, embeddings_of(rows, ids.local_rows(asked)), strict=True):
        zero = [0.0] * DIM[feature]
        expected = [[weight(feature, row) if row != PADDING else zero for row in bag] for bag in padded[feature]]
        assert found.shape == (*((examples,) if single else (examples, longest[feature])), DIM[feature])
        assert found.reshape(examples, longest[feature], DIM[feature]).tolist() == expected
        if found.requires_grad and found.numel():
            found.sum().backward(retain_graph=True)
    for group, leaf in zip(LAYOUT.groups, rows, strict=True):
        lookups = sum(len(bag) for f in group.feature_names for bag in bags[f])
        total = 0.0 if leaf.grad is None else float(leaf.grad.sum())
        assert total == lookups * group.embedding_dim


def test_lists_of_different_lengths_are_padded() -> None:
    """A list of lists, as the paper writes ids, need not be rectangular."""
    bags: Bags = {"x": [[1, 2], [3]], "y": [[0], [1]], "z": [[], [1, 1]], "w": [[5], []]}
    ids = BatchIds(plans_of(bags, 2, single=False), LAYOUT)
    (local,) = ids.local_rows([[[2, 1], [3]]])
    assert local.index.shape == (2, 2) and (local.index == PADDING).tolist() == [[False, False], [False, True]]


def test_strange_ids_are_named() -> None:
    """An id that the batch does not have, and lists for more features than there are, are one line."""
    bags: Bags = {f: [[1]] for f in FEATURES}
    ids = BatchIds(plans_of(bags, 1, single=True), LAYOUT)
    with pytest.raises(ConfigError, match="id 3 of feature y is not in this batch"):
        ids.local_rows([[1], [3]])
    with pytest.raises(ConfigError, match="5 lists of ids for 4 sparse features"):
        ids.local_rows([[1]] * 5)

"""Which rows are updated how follows from the features that look them up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe.config.document import EmbeddingConfig, RowOptimizer
from bagpipe.config.recipe import RowOptimizerChange, TableOverride
from bagpipe.plan import GroupPlan, PeerLists, Transfer
from bagpipe.tables import Table, TableLayout
from bagpipe.trainer.row_kinds import RowKinds

TABLES = (Table("a", 10, 4, ("a",)), Table("b", 10, 4, ("b0", "b1")), Table("c", 10, 4, ("c",)))
(GROUP,) = TableLayout.of(TABLES).groups
NOTHING = PeerLists.of([])
CHANGES = (
    TableOverride(("b",), optimizer=RowOptimizerChange(lr=9.0)),
    TableOverride(("c",), frozen=True),
)


def part_of(rows_of_lookups: list[tuple[int, int]], lengths_BT: np.ndarray | None, sent: list[int]) -> GroupPlan:
    """A plan of lookups by (table, row), and the local indices whose gradients leave."""
    distinct = sorted(set(rows_of_lookups))
    inverse = np.array([distinct.index(row) for row in rows_of_lookups], np.int32)
    none, no_keys = np.zeros(0, np.int32), np.zeros(0, np.int64)
    nobody = Transfer(NOTHING, NOTHING, NOTHING, NOTHING)
    return GroupPlan(
        slots_K=np.arange(len(distinct), dtype=np.int32),
        inverse_N=inverse,
        lengths_BT=lengths_BT,
        fetch_keys=no_keys,
        fetch_slots=none,
        num_fetch_records=0,
        fetch_after=-1,
        grad_send=PeerLists.of([[i for i in sent if i < len(distinct)]]),
        grad_recv=NOTHING,
        send=nobody,
        receive=nobody,
        evict_keys=no_keys,
        evict_slots=none,
        flush_keys=no_keys,
        flush_slots=none,
        keys_K=no_keys,
    )


@given(
    st.lists(st.tuples(*[st.lists(st.integers(0, 9), max_size=3)] * 4), max_size=5),
    st.sets(st.integers(0, 20)),
    st.booleans(),
)
def test_rows_are_told_apart_by_their_table(examples: list[tuple[list[int], ...]], sent: set[int], plain: bool) -> None:
    """Owned rows of each kind, each once; frozen rows, and rows that somebody else updates, never."""
    table_of_feature = (0, 1, 1, 2)
    if plain:
        examples = [tuple((feature or [0])[:1] for feature in example) for example in examples]
    lookups = [(table_of_feature[t], row) for example in examples for t, rows in enumerate(example) for row in rows]
    lengths = np.array([[len(rows) for rows in example] for example in examples], np.int32).reshape(-1, 4)
    part = part_of(lookups, None if plain else lengths, sorted(sent))
    kinds = RowKinds(EmbeddingConfig(optimizer=RowOptimizer(lr=1.0), overrides=CHANGES), GROUP)
    distinct = sorted(set(lookups))
    for kind, index in kinds.updated(part):
        table = {1.0: 0, 9.0: 1}[kinds.kinds[kind].optimizer.lr]
        assert index.tolist() == [i for i, (t, _) in enumerate(distinct) if t == table and i not in sent]


def test_alike_tables_are_one_kind_and_frozen_ones_none() -> None:
    """Overrides that change nothing of a group's rows cost nothing; where all tables are frozen nobody is updated."""
    part = part_of([(0, 1), (1, 2), (1, 3), (2, 4)], None, [])
    for overrides in ((), (TableOverride(("*",), optimizer=RowOptimizerChange(lr=9.0)),)):
        kinds = RowKinds(EmbeddingConfig(overrides=overrides), GROUP)
        assert [(kind, index.tolist()) for kind, index in kinds.updated(part)] == [(0, [0, 1, 2, 3])]
    frozen = RowKinds(EmbeddingConfig(overrides=(TableOverride(("*",), frozen=True),)), GROUP)
    assert frozen.kinds == ()
    assert list(frozen.updated(part)) == []


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_each_kind_has_its_own_rate(name: str) -> None:
    """A schedule of an override is that of its tables alone."""
    rows = RowOptimizer(name=name, lr=2.0)
    kinds = RowKinds(EmbeddingConfig(optimizer=rows, overrides=CHANGES[:1]), GROUP).kinds
    assert [kind.learning_rate(3) for kind in kinds if kind.learning_rate] == [2.0, 9.0]

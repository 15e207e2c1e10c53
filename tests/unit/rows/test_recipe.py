"""Overrides of tables: which apply, in which order, and what is refused."""

import numpy as np
import pytest

from bagpipe.config.document import EmbeddingConfig, RowOptimizer
from bagpipe.config.recipe import RowOptimizerChange, Schedule, TableOverride
from bagpipe.config.recipe_rules import table_override_findings
from bagpipe.errors import ConfigError
from bagpipe.rows.initial import InitialRows, initial_rows
from bagpipe.rows.recipe import check_overrides, recipe_of
from bagpipe.rows.record import record_widths
from bagpipe.tables import Table, TableLayout

LAYOUT = TableLayout.of(
    [
        Table("user", 10, 4, ("u",)),
        Table("item", 20, 4, ("i",)),
        Table("shop", 5, 2, ("s",)),
        Table("city", 9, 4, ("c",)),
    ]
)
MOMENTUM = RowOptimizer(name="sgd", lr=0.3, momentum=0.9, weight_decay=0.1, schedule=Schedule(warmup_steps=2))


def override(*tables: str, **more: object) -> TableOverride:
    change = RowOptimizerChange(**more.pop("optimizer", {}))  # type: ignore[arg-type]
    return TableOverride(tables, optimizer=change, **more)  # type: ignore[arg-type]


def test_later_overrides_come_on_top() -> None:
    """All that match apply, in their order; what they leave out stays."""
    embedding = EmbeddingConfig(
        optimizer=MOMENTUM,
        init_scale=0.5,
        overrides=(
            override("*er", "it*", optimizer={"lr": 1.0}, frozen=True),
            override("user", optimizer={"momentum": 0.5}, init_scale=0.25),
            override("i??m", frozen=False),
        ),
    )
    user, item, shop = (recipe_of(embedding, name) for name in ("user", "item", "shop"))
    assert (user.optimizer.lr, user.optimizer.momentum, user.init_scale, user.frozen) == (1.0, 0.5, 0.25, True)
    assert (item.optimizer.lr, item.optimizer.momentum, item.init_scale, item.frozen) == (1.0, 0.9, 0.5, False)
    assert (shop.optimizer, shop.init_scale, shop.frozen) == (MOMENTUM, 0.5, False)


def test_another_optimizer_keeps_what_every_optimizer_has() -> None:
    """Rate, decay, bounds and schedule stay; momentum is gone with sgd."""
    changed = recipe_of(
        EmbeddingConfig(optimizer=MOMENTUM, overrides=(override("*", optimizer={"name": "adam", "beta1": 0.5}),)),
        "user",
    ).optimizer
    expected = RowOptimizer(name="adam", lr=0.3, beta1=0.5, weight_decay=0.1, schedule=Schedule(warmup_steps=2))
    assert changed == expected


def test_records_have_room_for_the_widest_and_begin_as_their_table_says() -> None:
    """One width for all rows of a width group; each row starts with its own optimizer's accumulator and scale."""
    embedding = EmbeddingConfig(
        optimizer=RowOptimizer(name="sgd"),
        overrides=(
            override("user", optimizer={"name": "adagrad", "initial_accumulator": 0.25}, init_scale=0.0),
            override("shop", optimizer={"name": "adam"}),
        ),
    )
    assert record_widths(embedding, LAYOUT) == (8, 6)
    rows = InitialRows(LAYOUT.groups[0], embedding, seed=3)
    keys, out = np.array([3, 12, 31]), np.empty((3, 8), np.float32)
    rows.fill_records(keys, out)
    np.testing.assert_array_equal(out[0], [0] * 4 + [0.25] * 4)
    np.testing.assert_array_equal(out[1, :4], initial_rows(3, 1, [2], 4, 20**-0.5)[0])
    np.testing.assert_array_equal(out[2, :4], initial_rows(3, 3, [1], 4, 9**-0.5)[0])
    np.testing.assert_array_equal(out[1:, 4:], 0)


def test_a_pattern_that_matches_no_table_is_refused_by_name() -> None:
    """The pattern, and the tables that there are."""
    embedding = EmbeddingConfig(overrides=(override("user", frozen=True), override("u*", "items", frozen=True)))
    with pytest.raises(ConfigError, match=r"overrides\[1\].tables: 'items' matches no table; there are user, item"):
        check_overrides(embedding, ["user", "item"])
    check_overrides(embedding, ["user", "items"])


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ([override("a")], "o[0]: changes nothing"),
        ([override("a", optimizer={"momentum": 0.5})], "o[0].optimizer.momentum: has no effect on adagrad"),
        ([override("a", optimizer={"name": "sgd", "eps": 1.0})], "o[0].optimizer.eps: has no effect on sgd"),
        ([override("a", optimizer={"schedule": Schedule(name="step")})], "o[0].optimizer.schedule: schedule step"),
        ([override("a", optimizer={"name": "sgd"}), override("a", optimizer={"momentum": 0.5})], ""),
        ([override("a", optimizer={"name": "sgd"}), override("a", optimizer={"beta1": 0.5})], "o[1].optimizer.beta1"),
    ],
)
def test_changes_without_effect_are_refused(overrides: list[TableOverride], named: str) -> None:
    """Of the optimizer that the tables have by then."""
    found = [f"{where}: {problem}" for where, problem in table_override_findings("o", RowOptimizer(), overrides)]
    assert any(one.startswith(named) for one in found) if named else not found

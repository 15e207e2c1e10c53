"""`bagpipe plan` in numbers: exact on cases small enough to count by hand, consistent on larger ones."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.batch import Batch, Cursor, SparseBlock
from bagpipe.config.document import EmbeddingConfig, RowOptimizer
from bagpipe.errors import ConfigError
from bagpipe.net.plan_codec import pack_plan, plan_bytes
from bagpipe.oracle.plan.planner import GroupPlanner
from bagpipe.oracle.plan.schedule import TrainingSchedule
from bagpipe.oracle.sizing.estimate import Estimate, LinkBytes, Speed, cache_rows_for, estimate, suggest, sweep
from bagpipe.tables import Table, TableLayout

SGD = RowOptimizer(name="sgd")
ADAGRAD = RowOptimizer(name="adagrad")
FREE_NETWORK = Speed(compute_seconds=1.0, bytes_per_second=1e12)
"""Every lookahead takes the same time: traffic decides."""
ONE_TABLE = TableLayout.of([Table("a", 40, 4, ("a",))])


def batches_of(steps: list[list[int]]) -> list[Batch]:
    """One feature, one lookup for each example."""
    return [
        Batch(
            Cursor(0, i), Cursor(0, i + 1), np.zeros((len(keys), 2), np.float32), np.zeros((len(keys), 1), np.float32),
            (SparseBlock(np.array(keys, np.int64)),),
        )
        for i, keys in enumerate(steps)
    ]  # fmt: skip


def of(steps: list[list[int]], *, world_size: int = 1, lookahead: int = 1, rows: int | None = None) -> Estimate:
    return estimate(
        batches_of(steps), ONE_TABLE, world_size=world_size, num_servers=2, lookahead=lookahead, cache_rows=(rows,),
        embedding=EmbeddingConfig(optimizer=ADAGRAD),
    )  # fmt: skip


def test_one_trainer_by_hand() -> None:
    """Rows 1, 2 | 2, 3 | 1, 3 with one batch of view: 1 is fetched twice, 2 and 3 once."""
    result = of([[1, 2], [2, 3], [1, 3]])
    assert (result.steps, result.examples) == (3, 6)
    assert result.hit_rate == pytest.approx(1 - 4 / 6)
    assert (result.peak_rows, result.least_rows) == ((2,), (2,))
    assert result.bytes.fetch == pytest.approx(4 * (8 + 32) / 3)
    assert result.bytes.write_back == pytest.approx(4 * (8 + 32) / 3)
    assert result.peer_bytes == 0
    assert result.uncached_bytes == pytest.approx(6 * (8 + 16 + 8 + 32) / 3)


def test_two_trainers_by_hand() -> None:
    """Row 5 at both trainers, then at the one that did not own it: a gradient, a value, a record."""
    result = of([[5, 5], [5, 5]], world_size=2)
    assert result.bytes.fetch == pytest.approx(((8 + 32) + (8 + 16)) / 2)
    assert result.bytes.gradients == pytest.approx(2 * 16 / 2)
    assert result.bytes.values == pytest.approx(16 / 2)
    assert result.bytes.records == 0
    assert result.bytes.eager == result.bytes.values
    moving = of([[5, 6], [6, 5]], world_size=2)
    assert moving.bytes.records == pytest.approx(2 * 32 / 2)
    assert moving.bytes.gradients == moving.bytes.values == 0


def test_time_of_a_step_by_hand() -> None:
    """Compute and eager bytes in a row, or the busiest link, whichever is longer."""
    result = of([[5, 6], [6, 5]], world_size=2)
    assert result.step_seconds(compute_seconds=100.0, bytes_per_second=16) == pytest.approx(100.0 + 16 / 16)
    link = (result.peer_bytes + result.server_bytes + result.bytes.plans) / 2
    assert result.step_seconds(compute_seconds=0.0, bytes_per_second=16) == pytest.approx(link / 16)
    assert result.uncached_step_seconds(compute_seconds=1.0, bytes_per_second=64) == pytest.approx(1.0 + 64 / 64)


steps_of_examples = st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=12), min_size=1, max_size=15)


@settings(deadline=None, max_examples=60)
@given(steps=steps_of_examples, world_size=st.integers(1, 4), lookahead=st.integers(0, 5))
def test_the_peak_is_the_smallest_cache_for_a_lookahead(
    steps: list[list[int]], world_size: int, lookahead: int
) -> None:
    """A cache of `peak_rows` changes nothing; with one row less something must leave early, or cannot run."""
    free = of(steps, world_size=world_size, lookahead=lookahead)
    exact = of(steps, world_size=world_size, lookahead=lookahead, rows=free.peak_rows[0])
    assert (exact.shortened_steps, exact.bytes.fetch) == (0, free.bytes.fetch)
    if free.peak_rows == free.least_rows:
        if free.peak_rows[0] > 1:
            with pytest.raises(ConfigError):
                of(steps, world_size=world_size, lookahead=lookahead, rows=free.peak_rows[0] - 1)
    else:
        assert of(steps, world_size=world_size, lookahead=lookahead, rows=free.peak_rows[0] - 1).shortened_steps > 0


@settings(deadline=None, max_examples=40)
@given(steps=steps_of_examples, world_size=st.integers(1, 3))
def test_bytes_are_those_of_the_plans(steps: list[list[int]], world_size: int) -> None:
    """Counting the plans' own arrays gives the same bytes."""
    result = of(steps, world_size=world_size, lookahead=3)
    schedule = TrainingSchedule(ONE_TABLE, world_size=world_size, lookahead=3, slots=(None,))
    fetch = write_back = gradients = plans_bytes = 0
    for plans in schedule.plans(batches_of(steps)):
        for plan in plans:
            group = plan.groups[0]
            records = group.num_fetch_records
            fetch += records * (8 + 32) + (group.fetch_keys.size - records) * (8 + 16)
            write_back += group.evict_keys.size * (8 + 32)
            gradients += group.grad_send.values.size * 16
            plans_bytes += plan_bytes(pack_plan(plan)[1])
    found = (result.bytes.fetch, result.bytes.write_back, result.bytes.gradients, result.bytes.plans)
    assert found == pytest.approx(tuple(x / len(steps) for x in (fetch, write_back, gradients, plans_bytes)))


def test_the_shortest_lookahead_near_the_least_traffic_is_suggested() -> None:
    """Rows return after three steps: a view of three suffices and a longer one only costs memory."""
    steps = [[i % 3, 10 + i % 3, 20] for i in range(30)]
    table = sweep(
        lambda: batches_of(steps),
        ONE_TABLE,
        [8, 1, 3, 3],
        world_size=1,
        num_servers=1,
        cache_rows=(None,),
        embedding=EmbeddingConfig(optimizer=SGD),
    )
    assert [e.lookahead for e in table] == [1, 3, 8]
    chosen = suggest(table, ONE_TABLE, FREE_NETWORK)
    assert (chosen.lookahead, chosen.cache_rows) == (3, table[1].peak_rows[0])
    assert "lookahead 3" in chosen.reason
    tight = suggest(table, ONE_TABLE, FREE_NETWORK, max_cache_rows=4)
    assert tight.lookahead == 1
    tiny = suggest(table, ONE_TABLE, FREE_NETWORK, max_cache_rows=3)
    assert (tiny.lookahead, tiny.cache_rows) == (1, table[0].peak_rows[0])
    none = suggest(table[1:], ONE_TABLE, FREE_NETWORK, max_cache_rows=3)
    assert (none.lookahead, none.cache_rows) == (3, 3)
    assert "shortens" in none.reason


def test_a_suggestion_is_fast_on_every_link() -> None:
    """On simulated links, slow or fast, it takes at most a tenth longer than the best of the sweep."""
    rng = np.random.default_rng(3)
    steps = [np.minimum(rng.zipf(1.2, 64) - 1, 39).tolist() for _ in range(40)]
    for world_size in (1, 2, 4):
        lookaheads = (0, 1, 2, 5, 10, 20)
        table = [of(steps, world_size=world_size, lookahead=ahead) for ahead in lookaheads]
        for bytes_per_second in (1e2, 1e3, 1e4, 1e5, 1e6):
            for compute_seconds in (0.0, 0.01, 0.1, 1.0):
                speed = Speed(compute_seconds=compute_seconds, bytes_per_second=bytes_per_second)
                chosen = suggest(table, ONE_TABLE, speed)
                taken = speed.step_seconds(table[lookaheads.index(chosen.lookahead)])
                assert taken <= 1.1 * min(speed.step_seconds(e) for e in table)


def test_time_comes_before_traffic() -> None:
    """A longer view may spare the servers and yet cost time between trainers: then it is not suggested."""
    calm = of([[1, 2], [2, 3], [1, 3]], lookahead=1)
    nothing = LinkBytes(*[0.0] * 7)
    short = replace(calm, lookahead=1, bytes=replace(nothing, fetch=100.0))
    long = replace(calm, lookahead=9, bytes=replace(nothing, gradients=100.0))
    slow_compute = Speed(compute_seconds=100.0, bytes_per_second=1.0)
    assert suggest([short, long], ONE_TABLE, slow_compute).lookahead == 1
    assert suggest([short, long], ONE_TABLE, FREE_NETWORK).lookahead == 9


def test_cache_rows_are_enough_for_every_width() -> None:
    """The division by features leaves each width group what it needs."""
    layout = TableLayout.of([Table("a", 9, 4, ("a", "b", "c")), Table("d", 9, 8, ("d",))])
    assert cache_rows_for((30, 4), layout) == 40
    assert cache_rows_for((30, 11), layout) == 44


def test_no_batches_need_nothing() -> None:
    """An empty dataset is an answer, not a division by zero."""
    result = of([])
    assert (result.steps, result.hit_rate, result.server_bytes) == (0, 0.0, 0.0)


def test_planner_memory_is_reported() -> None:
    """The window's memory does not depend on the size of the tables."""
    small, large = (GroupPlanner(num_rows=n, world_size=1, lookahead=2) for n in (10, 10**6))
    assert small.window_bytes == large.window_bytes > 0

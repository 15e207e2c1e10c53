"""The planner's promises, each checked by executing its plans against the plain uncached execution."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bagpipe.errors import ConfigError, PlanError
from bagpipe.oracle.plan.planner import GroupPlanner, Lookups
from bagpipe.plan import GroupPlan
from bagpipe.testing.plan_model import Stream, make_stream, run_plans

ANY_SPARE = st.sampled_from([None, 0, 1, 3, 50])
SLOW = settings(deadline=None, max_examples=150)


@st.composite
def streams(draw: st.DrawFn, spare: st.SearchStrategy[int | None] = ANY_SPARE) -> Stream:
    return make_stream(
        draw(st.integers(0, 2**32 - 1)),
        world_size=draw(st.integers(1, 4)),
        lookahead=draw(st.sampled_from([0, 1, 2, 3, 6, 40])),
        num_steps=draw(st.integers(1, 30)),
        num_rows=draw(st.sampled_from([1, 5, 40])),
        share=draw(st.integers(0, 9)),
        skew=draw(st.sampled_from([0.0, 1.3, 2.0])),
        spare=draw(spare),
    )


@SLOW
@given(stream=streams(), every=st.integers(0, 5))
def test_a_planned_run_is_the_uncached_run(stream: Stream, every: int) -> None:
    """Every read has the uncached value, fetches name what they wait for, checkpoints and tables are whole."""
    checkpoints = frozenset(range(every - 1, len(stream.steps), every)) if every else frozenset()
    run_plans(stream, checkpoints)


@SLOW
@given(stream=streams(spare=st.sampled_from([0, 1, 2, 5])))
def test_a_cache_is_never_exceeded(stream: Stream) -> None:
    """However small, as long as each single step fits: no trainer ever uses a slot beyond `cache_rows`."""
    planner = run_plans(stream)
    assert stream.cache_rows is not None
    assert max(planner.stats.peak_rows) <= stream.cache_rows
    planner = stream.planner()
    for plans in stream.plans(planner):
        for plan in plans:
            slots = np.concatenate([plan.slots_K, plan.fetch_slots, plan.receive.deferred_values.values])
            assert slots.max(initial=0) < max(stream.cache_rows, 1)


@SLOW
@given(stream=streams())
def test_nothing_waits_for_the_write_back_of_the_step_before(stream: Stream) -> None:
    """With a view, a row that comes back at the next step stays: fetches for step s need s - 2 at most."""
    for step, plans in enumerate(stream.plans(stream.planner())):
        late = max(step - (2 if stream.lookahead else 1), -1)
        assert all(-1 <= plan.fetch_after <= late for plan in plans)


@SLOW
@given(stream=streams(spare=st.none()))
def test_a_row_is_fetched_once_for_each_stay(stream: Stream) -> None:
    """Without a limit, a row is fetched only when no step of the view before used it, and by each user once."""
    last: dict[int, int] = {}
    for step, plans in enumerate(stream.plans(stream.planner())):
        rows = {key for share in stream.steps[step] for key in share}
        absent = {key for key in rows if key not in last or step - last[key] > stream.lookahead}
        for plan, share in zip(plans, stream.steps[step], strict=True):
            assert sorted(plan.fetch_keys.tolist()) == sorted(set(share) & absent)
        records = [key for plan in plans for key in plan.fetch_keys[: plan.num_fetch_records].tolist()]
        assert sorted(records) == sorted(absent)
        last.update(dict.fromkeys(rows, step))


@SLOW
@given(stream=streams())
def test_every_row_has_one_owner(stream: Stream) -> None:
    """In every step each distinct row is updated exactly once, and each other user sends one gradient."""
    for step, plans in enumerate(stream.plans(stream.planner())):
        shares = [set(share) for share in stream.steps[step]]
        rows = set().union(*shares)
        assert sum(plan.owned().size for plan in plans) == len(rows)
        sent = sum(plan.grad_send.values.size for plan in plans)
        assert sent == sum(len(s) for s in shares) - len(rows)
        assert sent == sum(plan.grad_recv.values.size for plan in plans)


@SLOW
@given(stream=streams())
def test_eager_is_what_the_next_step_reads(stream: Stream) -> None:
    """Values for the next step travel as eager, all others as deferred."""
    planned = list(stream.plans(stream.planner()))
    for plans, following in itertools.pairwise(planned):
        for plan, later in zip(plans, following, strict=True):
            needed = set(later.slots_K.tolist())
            eager = [*plan.receive.eager_values.values.tolist(), *plan.receive.eager_records.values.tolist()]
            deferred = [*plan.receive.deferred_values.values.tolist(), *plan.receive.deferred_records.values.tolist()]
            assert set(eager) <= needed
            assert not set(deferred) & needed


def belady_fetches(steps: list[list[int]], cache_rows: int) -> int:
    """Fewest fetches possible with all of the future known: drop the row whose next use is furthest."""

    def next_use(key: int, after: int) -> int:
        return next((s for s in range(after, len(steps)) if key in steps[s]), len(steps))

    held: set[int] = set()
    fetched = 0
    for step, share in enumerate(steps):
        rows = set(share)
        fetched += len(rows - held)
        idle = sorted(held - rows, key=lambda key: next_use(key, step))
        held = rows | set(idle[: cache_rows - len(rows)])
    return fetched


@SLOW
@given(
    seed=st.integers(0, 2**32 - 1), spare=st.integers(0, 12), share=st.integers(1, 8), skew=st.sampled_from([0.0, 1.3])
)
def test_fetches_are_never_fewer_than_possible_nor_more_than_without_a_cache(
    seed: int, spare: int, share: int, skew: float
) -> None:
    """Between the optimum for that many rows and the number without keeping anything; exact when all fits."""
    stream = make_stream(
        seed, world_size=1, lookahead=40, num_steps=30, num_rows=25, share=share, skew=skew, spare=spare
    )
    assert stream.cache_rows is not None
    steps = [shares[0] for shares in stream.steps]
    fetched = run_plans(stream).stats.fetched_rows
    best = belady_fetches(steps, stream.cache_rows)
    assert best <= fetched <= sum(len(set(share)) for share in steps)
    if stream.cache_rows >= 25:
        assert fetched == best == len({key for share in steps for key in share})


def assert_same(left: object, right: object) -> None:
    if isinstance(left, np.ndarray):
        assert isinstance(right, np.ndarray)
        assert np.array_equal(left, right)
    elif dataclasses.is_dataclass(left):
        for item in dataclasses.fields(left):
            assert_same(getattr(left, item.name), getattr(right, item.name))
    else:
        assert left == right


@SLOW
@given(stream=streams())
def test_the_same_batches_give_the_same_plans(stream: Stream) -> None:
    """A restarted oracle repeats its decisions to the letter."""
    for left, right in zip(stream.plans(stream.planner()), stream.plans(stream.planner()), strict=True):
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)


def one_step(keys: list[int], world_size: int = 1) -> Lookups:
    bounds = np.arange(world_size + 1, dtype=np.int64) * len(keys) // world_size
    return Lookups(np.array(keys, np.int64), bounds, (None,) * world_size)


def test_a_single_step_that_does_not_fit_is_a_configuration_error() -> None:
    """The message names the setting, the step, what it needs and what there is."""
    planner = GroupPlanner(num_rows=10, world_size=2, lookahead=1, cache_rows=3)
    planner.push(one_step([1, 2, 3, 4, 4, 4], world_size=2))
    with pytest.raises(ConfigError, match=r"spec\.cacheRows: step 1 alone uses 4 distinct rows on trainer 1.*holds 3"):
        planner.push(one_step([1, 1, 1, 1, 2, 3, 4, 5], world_size=2))


@pytest.mark.parametrize("key", [-1, 10, 2**40])
def test_a_key_outside_the_tables_is_refused(key: int) -> None:
    """Before it can be used as an index."""
    planner = GroupPlanner(num_rows=10, world_size=1, lookahead=1)
    with pytest.raises(PlanError, match=rf"step 0: key {key} is outside \[0, 10\)"):
        planner.push(one_step([3, key, 4]))


@settings(deadline=None, max_examples=60)
@given(stream=streams(spare=st.sampled_from([0, 1, 3])), every=st.integers(1, 4), outside=st.booleans())
def test_a_refused_batch_changes_nothing(stream: Stream, every: int, outside: bool) -> None:
    """A batch with a key outside the tables, or with too many rows, leaves no trace in the plans that follow."""
    keys = list(range(stream.num_rows + outside))
    bad = Lookups(np.array(keys), np.array([0] + [len(keys)] * stream.world_size), (None,) * stream.world_size)
    assume(outside or len(keys) > stream.cache_rows)
    disturbed = stream.planner()
    push, pushes = disturbed.push, itertools.count()

    def push_bad_batches_too(lookups: Lookups) -> None:
        if next(pushes) % every == 0:
            with pytest.raises(PlanError if outside else ConfigError):
                push(bad)
        push(lookups)

    disturbed.push = push_bad_batches_too
    for left, right in zip(stream.plans(disturbed), stream.plans(stream.planner()), strict=True):
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)


def test_pushing_beyond_the_view_is_refused() -> None:
    """The window holds the step to plan and `lookahead` more."""
    planner = GroupPlanner(num_rows=10, world_size=1, lookahead=2)
    for _ in range(3):
        planner.push(one_step([1, 2]))
    assert planner.pending == 3
    with pytest.raises(PlanError, match="3 batches wait already"):
        planner.push(one_step([1]))


def test_planning_an_empty_view_is_refused() -> None:
    """There is no step to plan before one is pushed."""
    with pytest.raises(PlanError, match="push"):
        GroupPlanner(num_rows=10, world_size=1, lookahead=2).plan()


def test_large_shares_have_wide_local_indices() -> None:
    """More lookups than 16 bits count still get their own local index."""
    keys = np.arange(70_000, dtype=np.int64)
    planner = GroupPlanner(num_rows=70_000, world_size=1, lookahead=0)
    planner.push(Lookups(keys, np.array([0, keys.size], np.int64), (None,)))
    plan: GroupPlan = planner.plan()[0]
    assert plan.inverse_N.dtype == np.int32
    assert np.array_equal(plan.fetch_keys[plan.inverse_N], keys)


def test_growing_rings_keep_every_link() -> None:
    """Batches that outgrow the rings several times over still run as the uncached execution does."""
    run_plans(
        make_stream(1, world_size=3, lookahead=9, num_steps=30, num_rows=900, share=400, skew=0.0, spare=None),
        frozenset({3, 20}),
    )


def test_under_pressure_the_view_shortens_and_says_so() -> None:
    """Rows that had to leave although the view held their next use are counted."""
    stream = Stream(10, 1, 5, [[[0, 1]], [[2, 3]], [[0, 1]], [[2, 3]]], cache_rows=3)
    stats = run_plans(stream).stats
    assert (stats.shortened_steps, stats.refused_rows, stats.shortest_view) == (2, 2, 2)
    assert stats.fetched_rows == 6
    assert stats.hit_rate == pytest.approx(1 - 6 / 8)

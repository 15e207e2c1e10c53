"""Is the compiled planner the readable one? Their plans are compared field by field."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.batch import Batch, Cursor, SparseBlock
from bagpipe.oracle.plan.planner import GroupPlanner
from bagpipe.oracle.plan.reference_planner import ReferencePlanner
from bagpipe.oracle.plan.schedule import EvaluationSchedule, TrainingSchedule
from bagpipe.tables import Table, TableLayout
from bagpipe.testing.plan_model import make_stream

ONE_WIDTH = [Table("a", 30, 8, ("a",)), Table("b", 5, 8, ("b", "c"))]
THREE_WIDTHS = [*ONE_WIDTH, Table("d", 12, 4, ("d", "e")), Table("f", 70, 16, ("f",))]


def assert_equal(left: object, right: object, where: str) -> None:
    if isinstance(left, np.ndarray):
        assert isinstance(right, np.ndarray), where
        assert left.dtype == right.dtype, where
        assert left.tolist() == right.tolist(), where
    elif dataclasses.is_dataclass(left):
        assert type(left) is type(right), where
        for item in dataclasses.fields(left):
            assert_equal(getattr(left, item.name), getattr(right, item.name), f"{where}.{item.name}")
    elif isinstance(left, tuple):
        assert isinstance(right, tuple) and len(left) == len(right), where
        for at, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_equal(a, b, f"{where}[{at}]")
    else:
        assert left == right, where


def assert_same_steps(compiled: Iterator[tuple[object, ...]], reference: Iterator[tuple[object, ...]]) -> None:
    for step, (left, right) in enumerate(zip(compiled, reference, strict=True)):
        assert_equal(left, right, f"step {step}: plan")


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    world_size=st.integers(1, 4),
    lookahead=st.sampled_from([0, 1, 2, 3, 6, 40]),
    num_rows=st.sampled_from([1, 5, 40]),
    share=st.integers(0, 9),
    skew=st.sampled_from([0.0, 1.3, 2.0]),
    spare=st.sampled_from([None, 0, 1, 3, 10, 50]),
    every=st.integers(0, 5),
)
def test_the_compiled_planner_equals_the_reference(
    seed: int, world_size: int, lookahead: int, num_rows: int, share: int, skew: float, spare: int | None, every: int
) -> None:
    """For every stream, number of trainers, view and cache that fits: the same plans, checkpoints included."""
    stream = make_stream(
        seed,
        world_size=world_size,
        lookahead=lookahead,
        num_steps=25,
        num_rows=num_rows,
        share=share,
        skew=skew,
        spare=spare,
    )
    checkpoints = frozenset(range(every - 1, len(stream.steps), every)) if every else frozenset()
    assert_same_steps(
        stream.plans(stream.planner(), checkpoints), stream.plans(stream.reference_planner(), checkpoints)
    )


def test_long_streams_equal_the_reference() -> None:
    """Also where the rings of the compiled planner have grown and turned over several times."""
    stream = make_stream(5, world_size=3, lookahead=4, num_steps=40, num_rows=1500, share=90, skew=0.0, spare=30)
    assert_same_steps(stream.plans(stream.planner()), stream.plans(stream.reference_planner()))


def make_batches(layout: TableLayout, seed: int, sizes: Sequence[int], *, jagged: bool) -> list[Batch]:
    rng = np.random.default_rng(seed)
    batches, at = [], 0
    for size in sizes:
        blocks = []
        for group in layout.groups:
            shape = (size, len(group.feature_names))
            lengths = rng.integers(0, 4, shape).astype(np.int32) if jagged else None
            lookups = int(lengths.sum()) if lengths is not None else shape[0] * shape[1]
            blocks.append(SparseBlock(rng.integers(0, group.num_rows, lookups), lengths))
        dense = rng.random((size, 3), np.float32)
        batches.append(Batch(Cursor(0, at), Cursor(0, at + size), dense, dense[:, :1], tuple(blocks)))
        at += size
    return batches


JOBS = {
    "tables": st.sampled_from([ONE_WIDTH, THREE_WIDTHS]),
    "seed": st.integers(0, 2**32 - 1),
    "sizes": st.lists(st.integers(1, 9), min_size=1, max_size=12),
    "world_size": st.integers(1, 4),
    "lookahead": st.integers(0, 8),
    "slots": st.sampled_from([None, 36, 50]),
    "jagged": st.booleans(),
}


@settings(deadline=None, max_examples=60)
@given(**JOBS, every=st.integers(0, 4), total=st.one_of(st.none(), st.integers(1, 12)), with_keys=st.booleans())
def test_a_training_schedule_equals_the_reference(
    tables: list[Table],
    seed: int,
    sizes: list[int],
    world_size: int,
    lookahead: int,
    slots: int | None,
    jagged: bool,
    every: int,
    total: int | None,
    with_keys: bool,
) -> None:
    """Several width groups, several lookups a feature, uneven slices, checkpoints and an early end."""
    layout = TableLayout.of(tables)
    batches = make_batches(layout, seed, sizes, jagged=jagged)
    compiled, readable = (
        TrainingSchedule(
            layout,
            world_size=world_size,
            lookahead=lookahead,
            slots=[slots] * len(layout.groups),
            first_step=7,
            total_steps=total and total + 7,
            checkpoint_every=every,
            with_keys=with_keys,
        )
        for _ in range(2)
    )
    readable.planners = [as_reference(planner, first_step=7) for planner in readable.planners]
    assert_same_steps(compiled.plans(batches), readable.plans(batches))


@settings(deadline=None, max_examples=40)
@given(**JOBS)
def test_an_evaluation_schedule_equals_the_reference(
    tables: list[Table],
    seed: int,
    sizes: list[int],
    world_size: int,
    lookahead: int,
    slots: int | None,
    jagged: bool,
) -> None:
    """Each trainer of an evaluation reads for itself, as a planner of one trainer says."""
    layout = TableLayout.of(tables)
    batches = make_batches(layout, seed, sizes, jagged=jagged)
    compiled, readable = (
        EvaluationSchedule(
            layout,
            world_size=world_size,
            lookahead=lookahead,
            slots=[slots] * len(layout.groups),
            first_step=5,
        )
        for _ in range(2)
    )
    readable.planners = [[as_reference(p, first_step=5) for p in group] for group in readable.planners]
    assert_same_steps(compiled.plans(batches), readable.plans(batches))


def as_reference(planner: GroupPlanner, *, first_step: int) -> ReferencePlanner:
    return ReferencePlanner(world_size=planner.world_size, cache_rows=planner.cache_rows, first_step=first_step)


def test_the_streams_compared_cover_every_case() -> None:
    """What the comparison meets: every kind of message, fetches that wait, rows that are refused, checkpoints."""
    stream = make_stream(1, world_size=3, lookahead=5, num_steps=25, num_rows=40, share=9, skew=0.0, spare=3)
    planner = stream.planner()
    plans = [plan for step in stream.plans(planner, frozenset({9})) for plan in step]
    for item in dataclasses.fields(plans[0].send):
        assert any(getattr(plan.send, item.name).values.size for plan in plans), item.name
    assert any(plan.fetch_after >= 0 for plan in plans)
    assert any(plan.flush_keys.size for plan in plans)
    assert any(plan.grad_send.values.size for plan in plans)
    assert planner.stats.refused_rows

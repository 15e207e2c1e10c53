"""Plans survive the wire, and a header that does not describe its frames is refused."""

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.batch import Batch, Cursor, SparseBlock
from bagpipe.errors import WireError
from bagpipe.net import messages
from bagpipe.net.plan_codec import pack_plan, plan_bytes, unpack_plan
from bagpipe.oracle.plan.schedule import TrainingSchedule
from bagpipe.plan import BatchPlan
from bagpipe.tables import Table, TableLayout

LAYOUT = TableLayout.of(
    [
        Table("a", 30, 8, ("a",)),
        Table("b", 5, 4, ("b", "c")),
        Table("d", 70, 8, ("d",)),
    ]
)


def make_batches(seed: int, sizes: list[int], *, jagged: bool, told: bool = False) -> list[Batch]:
    """With `told`, examples have weights and groups, and lookups of one width group weights if they are jagged."""
    rng = np.random.default_rng(seed)
    batches, at = [], 0
    for size in sizes:
        blocks = []
        for group in LAYOUT.groups:
            shape = (size, len(group.feature_names))
            lengths = rng.integers(0, 4, shape).astype(np.int32) if jagged else None
            lookups = int(lengths.sum()) if lengths is not None else shape[0] * shape[1]
            weights = rng.random(lookups, np.float32) if told and jagged and group.embedding_dim == 8 else None
            blocks.append(SparseBlock(rng.integers(0, group.num_rows, lookups), lengths, weights))
        dense = rng.random((size, 3), np.float32)
        weights, groups = (dense[:, 1], rng.integers(-9, 9, size)) if told else (None, None)
        batches.append(Batch(Cursor(0, at), Cursor(0, at + size), dense, dense[:, :1], tuple(blocks), weights, groups))
        at += size
    return batches


def make_plans(seed: int, sizes: list[int], *, world_size: int, jagged: bool, told: bool = False) -> list[BatchPlan]:
    schedule = TrainingSchedule(LAYOUT, world_size=world_size, lookahead=2, slots=(None, None), checkpoint_every=2)
    return [plan for step in schedule.plans(make_batches(seed, sizes, jagged=jagged, told=told)) for plan in step]


def assert_same(left: object, right: object) -> None:
    if isinstance(left, np.ndarray):
        assert isinstance(right, np.ndarray)
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert np.array_equal(left, right)
    elif dataclasses.is_dataclass(left):
        assert type(left) is type(right)
        for item in dataclasses.fields(left):
            assert_same(getattr(left, item.name), getattr(right, item.name))
    elif isinstance(left, tuple):
        assert isinstance(right, tuple) and len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    else:
        assert left == right


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    world_size=st.integers(1, 4),
    jagged=st.booleans(),
    told=st.booleans(),
)
def test_every_plan_survives_the_wire(seed: int, sizes: list[int], world_size: int, jagged: bool, told: bool) -> None:
    """Packing, encoding and unpacking give back the same plan, empty slices and jagged lookups included."""
    for plan in make_plans(seed, sizes, world_size=world_size, jagged=jagged, told=told):
        header, frames = pack_plan(plan)
        encoded = msgspec.msgpack.encode(header)
        sent = [np.frombuffer(f.tobytes(), f.dtype).reshape(f.shape) for f in frames]
        assert_same(plan, unpack_plan(msgspec.msgpack.decode(encoded, type=messages.Plan), sent))


def test_a_plan_has_a_handful_of_frames() -> None:
    """Two frames and three for each width group; the largest are copied nowhere."""
    plan = make_plans(3, [8, 8, 8, 8], world_size=2, jagged=True)[2]
    header, frames = pack_plan(plan)
    assert len(frames) == 2 + 3 * len(LAYOUT.groups)
    assert plan_bytes(frames) == sum(f.nbytes for f in frames)
    unpacked = unpack_plan(header, frames)
    assert unpacked.dense_BF is frames[0]
    assert unpacked.groups[0].inverse_N is frames[2]


def test_weights_and_groups_travel_with_their_examples_and_cost_nothing_where_there_are_none() -> None:
    """Each trainer has those of its slice; without them neither a frame nor a byte of the header is there."""
    told = make_plans(3, [7], world_size=3, jagged=False, told=True)
    (batch,) = make_batches(3, [7], jagged=False, told=True)
    assert np.array_equal(np.concatenate([plan.weights_B for plan in told]), batch.weights_B)
    assert np.array_equal(np.concatenate([plan.groups_B for plan in told]), batch.groups_B)
    assert batch.weights_B is not None
    assert {plan.total_weight for plan in told} == {float(batch.weights_B.astype(np.float64).sum())}
    of_lookups = [plan.groups[0].weights_N for plan in make_plans(3, [7], world_size=3, jagged=True, told=True)]
    (batch,) = make_batches(3, [7], jagged=True, told=True)
    assert np.array_equal(np.concatenate(of_lookups), batch.sparse[0].weights_N)
    header, frames = pack_plan(make_plans(3, [7], world_size=3, jagged=False)[0])
    assert all("weighted" not in msgspec.to_builtins(group) for group in header.groups)
    assert set(msgspec.to_builtins(header)) & {"total_weight", "grouped"} == set()
    assert len(frames) == 2 + 3 * len(LAYOUT.groups)


def changed(header: messages.Plan, **changes: object) -> messages.Plan:
    group = msgspec.structs.replace(header.groups[0], **changes)
    return msgspec.structs.replace(header, groups=(group, *header.groups[1:]))


def moved(sizes: tuple[int, ...], taken: int, given_to: int) -> tuple[int, ...]:
    out = list(sizes)
    out[taken] -= 1
    out[given_to] += 1
    return tuple(out)


def test_lengths_that_do_not_describe_the_frames_are_refused() -> None:
    """A peer cannot make a trainer read outside a frame or pair arrays of different lengths."""
    plan = make_plans(5, [8, 8, 8], world_size=2, jagged=False)[0]
    header, frames = pack_plan(plan)
    sizes = header.groups[0].sizes
    bad: list[tuple[messages.Plan, list[np.ndarray]]] = [
        (header, frames[:-1]),
        (header, [frames[0].astype(np.float64), *frames[1:]]),
        (header, [frames[0], frames[1][:-1], *frames[2:]]),
        (header, [*frames[:2], frames[2].astype(np.uint32), *frames[3:]]),
        (header, [*frames[:3], frames[3][:-1], *frames[4:]]),
        (msgspec.structs.replace(header, first_example=7), frames),
        (changed(header, narrow_bits=header.groups[0].narrow_bits + 20), frames),
        (changed(header, wide_bits=-1), frames),
        (changed(header, narrow_bits=0, sizes=(2**40, *sizes[1:])), frames),
        (changed(header, sizes=sizes[:-1]), frames),
        (changed(header, sizes=(sizes[0] + 1, *sizes[1:])), frames),
        (changed(header, sizes=(-1, sizes[0] + 1 + sizes[1], *sizes[2:])), frames),
        (changed(header, sizes=moved(sizes, 0, 2)), frames),
        (changed(header, sizes=moved(sizes, 6, 7)), frames),
        (changed(header, num_fetch_records=10**6), frames),
        (changed(header, num_features=2), frames),
    ]
    weights, groups = np.ones(4, np.float32), np.zeros(4, np.int64)
    both = msgspec.structs.replace(header, total_weight=4.0, grouped=True)
    bad += [
        (both, frames),
        (both, [*frames[:2], weights, weights, *frames[2:]]),
        (both, [*frames[:2], weights[:3], groups, *frames[2:]]),
        (both, [*frames[:2], weights, groups[:, None], *frames[2:]]),
        (header, [*frames[:2], weights, *frames[2:]]),
    ]
    assert_same(plan, unpack_plan(header, frames))
    lookups = frames[2].size
    lengths = changed(header, weighted=True, num_features=2)
    bad += [
        (changed(header, weighted=True), [*frames[:5], np.ones(lookups, np.float32), *frames[5:]]),
        (lengths, frames),
    ]
    unpack_plan(both, [*frames[:2], weights, groups, *frames[2:]])
    for message, arrays in bad:
        with pytest.raises(WireError, match="plan of step 0"):
            unpack_plan(message, arrays)

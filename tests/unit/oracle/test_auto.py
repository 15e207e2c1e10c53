"""`lookahead: auto` reads how soon rows are used again, and is never far from the best of a sweep."""

import itertools

import numpy as np
import pytest

from bagpipe.batch import Batch, Cursor, SparseBlock
from bagpipe.config.document import DataConfig, EmbeddingConfig, JobSpec
from bagpipe.net.messages import CacheMemory
from bagpipe.oracle.sizing.auto import (
    DEFAULT_LOOKAHEAD,
    LOOKAHEADS,
    choose_lookahead,
    resolve_auto,
    reuse_in_job,
    smallest_share,
)
from bagpipe.oracle.sizing.estimate import sweep
from bagpipe.oracle.sizing.reuse import SAMPLE_BATCHES, measure_reuse, peek
from bagpipe.tables import Table, TableLayout

PLENTY = 1 << 40
LAYOUT = TableLayout.of([Table("a", 20_000, 16, ("a",)), Table("b", 300, 16, ("b",)), Table("c", 9_000, 4, ("c",))])


def stream(kind: str, steps: int, size: int = 32) -> list[Batch]:
    """Batches whose rows come back at once, soon, late, or never."""
    rng = np.random.default_rng(3)
    made = []
    for step in range(steps):
        blocks = []
        for group in LAYOUT.groups:
            shape = (size, len(group.feature_names))
            if kind == "skewed":
                rows = rng.zipf(1.2, shape)
            elif kind == "uniform":
                rows = rng.integers(0, group.num_rows, shape)
            elif kind == "cyclic":  # Every row comes back after 60 batches.
                rows = (np.arange(size)[:, None] + size * (step % 60)) * np.ones(shape, np.int64)
            else:  # Every row is used once, or once an age.
                rows = np.arange(shape[0] * shape[1]).reshape(shape) + shape[0] * shape[1] * step
            blocks.append(SparseBlock((rows % group.num_rows).astype(np.int64).ravel()))
        cursor = Cursor(0, step * size)
        empty = np.zeros((size, 1), np.float32)
        made.append(Batch(cursor, cursor, empty, empty, tuple(blocks)))
    return made


def job(lookahead: int | str = "auto") -> JobSpec:
    return JobSpec(data=DataConfig(format="synthetic"), lookahead=lookahead)  # type: ignore[arg-type]


@pytest.mark.parametrize("lookahead", [1, 2, 5, 20])
def test_what_would_be_fetched_is_counted(lookahead: int) -> None:
    """With every row followed: exactly the rows whose last use lies further back."""
    batches = stream("skewed", 40)
    reuse = measure_reuse(batches, [20, 72])
    cost = 0
    for group, row in enumerate((20, 72)):
        used = [set(b.sparse[group].keys_N.tolist()) for b in batches]
        for at in range(20, 40):
            cost += row * len(used[at] - set().union(*used[at - lookahead : at]))
    assert reuse.share == 1.0
    assert reuse.fetched_bytes(lookahead, since=20) == pytest.approx(cost / 20)


def test_a_sample_of_rows_tells_the_same() -> None:
    """A tenth of the lookups is enough to know the traffic within a few percent."""
    batches = stream("uniform", 200, size=256)
    lookups = sum(b.keys_N.size for batch in batches for b in batch.sparse)
    whole, part = (measure_reuse(batches, [20, 72], lookups=n) for n in (lookups, lookups // 10))
    assert part.at_U.size < whole.at_U.size / 5
    for lookahead in (1, 8, 50, 150):
        expected = whole.fetched_bytes(lookahead, since=150)
        assert part.fetched_bytes(lookahead, since=150) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("kind", ["skewed", "uniform", "cyclic", "once"])
def test_never_far_from_the_best_of_a_sweep(kind: str, world_size: int) -> None:
    """On simulated links of any bandwidth, with compute of any speed: at most 10 % beyond the fastest lookahead."""
    spec = job()
    batches = stream(kind, 300)
    choice = choose_lookahead(reuse_in_job(batches[:SAMPLE_BATCHES], spec, LAYOUT), PLENTY)
    chosen = choice.lookahead
    assert f"auto: {chosen}," in choice.reason
    tried = sweep(
        lambda: batches,
        LAYOUT,
        {0, 1, 2, 4, chosen, *LOOKAHEADS},
        world_size=world_size,
        num_servers=2,
        cache_rows=[None, None],
        embedding=EmbeddingConfig(),
    )
    ours = next(e for e in tried if e.lookahead == chosen)
    for compute, bandwidth in itertools.product((0.0, 1e-4, 1e-3, 1e-2), (1e5, 1e6, 1e7, 1e8)):
        times = [e.step_seconds(compute_seconds=compute, bytes_per_second=bandwidth) for e in tried]
        took = ours.step_seconds(compute_seconds=compute, bytes_per_second=bandwidth)
        assert took <= 1.10 * min(times), (compute, bandwidth)


@pytest.mark.parametrize(("kind", "expected"), [("cyclic", 100), ("once", 8), ("skewed", 200)])
def test_no_longer_than_it_pays(kind: str, expected: int) -> None:
    """Rows that come back after 60 batches need 100 in view; rows that never do need none."""
    reuse = reuse_in_job(stream(kind, SAMPLE_BATCHES), job(), LAYOUT)
    assert choose_lookahead(reuse, PLENTY).lookahead == expected


def test_a_short_job_is_seen_whole() -> None:
    """Fewer batches than the shortest choice can be judged by."""
    choice = choose_lookahead(reuse_in_job(stream("skewed", 5), job(), LAYOUT), PLENTY)
    assert choice.lookahead == DEFAULT_LOOKAHEAD and "5 batches there are" in choice.reason


def test_nothing_is_left_to_train() -> None:
    """An attempt that was killed after its last step looks at no batch."""
    choice = choose_lookahead(reuse_in_job([], job(), LAYOUT), PLENTY)
    assert choice.lookahead == DEFAULT_LOOKAHEAD and "0 batches there are" in choice.reason


def test_the_oracle_has_room_for_what_it_sees() -> None:
    """Where memory holds 30 batches, at most 25 are in view, and the reason says so."""
    reuse = reuse_in_job(stream("skewed", SAMPLE_BATCHES), job(), LAYOUT)
    choice = choose_lookahead(reuse, 30 * reuse.batch_bytes)
    assert choice.lookahead == 25 and "hold 30 batches" in choice.reason


def test_peeking_loses_no_batch() -> None:
    """What was looked at is trained on all the same, in order."""
    batches = stream("once", 20)
    seen, again = peek(iter(batches), max_bytes=5 * 1000)
    assert 0 < len(seen) < 20 and list(again) == batches
    seen, again = peek(iter(batches), max_bytes=PLENTY)
    assert seen == batches and list(again) == batches


def test_a_given_lookahead_is_taken() -> None:
    """What the user says holds, and is told as such."""
    resolved = resolve_auto(job(lookahead=7), LAYOUT, [CacheMemory(memory="host", num_bytes=1 << 20)])
    assert resolved.lookahead == 7 and "7 as given" in resolved.reason


def test_memory_is_divided_by_the_trainers_that_share_it() -> None:
    """Eight trainers on hosts of their own get all that each found; on one host, an eighth; the least share counts."""
    gib = 1 << 30
    apart = [CacheMemory(memory=f"host {n}", num_bytes=8 * gib) for n in range(8)]
    together = [CacheMemory(memory="host", num_bytes=8 * gib) for _ in range(8)]
    assert smallest_share(apart) == 8 * gib and smallest_share(together) == gib
    assert smallest_share([*together, CacheMemory(memory="small", num_bytes=gib // 2)]) == gib // 2
    assert smallest_share([*apart, *together]) == gib


def test_slots_follow_the_share() -> None:
    """`cacheRows: auto` gives trainers on hosts of their own twice the rows that two on one host get."""
    layout = TableLayout.of([Table("a", 1 << 40, 16, ("a",))])
    each = [CacheMemory(memory="host", num_bytes=1 << 20)]
    other = [CacheMemory(memory="other", num_bytes=1 << 20)]
    alone, shared = (resolve_auto(job(lookahead=1), layout, offers) for offers in (each + other, each * 2))
    assert alone.slots[0] == 2 * shared.slots[0] and "within 1 MiB" in alone.reason

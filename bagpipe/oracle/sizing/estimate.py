"""Estimates what a job needs, by running the planner alone over a dataset, for any number of trainers (`bagpipe plan`).

Pure: batches in, numbers out. Plans are made as for a run and thrown away; rows and bytes are exact counts, only the
step time is a model (`Estimate.step_seconds`). Bytes are payload; framing adds less than one percent.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bagpipe.batch import Batch
from bagpipe.config.document import EmbeddingConfig
from bagpipe.net.plan_codec import pack_plan, plan_bytes
from bagpipe.oracle.plan.planner import PlannerStats
from bagpipe.oracle.plan.schedule import TrainingSchedule
from bagpipe.rows.record import group_record_width
from bagpipe.tables import TableLayout

KEY_BYTES = 8
FLOAT_BYTES = 4
NEAR_BEST = 1.05
"""Step time, or server traffic, within this factor of the least is not worth more memory."""


@dataclass(frozen=True, slots=True)
class LinkBytes:
    """Bytes of one step on each kind of link, all trainers together, as a mean over the steps."""

    fetch: float
    """Servers to trainers, and the keys asked for."""
    write_back: float
    """Trainers to servers."""
    gradients: float
    """Trainers to owners, on the critical path."""
    values: float
    """New values from owners to the next users."""
    records: float
    """Values with optimizer state, where the owner changes."""
    eager: float
    """Of values and records: what the very next step needs, on the critical path."""
    plans: float
    """Oracle to trainers, examples included."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one setting does over the batches that were planned."""

    world_size: int
    num_servers: int
    lookahead: int
    steps: int
    examples: int
    hit_rate: float
    """Share of a step's distinct rows that need no fetch."""
    peak_rows: tuple[int, ...]
    """Most rows in any one trainer's cache, by width group. With no limit set, also the smallest
    cache that keeps this whole lookahead."""
    least_rows: tuple[int, ...]
    """Most distinct rows of one step at one trainer: below it the job cannot run."""
    shortened_steps: int
    """Steps at which the cache was too small for the lookahead."""
    bytes: LinkBytes
    uncached_bytes: float
    """Fetches and write-backs of one step without a cache, all on the critical path."""

    @property
    def server_bytes(self) -> float:
        """Bytes of one step through all embedding servers."""
        return self.bytes.fetch + self.bytes.write_back

    @property
    def peer_bytes(self) -> float:
        """Bytes of one step between trainers."""
        return self.bytes.gradients + self.bytes.values + self.bytes.records

    def step_seconds(self, *, compute_seconds: float, bytes_per_second: float) -> float:
        """Predicted time of a step, where every machine has one link of this bandwidth.

        Gradients and what the next step needs cannot overlap compute; all else can, so the slowest
        of three decides: compute and what waits for it, a trainer's link, a server's link.
        """
        eager = (self.bytes.gradients + self.bytes.eager) / self.world_size
        trainer = (self.peer_bytes + self.server_bytes + self.bytes.plans) / self.world_size
        server = self.server_bytes / self.num_servers
        return max(compute_seconds + eager / bytes_per_second, max(trainer, server) / bytes_per_second)

    def uncached_step_seconds(self, *, compute_seconds: float, bytes_per_second: float) -> float:
        """The same without a cache: every row is fetched before a step and written back after it."""
        return compute_seconds + self.uncached_bytes / min(self.world_size, self.num_servers) / bytes_per_second


@dataclass(frozen=True, slots=True)
class Speed:
    """What a step is timed against (`Estimate.step_seconds`)."""

    compute_seconds: float
    """Forward and backward of one step."""
    bytes_per_second: float
    """Each machine's link."""

    def step_seconds(self, e: Estimate) -> float:
        """Predicted time of one step with this setting."""
        return e.step_seconds(compute_seconds=self.compute_seconds, bytes_per_second=self.bytes_per_second)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A setting to run with, and why."""

    lookahead: int
    cache_rows: int
    reason: str


def estimate(
    batches: Iterable[Batch],
    layout: TableLayout,
    *,
    world_size: int,
    num_servers: int,
    lookahead: int,
    cache_rows: Sequence[int | None],
    embedding: EmbeddingConfig,
) -> Estimate:
    """Plan all the batches and count.

    Args:
        cache_rows: slots of each width group at every trainer; None: as many as it takes.

    Raises:
        ConfigError: a single step does not fit into `cache_rows`.
    """
    schedule = TrainingSchedule(layout, world_size=world_size, lookahead=lookahead, slots=cache_rows)
    sent, examples = 0, 0
    least = [0] * len(layout.groups)
    for plans in schedule.plans(batches):
        examples += plans[0].num_examples
        for plan in plans:
            sent += plan_bytes(pack_plan(plan)[1])
            for number, group in enumerate(plan.groups):
                least[number] = max(least[number], group.slots_K.size)
    stats = [planner.stats for planner in schedule.planners]
    steps = schedule.step
    widths = [(g.embedding_dim, group_record_width(embedding, g)) for g in layout.groups]
    fetched, distinct = sum(s.fetched_rows for s in stats), sum(s.distinct_rows for s in stats)
    return Estimate(
        world_size=world_size,
        num_servers=num_servers,
        lookahead=lookahead,
        steps=steps,
        examples=examples,
        hit_rate=1 - fetched / distinct if distinct else 0.0,
        peak_rows=tuple(max(s.peak_rows) for s in stats),
        least_rows=tuple(least),
        shortened_steps=max((s.shortened_steps for s in stats), default=0),
        bytes=_link_bytes(stats, widths, steps, sent),
        uncached_bytes=_per_step(
            sum(
                s.distinct_rows * (KEY_BYTES + FLOAT_BYTES * dim) + s.updated_rows * (KEY_BYTES + FLOAT_BYTES * width)
                for s, (dim, width) in zip(stats, widths, strict=True)
            ),
            steps,
        ),
    )


def sweep(
    batches: Callable[[], Iterable[Batch]],
    layout: TableLayout,
    lookaheads: Iterable[int],
    *,
    world_size: int,
    num_servers: int,
    cache_rows: Sequence[int | None],
    embedding: EmbeddingConfig,
) -> tuple[Estimate, ...]:
    """One estimate for each lookahead, ascending; `batches` gives the same batches at every call."""
    return tuple(
        estimate(
            batches(),
            layout,
            world_size=world_size,
            num_servers=num_servers,
            lookahead=lookahead,
            cache_rows=cache_rows,
            embedding=embedding,
        )
        for lookahead in sorted(set(lookaheads))
    )


def suggest(
    estimates: Sequence[Estimate], layout: TableLayout, speed: Speed, *, max_cache_rows: int | None = None
) -> Suggestion:
    """The shortest lookahead whose step time and server traffic are near the least, and the cache for it.

    Where the network does not matter every lookahead takes the same time; then traffic alone decides.
    Time comes first: traffic is compared only among the fast ones.

    Args:
        estimates: of one dataset and number of trainers, made without a limit on cache rows.
        speed: what the step times are predicted for.
        max_cache_rows: `cacheRows` that a trainer can afford; None: any.
    """
    needs = [(cache_rows_for(e.peak_rows, layout), e) for e in estimates]
    affordable = [(rows, e) for rows, e in needs if max_cache_rows is None or rows <= max_cache_rows]
    if not affordable:
        assert max_cache_rows is not None
        rows, shortest = min(needs, key=lambda pair: pair[1].lookahead)
        reason = (
            f"even lookahead {shortest.lookahead} needs {rows} rows for its whole view; "
            f"with {max_cache_rows} the planner shortens it where it must"
        )
        return Suggestion(shortest.lookahead, max_cache_rows, reason)
    fastest = min(speed.step_seconds(e) for _, e in affordable)
    fast = [pair for pair in affordable if speed.step_seconds(pair[1]) <= NEAR_BEST * fastest]
    least = min(e.server_bytes for _, e in fast)
    rows, chosen = min(
        (pair for pair in fast if pair[1].server_bytes <= NEAR_BEST * least), key=lambda pair: pair[1].lookahead
    )
    reason = (
        f"lookahead {chosen.lookahead} is predicted to take {speed.step_seconds(chosen) * 1e3:.3g} ms a step, within "
        f"{NEAR_BEST - 1:.0%} of the fastest of those tried, and moves {chosen.server_bytes / 1e6:.3g} MB through the "
        f"servers; {rows} rows keep all of it in every trainer's cache"
    )
    return Suggestion(chosen.lookahead, rows, reason)


def cache_rows_for(rows: Sequence[int], layout: TableLayout) -> int:
    """The `cacheRows` that gives each width group at least so many, as `auto` divides them by features."""
    features = [len(g.feature_names) for g in layout.groups]
    return max(-(-need * sum(features) // share) for need, share in zip(rows, features, strict=True))


def _link_bytes(stats: Sequence[PlannerStats], widths: Sequence[tuple[int, int]], steps: int, sent: int) -> LinkBytes:
    fetch = write_back = gradients = values = records = eager = 0
    for s, (dim, width) in zip(stats, widths, strict=True):
        value, record = FLOAT_BYTES * dim, FLOAT_BYTES * width
        fetch += s.fetched_rows * (KEY_BYTES + value) + s.fetched_records * (record - value)
        write_back += s.evicted_rows * (KEY_BYTES + record)
        gradients += s.gradient_rows * value
        values += s.value_rows * value
        records += s.record_rows * record
        eager += s.eager_rows * value + s.eager_records * (record - value)
    totals = (fetch, write_back, gradients, values, records, eager, sent)
    return LinkBytes(*(_per_step(total, steps) for total in totals))


def _per_step(total: int, steps: int) -> float:
    return total / steps if steps else 0.0

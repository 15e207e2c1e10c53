"""Chooses what the user left to `auto`: the lookahead and each width group's cache slots. Pure.

The choice never changes results (contract X1), only speed and memory.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from bagpipe.batch import Batch
from bagpipe.config.document import JobSpec
from bagpipe.errors import ConfigError
from bagpipe.net.messages import CacheMemory, InitCacheArguments
from bagpipe.oracle.sizing.estimate import FLOAT_BYTES, KEY_BYTES
from bagpipe.oracle.sizing.reuse import Reuse, measure_reuse
from bagpipe.rows.record import record_widths
from bagpipe.tables import TableLayout

Widths = Callable[[int], Sequence[int]]
"""The width of every table, in the job's order, given the trainers' `emb_size`."""

DEFAULT_LOOKAHEAD = 200
"""The paper's setting: beyond it, Criteo's fetch rate hardly falls."""
LOOKAHEADS = (8, 16, 25, 50, 100, DEFAULT_LOOKAHEAD)
"""What `auto` chooses from."""
NEAR_LEAST = 1.05
"""A lookahead that fetches within this factor of the least is long enough: a longer one is not worth its memory.
Fetches are only a part of what a step moves and waits for, so a step takes at most this factor longer, at any
bandwidth."""
VIEW_SHARE = 0.25
"""Share of the oracle's memory for batches that were read and not yet trained on."""


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """What was chosen, and why."""

    lookahead: int
    slots: tuple[int, ...]
    """Cache slots of each width group."""
    reason: str


@dataclass(frozen=True, slots=True)
class LookaheadChoice:
    """A lookahead, and why it was chosen."""

    lookahead: int
    reason: str


def view_bytes(available_bytes: int) -> int:
    """What the oracle may use for batches in view, of this much memory."""
    return int(available_bytes * VIEW_SHARE)


def choose_lookahead(reuse: Reuse, view_bytes: int) -> LookaheadChoice:
    """The shortest lookahead that fetches hardly more than the longest, and why.

    Args:
        reuse: from the job's first batches; its lookaheads are compared over the same last batches of them.
        view_bytes: memory for batches in view.
    """
    judged = [n for n in LOOKAHEADS if n * 5 <= reuse.steps * 4]
    if not judged:
        return LookaheadChoice(
            DEFAULT_LOOKAHEAD, f"lookahead auto: {DEFAULT_LOOKAHEAD}, more than the {reuse.steps} batches there are"
        )
    room = view_bytes // max(reuse.batch_bytes, 1)
    fitting = [n for n in judged if n <= room] or judged[:1]
    fetched = {n: reuse.fetched_bytes(n, since=judged[-1]) for n in judged}
    least = fetched[fitting[-1]]
    chosen = next(n for n in fitting if fetched[n] <= NEAR_LEAST * least)
    others = ", ".join(f"{n}: {fetched[n] / 1e6:.3g}" for n in judged)
    reason = (
        f"lookahead auto: {chosen}, the shortest that fetches within {NEAR_LEAST - 1:.0%} of the least "
        f"(MB a step by the first {reuse.steps} batches: {others})"
    )
    if len(fitting) < len(judged):
        reason += f"; {view_bytes >> 20} MiB of the oracle's memory hold {room} batches"
    return LookaheadChoice(chosen, reason)


def reuse_in_job(batches: Sequence[Batch], spec: JobSpec, layout: TableLayout) -> Reuse:
    """How soon the job's rows are used again, by its first batches."""
    widths = record_widths(spec.embedding, layout)
    return measure_reuse(batches, [KEY_BYTES + FLOAT_BYTES * width for width in widths])


def resolve_auto(
    spec: JobSpec, layout: TableLayout, offers: Sequence[CacheMemory], auto_lookahead: LookaheadChoice | None = None
) -> ResolvedSettings:
    """Replace each `auto` of lookahead and cacheRows by a number.

    Args:
        offers: memory for its cache that each trainer found where it runs; the smallest share counts.
        auto_lookahead: what `lookahead: auto` becomes, from `choose_lookahead`; None: the default.

    Raises:
        ConfigError: `cacheRows` is fewer than the width groups.
    """
    if spec.lookahead == "auto":
        chosen = auto_lookahead or LookaheadChoice(DEFAULT_LOOKAHEAD, f"lookahead auto: {DEFAULT_LOOKAHEAD}")
    else:
        chosen = LookaheadChoice(spec.lookahead, f"lookahead {spec.lookahead} as given")
    lookahead, why = chosen.lookahead, chosen.reason
    groups = layout.groups
    lookups = [len(g.feature_names) for g in groups]
    if spec.cache_rows == "auto":
        if not offers:
            raise ConfigError("spec.cacheRows: auto, but no trainer said how much memory it has; give a number of rows")
        budget = smallest_share(offers)
        widths = [FLOAT_BYTES * width for width in record_widths(spec.embedding, layout)]
        rows = [budget * n // sum(lookups) // width for n, width in zip(lookups, widths, strict=True)]
        slots = tuple(max(1, min(r, g.num_rows)) for r, g in zip(rows, groups, strict=True))
        return ResolvedSettings(
            lookahead, slots, f"{why}; cacheRows auto: within {budget >> 20} MiB of memory on each trainer"
        )
    if spec.cache_rows < len(groups):
        raise ConfigError(
            f"spec.cacheRows: {spec.cache_rows} rows cannot serve {len(groups)} embedding widths; raise it"
        )
    shares = _divide(spec.cache_rows, lookups)
    return ResolvedSettings(
        lookahead, shares, f"{why}; cacheRows as given, divided over widths by their number of features"
    )


def smallest_share(offers: Sequence[CacheMemory]) -> int:
    """Bytes that every trainer can have: those that run in one memory divide it."""
    sharing = Counter(offer.memory for offer in offers)
    return min(offer.num_bytes // sharing[offer.memory] for offer in offers)


def apply_init_cache(
    spec: JobSpec, layout: TableLayout, calls: Sequence[InitCacheArguments], widths: Widths | None = None
) -> tuple[JobSpec, TableLayout]:
    """Apply the arguments of `init_cache` to the job; returns the job and its final table layout.

    The caller's optimizer and cache size replace the job's; tables must agree, because data and servers follow the job.
    The lookahead stays the oracle's.

    Args:
        calls: what each trainer passed.
        widths: for an oracle that was started without table widths (the paper's commands): it gives every table's width
            from the trainers' `emb_size`, and the widths in the job only say which tables share one.

    Raises:
        ConfigError: trainers disagree with each other or with the job's tables.
    """
    if not calls:
        return spec, layout
    first = calls[0]
    if widths is not None and first.embedding_dim is not None:
        spec, layout = _with_widths(spec, layout, widths(first.embedding_dim))
    if len(layout.groups) != 1 and widths is None and first.embedding_dim is not None:
        found = ", ".join(str(group.embedding_dim) for group in layout.groups)
        raise ConfigError(
            f"init_cache: emb_size is {first.embedding_dim}, but the job's tables have the widths {found}; pass "
            "emb_size=None, which takes them as they are"
        )
    if any(w.optimizer != first.optimizer for w in calls):
        raise ConfigError("init_cache: trainers passed different emb_optim or emb_optim_params; pass the same on each")
    sizes = tuple(t.num_embeddings for t in layout.tables)
    dims = {t.embedding_dim for t in layout.tables}
    for call in calls:
        if call.table_sizes and call.table_sizes != sizes:
            raise ConfigError(
                f"init_cache: ln_emb is {list(call.table_sizes)}, but the job's tables have {list(sizes)} rows"
            )
        other = call.embedding_dim is not None and dims != {call.embedding_dim} and widths is None
        if call.embedding_dim != first.embedding_dim or other:
            raise ConfigError(
                f"init_cache: emb_size is {call.embedding_dim}, but the job's tables have width {sorted(dims)}"
            )
    embedding = spec.embedding
    if first.optimizer is not None:
        embedding = msgspec.structs.replace(embedding, optimizer=first.optimizer)
    steps = [n for n in (spec.steps, *(w.steps for w in calls)) if n is not None]
    rows = [w.cache_rows for w in calls if w.cache_rows is not None]
    completed = msgspec.structs.replace(
        spec,
        embedding=embedding,
        cache_rows=min(rows) if rows else spec.cache_rows,
        steps=min(steps, default=None),
        model=first.model or spec.model,
        optimizer=first.dense_optimizer or spec.optimizer,
        evaluate=spec.evaluate and all(w.evaluate for w in calls),
    )
    return completed, layout


def _with_widths(spec: JobSpec, layout: TableLayout, dims: Sequence[int]) -> tuple[JobSpec, TableLayout]:
    tables = tuple(
        msgspec.structs.replace(table, embedding_dim=dim) for table, dim in zip(layout.tables, dims, strict=True)
    )
    embedding = msgspec.structs.replace(spec.embedding, tables=tables)
    return msgspec.structs.replace(spec, embedding=embedding), TableLayout.of(tables)


def _divide(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Split `total` in proportion, at least 1 each, with nothing left over."""
    shares = [max(1, total * w // sum(weights)) for w in weights]
    shares[shares.index(max(shares))] += total - sum(shares)
    return tuple(shares)

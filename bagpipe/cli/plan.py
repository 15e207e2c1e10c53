"""`bagpipe plan`: estimates what a job needs, by the planner alone over its data, for any number of trainers."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bagpipe.cli.options import JobFile, Overrides
from bagpipe.cli.values import number, whole
from bagpipe.lowlevel.wording import counted

if TYPE_CHECKING:
    from bagpipe.config.document import JobSpec
    from bagpipe.data.dataset import Dataset
    from bagpipe.oracle.sizing.auto import LookaheadChoice
    from bagpipe.oracle.sizing.estimate import Estimate, Speed, Suggestion

TRIED = (10, 50, 200)
"""Lookaheads compared where none is given."""


def plan(
    job: JobFile,
    overrides: Overrides = None,
    trainers: Annotated[
        int | None,
        typer.Option(
            "--trainers",
            metavar="N",
            help="Plan for so many trainers instead of the job's.",
            parser=whole("--trainers", 1, 10_000, "trainers"),
        ),
    ] = None,
    lookaheads: Annotated[
        list[int] | None,
        typer.Option(
            "--lookahead",
            metavar="N",
            parser=whole("--lookahead", 0, 100_000, "batches"),
            help="Lookahead to try; repeatable. Default: 10, 50, 200 and the job's.",
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            "--steps",
            metavar="N",
            help="Steps to plan, from the beginning of the data.",
            parser=whole("--steps", 1, 10**9, "steps"),
        ),
    ] = 400,
    gigabits: Annotated[
        float,
        typer.Option(
            "--gbit",
            metavar="GBIT",
            parser=number("--gbit", 0.001, 1e6, "Gbit/s"),
            help="Bandwidth of each machine's link, in Gbit/s, for the step time.",
        ),
    ] = 10.0,
    compute_ms: Annotated[
        float,
        typer.Option(
            "--compute-ms",
            metavar="MS",
            parser=number("--compute-ms", 0, 1e9, "milliseconds"),
            help="Time of forward and backward of one step, in ms.",
        ),
    ] = 20.0,
) -> None:
    """Print hit rate, rows and bytes per step and link for several lookaheads, and suggest a setting."""
    from bagpipe.config.load import load_local_job
    from bagpipe.data.dataset import open_dataset
    from bagpipe.errors import ConfigError
    from bagpipe.local.model_source import check_model_source

    spec = load_local_job(job, overrides or ()).spec
    check_model_source(spec.model, elsewhere=True)
    world = trainers or spec.trainers.replicas
    if world > spec.batch_size:
        raise ConfigError(f"--trainers {world}: more than the {spec.batch_size} examples of a batch (spec.batchSize)")
    with tempfile.TemporaryDirectory(prefix="bagpipe-plan-") as folder:
        dataset = open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=Path(folder))
        tried = _lookaheads(spec, lookaheads or ())
        estimates = [_estimate(spec, dataset, world, ahead, steps) for ahead in _watched(tried)]
        from bagpipe.oracle.sizing.estimate import Speed, suggest

        speed = Speed(compute_seconds=compute_ms / 1e3, bytes_per_second=gigabits * 1e9 / 8)
        limit = spec.cache_rows if isinstance(spec.cache_rows, int) else None
        suggestion = suggest(estimates, dataset.layout, speed, max_cache_rows=limit)
        auto_lookahead = _auto(spec, dataset)
        own = _own(spec, dataset, world, steps, auto_lookahead) if limit else None
    for line in report_lines(estimates, suggestion, own, speed):
        typer.echo(line)
    typer.echo(f"a run would take {auto_lookahead.reason}")


def _lookaheads(spec: "JobSpec", asked: Sequence[int]) -> list[int]:
    given = [spec.lookahead] if isinstance(spec.lookahead, int) else []
    return sorted(set(asked or (*TRIED, *given)))


def _watched(lookaheads: Sequence[int]) -> Iterator[int]:
    for ahead in lookaheads:
        if sys.stderr.isatty():
            print(f"planning with lookahead {ahead} ...", file=sys.stderr, flush=True)
        yield ahead


def _estimate(
    spec: "JobSpec", dataset: "Dataset", world: int, ahead: int, steps: int, slots: Sequence[int] | None = None
) -> "Estimate":
    from itertools import islice

    from bagpipe.oracle.sizing.estimate import estimate

    epochs = spec.epochs if spec.epochs or spec.steps else 1
    batches = islice(dataset.train_batches(spec.batch_size, epochs=epochs), min(steps, spec.steps or steps))
    return estimate(
        batches,
        dataset.layout,
        world_size=world,
        num_servers=spec.servers.replicas,
        lookahead=ahead,
        cache_rows=slots or [None] * len(dataset.layout.groups),
        embedding=spec.embedding,
    )


def _auto(spec: "JobSpec", dataset: "Dataset") -> "LookaheadChoice":
    """The lookahead that a run of the job would choose, from the same first batches."""
    from bagpipe.lowlevel.available_memory import available_bytes
    from bagpipe.oracle.sizing.auto import LookaheadChoice, choose_lookahead, reuse_in_job, view_bytes
    from bagpipe.oracle.sizing.reuse import peek

    if isinstance(spec.lookahead, int):
        return LookaheadChoice(spec.lookahead, f"lookahead {spec.lookahead} as given")
    room = view_bytes(available_bytes())
    first, _ = peek(dataset.train_batches(spec.batch_size, epochs=1), max_bytes=room)
    return choose_lookahead(reuse_in_job(first[: spec.steps], spec, dataset.layout), room)


def _own(spec: "JobSpec", dataset: "Dataset", world: int, steps: int, auto_lookahead: "LookaheadChoice") -> "Estimate":
    """The job's own setting, its cache limit included."""
    from bagpipe.oracle.sizing.auto import resolve_auto

    resolved = resolve_auto(spec, dataset.layout, [], auto_lookahead)
    return _estimate(spec, dataset, world, resolved.lookahead, steps, resolved.slots)


def report_lines(
    estimates: Sequence["Estimate"],
    suggestion: "Suggestion",
    own: "Estimate | None",
    speed: "Speed",
) -> Iterator[str]:
    """The lines of the table that is printed."""
    first = estimates[0]
    roles = f"{counted(first.world_size, 'trainer')}, {counted(first.num_servers, 'server')}"
    batch = counted(round(first.examples / max(first.steps, 1)), "example")
    yield f"{roles}, {counted(first.steps, 'step')} of {batch}; MB per step, all trainers together"
    yield (
        f"{'lookahead':>12s} {'hit rate':>9s} {'cache rows':>11s} {'fetch':>8s} {'write':>8s} {'peers':>8s} "
        f"{'critical':>9s} {'plans':>7s} {'step':>9s}"
    )

    def row(name: str, e: "Estimate") -> str:
        step = speed.step_seconds(e)
        critical = e.bytes.gradients + e.bytes.eager
        megabytes = (e.bytes.fetch, e.bytes.write_back, e.peer_bytes, critical, e.bytes.plans)
        shown = [f"{b / 1e6:{width}.2f}" for b, width in zip(megabytes, (8, 8, 8, 9, 7), strict=True)]
        return f"{name:>12s} {e.hit_rate:9.2%} {sum(e.peak_rows):11,d} {' '.join(shown)} {step * 1e3:6.1f} ms"

    for estimate in estimates:
        yield row(str(estimate.lookahead), estimate)
    if own is not None:
        yield row(f"{own.lookahead} as set", own)
        if own.shortened_steps:
            yield f"as set, the cache is too small for the lookahead at {own.shortened_steps} of {own.steps} steps"
    uncached = first.uncached_step_seconds(
        compute_seconds=speed.compute_seconds, bytes_per_second=speed.bytes_per_second
    )
    moved = f"{first.uncached_bytes / 1e6:8.2f} MB fetched and written"
    yield f"{'no cache':>12s} {0:9.2%} {sum(first.least_rows):11,d} {moved:<44s} {uncached * 1e3:6.1f} ms"
    yield f"a trainer's cache must hold at least {sum(first.least_rows):,d} rows (one step)"
    yield f"suggested: lookahead: {suggestion.lookahead}, cacheRows: {suggestion.cache_rows}"
    yield f"because {suggestion.reason}"

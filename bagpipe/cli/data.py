"""`bagpipe data prepare|describe`: raw logs to Parquet or to the paper's files, and what is in them."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bagpipe.cli.options import JobFile, Overrides
from bagpipe.cli.values import local_path, scheduler_address, whole
from bagpipe.errors import ConfigError

if TYPE_CHECKING:
    from bagpipe.config.document import JobSpec

app = typer.Typer(help="Prepare and describe training data.", no_args_is_help=True)

JOB_SUFFIXES = (".yaml", ".yml")


@app.command("prepare")
def prepare(
    source: Annotated[
        str,
        typer.Argument(metavar="JOB", help="Job file, or the raw logs themselves, also a URL.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder to write to.", show_default=False, parser=local_path)
    ],
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    kind: Annotated[
        Literal["parquet", "kaggle-json", "fgcnn-json", "caser-json"],
        typer.Option("--format", help="Parquet, or one of the paper's text formats with its emb_table_info.txt."),
    ] = "parquet",
    parts: Annotated[
        int | None,
        typer.Option(
            "--parts",
            metavar="N",
            help="Text formats: cut into so many files part_0.txt, ...",
            show_default=False,
            parser=whole("--parts", 1, 100_000, "files"),
        ),
    ] = None,
    sequence: Annotated[
        int,
        typer.Option(
            "--sequence",
            metavar="N",
            help="caser-json: items of a sequence.",
            parser=whole("--sequence", 1, 10_000, "items"),
        ),
    ] = 10,
    targets: Annotated[
        int,
        typer.Option(
            "--targets",
            metavar="N",
            help="caser-json: items to predict.",
            parser=whole("--targets", 1, 10_000, "items"),
        ),
    ] = 3,
    negatives: Annotated[
        int,
        typer.Option(
            "--negatives",
            metavar="N",
            help="caser-json: items not seen.",
            parser=whole("--negatives", 1, 10_000, "items"),
        ),
    ] = 3,
    engine: Annotated[
        Literal["local", "dask"],
        typer.Option("--engine", help="Parquet: read and write in this process, or by the workers of a Dask cluster."),
    ] = "local",
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="URL",
            help="dask: tcp://host:port of a cluster whose workers see the data and OUT; none: this machine.",
            show_default=False,
            parser=scheduler_address("--scheduler"),
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            help="dask: processes on this machine; none: one for each core.",
            show_default=False,
            parser=whole("--workers", 1, 1024, "processes"),
        ),
    ] = None,
) -> None:
    """Turn raw logs into Parquet with row numbers, bins and table sizes, or into the paper's own files."""
    _check_engine(engine, scheduler, workers, kind)
    spec = _spec(source, overrides or ())
    if kind == "parquet":
        _parquet(spec, out, overwrite=overwrite, dask=(scheduler, workers) if engine == "dask" else None)
        return
    from bagpipe.data.paper_formats import FILE_NAMES, Sequences, write_paper_format

    written = write_paper_format(
        spec.data,
        kind,
        out,
        seed=spec.seed,
        parts=parts,
        sequences=Sequences(sequence, targets, negatives),
        overwrite=overwrite,
    )
    name = FILE_NAMES[kind] if parts is None else f"part_0.txt to part_{parts - 1}.txt"
    typer.echo(f"{out / name}: {written.examples:,} examples, {len(written.table_sizes)} tables")


def _spec(source: str, overrides: Sequence[str]) -> "JobSpec":
    """The settings of a job file, or of a job over these raw logs."""
    from bagpipe.config.load import absolute_paths, job_from, load_local_job
    from bagpipe.config.paths import is_url, shown

    if not is_url(source) and source.endswith(JOB_SUFFIXES):
        return load_local_job(local_path(source), overrides).spec
    document = {"spec": {"data": {"path": source}}}
    return absolute_paths(job_from(document, shown(source), overrides)).spec


def _check_engine(engine: str, scheduler: str | None, workers: int | None, kind: str) -> None:
    """Refuse options that would have no effect."""
    if engine == "local" and (scheduler is not None or workers is not None):
        option = "--scheduler" if scheduler is not None else "--workers"
        raise ConfigError(f"{option}: is for --engine dask, and the engine is local; add --engine dask or leave it out")
    if scheduler is not None and workers is not None:
        raise ConfigError("--workers: is for a cluster that is started here, and --scheduler names one; leave one out")
    if engine != "local" and kind != "parquet":
        raise ConfigError(f"--engine {engine}: writes Parquet, and --format is {kind}; leave out one of the two")


def _parquet(spec: "JobSpec", out: Path, *, overwrite: bool, dask: tuple[str | None, int | None] | None) -> None:
    """Prepare it here, or by Dask: at the address of a scheduler, or with so many processes."""
    from bagpipe.data.dask_engine import dask_engine
    from bagpipe.data.output import check_output
    from bagpipe.data.prepare import prepare as write

    with ExitStack() as stack:
        if dask is not None:
            check_output(out, [], overwrite=overwrite)  # before a cluster is started
        prepared = write(
            spec.data,
            out,
            tables=spec.embedding.tables,
            seed=spec.seed,
            overwrite=overwrite,
            progress=_Progress(time.monotonic).tell if sys.stderr.isatty() else None,
            engine=stack.enter_context(dask_engine(*dask)) if dask is not None else None,
        )
    if prepared.begun_at:
        typer.echo(
            f"went on after {prepared.begun_at:,} examples that an interrupted `bagpipe data prepare` had written"
        )
    typer.echo(f"{prepared.folder}: {prepared.examples:,} examples, {len(prepared.info.tables)} tables")
    if prepared.info.bad_lines:
        typer.echo(f"skipped {prepared.info.bad_lines:,} malformed lines; the first: {prepared.info.first_bad}")
    typer.echo(f"train on it with {' '.join(f'--set spec.data.{one}' for one in _to_train(spec, prepared.folder))}")
    if spec.data.split_by != "order":
        typer.echo(f"its rows are in the order of the raw ones, so its test part is not by {spec.data.split_by}")


def _to_train(spec: "JobSpec", folder: Path) -> list[str]:
    """What a job over raw data sets, and takes back, to train on the prepared data: what was for reading stays out."""
    from bagpipe.data.formats import settings_for_raw

    order = [] if spec.data.split_by == "order" else ["splitBy=order"]
    return [f"path={folder}", "format=parquet", *settings_for_raw(spec.data), *order]


class _Progress:
    """A progress line: the stage, how much of it is done, and how long it will take at this pace."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._stage = clock, ""
        self._begun, self._done = 0.0, 0.0

    def tell(self, stage: str, done: float) -> None:
        print(f"\r{self.line(stage, done):<70}", end="", file=sys.stderr, flush=True)

    def line(self, stage: str, done: float) -> str:
        now = self._clock()
        if stage != self._stage:
            self._stage, self._begun, self._done = stage, now, done
        gained, seconds = done - self._done, now - self._begun
        left = f", {_duration(seconds * (1 - done) / gained)} left" if gained > 0 and done < 1 else ""
        return f"{stage}: {done:4.0%}{left}" if done else stage


def _duration(seconds: float) -> str:
    """Rounded as one would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@app.command("describe")
def describe(job: JobFile, overrides: Overrides = None) -> None:
    """Read the job's data once and print rows, tables, skew and malformed lines."""
    from bagpipe.config.load import load_local_job
    from bagpipe.data.describe import describe as read
    from bagpipe.local.beginning import check_reading

    spec = load_local_job(job, overrides or ()).spec
    typer.echo(str(read(spec.data, seed=spec.seed)))
    try:
        check_reading(spec.data)
    except ConfigError as error:  # The data can be described nonetheless.
        typer.echo(f"a run of this job would be refused: {error}", err=True)

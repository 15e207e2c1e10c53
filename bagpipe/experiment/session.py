"""Runs the jobs of an experiment one after another, measures each, and writes the table in every case.

Everything that was started is removed again: after each job, and when the experiment is interrupted (SIGINT, SIGTERM)
or fails. A job that fails is a row of the table, and the others still run.
"""

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Protocol

from bagpipe.errors import BagpipeError, ConfigError, StorageError
from bagpipe.experiment.measure import Timing, timing
from bagpipe.experiment.plot import to_svg
from bagpipe.experiment.suite import Case
from bagpipe.experiment.table import Row, to_csv, to_json, to_markdown

Note = Callable[[str], None]


class Interrupted(Exception):
    """The experiment was asked to stop, perhaps while a job ran."""


class Runner(Protocol):
    """Where jobs run."""

    def run(self, case: Case, directory: Path) -> Path:
        """Run a job to its end and remove it; logs are left in `directory`. Returns the file of its records.

        Raises:
            BagpipeError: the job failed.
            Interrupted: it was asked to stop.
        """

    def close(self) -> None:
        """Remove whatever is left of any job; never raises."""


def run_experiment(
    planned: Sequence[Case],
    warm_ups: Sequence[Case],
    runner: Runner,
    out: Path,
    note: Note,
    *,
    skip: int,
    conditions: Sequence[str] = (),
    measured: Sequence[Row] = (),
    generated: Mapping[str, Iterable[str]] = MappingProxyType({}),
) -> tuple[Row, ...]:
    """Run every case; returns the rows, which are also in `out` as table.md, table.csv, table.json and table.svg.

    Args:
        skip: steps at the beginning of each run that do not count.
        measured: rows that come from elsewhere (the TorchRec baseline's).
        generated: data files to write into `out` first, by name; their lines.

    Raises:
        Interrupted: with the table of what had been measured written.
        ConfigError: `out` holds another experiment.
    """
    _prepare(out)
    for name, lines in generated.items():
        with (out / name).open("w", encoding="utf-8") as file:
            file.writelines(lines)
    rows: list[Row] = list(measured)
    with signals_interrupt():
        try:
            for case in warm_ups:
                note(f"warming up: {case.name}")
                _warm_up(case, runner, out, note)
            for case in planned:
                note(f"running {case.name}")
                rows.append(_row(case, runner, out, skip))
                note(f"  {_said(rows[-1])}")
        finally:
            with signals_wait(note):
                runner.close()
                write_tables(rows, out, conditions)
    return tuple(rows)


def write_tables(rows: Sequence[Row], out: Path, conditions: Sequence[str]) -> None:
    """Write the table as Markdown, CSV, JSON and SVG.

    Raises:
        StorageError: the disk is full.
    """
    try:
        for name, text in (
            ("table.md", to_markdown(rows, conditions)),
            ("table.csv", to_csv(rows)),
            ("table.json", to_json(rows, conditions)),
            ("table.svg", to_svg(rows)),
        ):
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{out}: the table cannot be written: {error.strerror}; free some space") from None


def _row(case: Case, runner: Runner, out: Path, skip: int) -> Row:
    spec = case.job.spec
    found: Timing | None = None
    problem = None
    try:
        records = runner.run(case, out / case.name)
        with records.open(encoding="utf-8", errors="replace") as lines:
            found = timing(lines, skip=skip)
    except BagpipeError as error:
        problem = f"failed: {' '.join(str(error).splitlines())}"
    return Row(case.model, case.variant, spec.batch_size, spec.trainers.replicas, found, problem)


def _warm_up(case: Case, runner: Runner, out: Path, note: Note) -> None:
    try:
        runner.run(case, out / case.name)
    except BagpipeError as error:
        note(f"  failed, the figures may show a cold start: {' '.join(str(error).splitlines())}")


def _said(row: Row) -> str:
    if row.timing is None:
        return row.problem or ""
    return f"{row.timing.mean_ms:.1f} ms per iteration over {row.timing.steps} iterations"


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        occupied = any(out.iterdir())
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be used: {error.strerror}; choose another") from None
    if occupied:
        raise ConfigError(f"--out {out}: not empty; choose another directory")


# ── signals ───────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGINT and SIGTERM become `Interrupted`, so that every `finally` on the way runs.

    Only the first signal does: a second one would interrupt what a `finally` has begun.
    """
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise Interrupted(f"stopped by {signal.Signals(number).name}")

    with _handlers(interrupt):
        yield


@contextmanager
def signals_wait(note: Note) -> Iterator[None]:
    """While things are removed, a signal is acknowledged, and acted on afterwards: every request has its deadline.

    Raises:
        Interrupted: at the end, if there was one.
    """
    asked: list[str] = []

    def explain(number: int, frame: FrameType | None) -> None:
        asked.append(signal.Signals(number).name)
        note("still cleaning up; this ends by itself")

    with _handlers(explain):
        yield
    if asked:
        raise Interrupted(f"stopped by {asked[0]}")


@contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)

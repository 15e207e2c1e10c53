"""What the run tells people: `metrics.jsonl` as it goes, `report.json` at its end.

A step is reported once every trainer has finished it. Losses are combined in rank order, weighted by the examples of
each slice: the mean over the global batch. What each figure means and from when to when it counts stands in
`docs/figures.md`.
"""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from bagpipe.errors import StorageError
from bagpipe.lowlevel import crash_points
from bagpipe.lowlevel.atomic_files import cannot_write, write_whole
from bagpipe.lowlevel.json_lines import records_in
from bagpipe.lowlevel.strict_json import encode, number
from bagpipe.oracle.service.kept_names import LAST_LOSS
from bagpipe.oracle.service.ledger import ToldStep
from bagpipe.oracle.service.phases import Figures, Start
from bagpipe.oracle.sizing.auto import ResolvedSettings

METRICS = "metrics.jsonl"
TRAINING = "training"
"""Event with which the records of an attempt begin."""
SKIPPED = "skipped"
"""Event of a step that changed nothing, because its loss or a gradient was not finite."""
REPORT = "report.json"


def keep_loss(checkpoints: Path, step: int, loss: float | None) -> None:
    """Note the loss of the step before `step`, where this process may write to the checkpoints' directory."""
    if loss is not None and checkpoints.is_dir():
        with suppress(StorageError):  # A job that is trained must not fail because of this note.
            write_whole(checkpoints / LAST_LOSS, encode({"step": step, "loss": loss}).encode())


def kept_loss(checkpoints: Path, step: int) -> float | None:
    """The loss noted for this step, if any."""
    try:
        found = json.loads((checkpoints / LAST_LOSS).read_bytes())
        return number(found, "loss") if found["step"] == step else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(slots=True)
class Interval:
    """Steps since the last record, or since the beginning. `now` counts seconds."""

    begun: float | None = None
    """When its first step began: where the one before it ended; None before any step has ended."""
    ended: float = 0.0
    examples: int = 0
    busy: dict[int, float] = field(default_factory=dict)
    """Seconds that each trainer took for the steps whose examples count; its steps come one after the other."""
    waits: dict[str, float] = field(default_factory=dict)

    def add(self, step: ToldStep, now: float) -> None:
        """A step ended. Of the very first one only the waits count: it includes the trainers' start-up."""
        if self.begun is None:
            self.begun = now
        else:
            self.examples += num_examples(step)
            for part in step.parts:
                self.busy[part.done.rank] = self.busy.get(part.done.rank, 0.0) + part.done.seconds
        self.ended = now
        for part in step.parts:
            for name, seconds in part.done.waits.items():
                self.waits[name] = self.waits.get(name, 0.0) + seconds / len(step.parts)

    def rate(self, last: ToldStep | None) -> float:
        """Examples per second; of one single step, by the time that its slowest trainer took for it.

        An oracle that had no processor hears of several steps at once, so no shorter time counts than trainers took.
        """
        if self.begun is not None and self.ended > self.begun and self.examples:
            return self.examples / max(self.ended - self.begun, *self.busy.values())
        seconds = max((part.done.seconds for part in last.parts), default=0.0) if last is not None else 0.0
        return num_examples(last) / seconds if last is not None and seconds > 0 else 0.0


@dataclass(slots=True)
class TrainingFigures:
    """Collects the figures of training, step by step. Pure: the time is passed in."""

    log_every: int
    loss: float | None
    """Before the first step: what is known of the last step of an earlier attempt."""
    total_steps: int | None = None
    recorded: int = 0
    """Steps whose records an earlier process of this attempt has written."""
    _last: ToldStep | None = None
    _all: Interval = field(default_factory=Interval)
    _recent: Interval = field(default_factory=Interval)

    def add(self, step: ToldStep, now: float, *, hit_rate: float) -> dict[str, Any] | None:
        """A step ended now; returns a record of the latest steps where one is due."""
        self.loss, self._last = mean_loss(step), step
        self._all.add(step, now)
        self._recent.add(step, now)
        if (step.step + 1) % self.log_every and step.step + 1 != self.total_steps:
            return None
        recent, self._recent = self._recent, Interval(begun=now)
        if step.step < self.recorded:
            return None
        return {
            "step": step.step + 1,
            "total_steps": self.total_steps,
            "loss": self.loss,
            "examples_per_second": round(recent.rate(step), 1),
            "cache_hit_rate": round(hit_rate, 6),
            "waits": {name: round(seconds, 6) for name, seconds in sorted(recent.waits.items())},
        }

    def figures(self) -> Figures:
        """The figures of training up to the last step that has ended."""
        return Figures(self.loss, self._all.rate(self._last), dict(sorted(self._all.waits.items())))


class Reporter:
    """Writes the records of `metrics.jsonl`, each to `echo` as well, and `report.json`. Not thread-safe.

    Each of its methods raises StorageError where a file cannot be written.
    """

    def __init__(self, run_dir: Path, *, attempt: int, log_every: int, echo: TextIO | None = None) -> None:
        self._directory, self._attempt, self._echo = run_dir, attempt, echo
        metrics = run_dir / METRICS
        self.training = TrainingFigures(log_every, loss=None, recorded=recorded_steps(metrics, attempt))
        self._metrics = metrics
        self._file: TextIO = metrics.open("a", encoding="utf-8")

    def event(self, name: str, **facts: Any) -> None:
        """Record something that happened, by name."""
        self._write({"event": name, **facts})

    def begin_training(self, start: Start, total_steps: int | None, settings: ResolvedSettings) -> None:
        """Training starts at this step."""
        self.training.loss, self.training.total_steps = start.loss, total_steps
        facts = {"first_step": start.step, "lookahead": settings.lookahead, "slots": settings.slots}
        self.event(TRAINING, attempt=self._attempt, **facts)

    def step(self, step: ToldStep, *, hit_rate: float) -> None:
        """Every trainer has finished this step."""
        reasons = [part.done.skipped for part in step.parts if part.done.skipped]
        if reasons:
            self.event(SKIPPED, step=step.step + 1, reasons=reasons)
        record = self.training.add(step, time.monotonic(), hit_rate=hit_rate)
        if record is not None:
            self._write(record)

    def finish(self, report: str) -> None:
        """Write `report.json`."""
        write_whole(self._directory / REPORT, report.encode())

    def close(self) -> None:
        with suppress(OSError):  # What it could not write has been reported by then.
            self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        line = encode({"time": round(time.time(), 3), **record}) + "\n"
        crash_points.passed("record of metrics")
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._metrics, error, needs=len(line.encode())) from None
        if self._echo is not None:
            self._echo.write(line)
            self._echo.flush()


def recorded_steps(metrics: Path, attempt: int) -> int:
    """Steps up to the last record of this attempt: an earlier process of it has written those."""
    recorded, ours = 0, False
    try:
        text = metrics.read_text(encoding="utf-8")
    except OSError:
        return 0
    for record in records_in(text):
        if record.get("event") == TRAINING:
            ours = record.get("attempt") == attempt
        elif ours and "step" in record and "event" not in record:
            recorded = record["step"]
    return recorded


def skipped_steps(metrics: Path, through: int) -> int:
    """How many steps up to this one were passed over (`notFinite: skip`); each counts once, over all attempts."""
    try:
        text = metrics.read_text(encoding="utf-8")
    except OSError:
        return 0
    steps = {record["step"] for record in records_in(text) if record.get("event") == SKIPPED}
    return sum(step <= through for step in steps)


def num_examples(step: ToldStep) -> int:
    """Examples of the global batch."""
    return sum(part.done.num_examples for part in step.parts)


def mean_loss(step: ToldStep) -> float | None:
    """Mean over the global batch, summed in rank order; None if a trainer did not tell its loss, or has no example."""
    told = [p.done.loss * p.done.num_examples for p in step.parts if p.done.loss is not None]
    examples = num_examples(step)
    return sum(told) / examples if len(told) == len(step.parts) and examples else None

"""What the run tells people: `metrics.jsonl` as it goes, `report.json` at its end.

Each `StepDone` is one trainer's view of a step; a step is reported once every trainer has finished it.
Losses are combined in rank order, weighted by the examples of each slice: the mean over the global batch.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from bagpipe.errors import StorageError
from bagpipe.lowlevel.atomic_files import write_whole
from bagpipe.lowlevel.strict_json import encode, number
from bagpipe.net.messages import StepDone

LAST_LOSS = "last-loss.json"
"""Beside the checkpoints: the loss of the last step, for an attempt that finds nothing left to train."""


def keep_loss(checkpoints: Path, step: int, loss: float | None) -> None:
    """Note the loss of the step before `step`, where this process may write to the checkpoints' directory."""
    if loss is not None and checkpoints.is_dir():
        with suppress(StorageError):  # A job that is trained must not fail for a note.
            write_whole(checkpoints / LAST_LOSS, encode({"step": step, "loss": loss}).encode())


def kept_loss(checkpoints: Path, step: int) -> float | None:
    """The loss noted for this step, if any."""
    try:
        found = json.loads((checkpoints / LAST_LOSS).read_bytes())
        return number(found, "loss") if found["step"] == step else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Reporter:
    """Collects steps; writes a record every `log_every` steps and for each event.

    Not thread-safe. Times are seconds of the wall clock; rates are over the records' interval.
    """

    def __init__(self, run_dir: Path, *, world_size: int, log_every: int, echo: TextIO | None = None) -> None:
        self._directory, self._echo = run_dir, echo
        self._file: TextIO = (run_dir / "metrics.jsonl").open("a", encoding="utf-8")
        self._world_size, self._log_every = world_size, log_every
        self.total_steps: int | None = None
        self._open: dict[int, dict[int, StepDone]] = {}
        self._started = self._interval_started = time.monotonic()
        self._interval_examples = self._examples = 0
        self._interval_waits: dict[str, float] = {}
        self.waits: dict[str, float] = {}
        self.next_step = 0
        self.loss: float | None = None

    def event(self, name: str, **facts: Any) -> None:
        """Record something that happened, by name."""
        self._write({"event": name, **facts})

    def done(self, message: StepDone, *, hit_rate: float) -> None:
        """One trainer finished a training step; reports the step when it was the last to."""
        parts = self._open.setdefault(message.step, {})
        parts[message.rank] = message
        if len(parts) < self._world_size or message.step != self.next_step:
            return
        del self._open[message.step]
        self._finish(message.step, [parts[rank] for rank in range(self._world_size)], hit_rate)

    def skip_to(self, step: int) -> None:
        """A restarted oracle cannot report steps that trainers finished before it came."""
        self.next_step = max(self.next_step, step)

    def _finish(self, step: int, parts: list[StepDone], hit_rate: float) -> None:
        examples = sum(p.num_examples for p in parts)
        told = [p.loss * p.num_examples for p in parts if p.loss is not None]
        self.loss = sum(told) / examples if len(told) == len(parts) else None
        self.next_step = step + 1
        self._examples += examples
        self._interval_examples += examples
        for part in parts:
            for name, seconds in part.waits.items():
                self._interval_waits[name] = self._interval_waits.get(name, 0.0) + seconds / self._world_size
        if (step + 1) % self._log_every == 0 or step + 1 == self.total_steps:
            self._log(step, hit_rate)

    def _log(self, step: int, hit_rate: float) -> None:
        now = time.monotonic()
        seconds = now - self._interval_started
        self._write(
            {
                "step": step + 1,
                "total_steps": self.total_steps,
                "loss": self.loss,
                "examples_per_second": round(self._interval_examples / seconds, 1) if seconds else 0.0,
                "cache_hit_rate": round(hit_rate, 6),
                "waits": {name: round(s, 6) for name, s in sorted(self._interval_waits.items())},
            }
        )
        for name, waited in self._interval_waits.items():
            self.waits[name] = self.waits.get(name, 0.0) + waited
        self._interval_started, self._interval_examples, self._interval_waits = now, 0, {}

    def rate(self) -> float:
        """Examples per second since the first plan, up to the last finished step."""
        seconds = time.monotonic() - self._started
        return self._examples / seconds if seconds else 0.0

    def start_training(self, first_step: int, total_steps: int | None) -> None:
        """Training starts now at this step: what came before is not part of any rate."""
        self.next_step, self.total_steps = max(self.next_step, first_step), total_steps
        self._started = self._interval_started = time.monotonic()

    def finish(self, report: Mapping[str, Any]) -> None:
        """Write `report.json` whole or not at all."""
        write_whole(self._directory / "report.json", (encode(report, indent=2) + "\n").encode())

    def close(self) -> None:
        self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        line = encode({"time": round(time.time(), 3), **record}) + "\n"
        for target in (self._file, self._echo):
            if target is not None:
                target.write(line)
                target.flush()

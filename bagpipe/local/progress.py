"""Shows a run as it goes: reads new records of `metrics.jsonl`, draws a bar on a terminal, prints lines elsewhere."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from bagpipe.lowlevel.json_lines import records_in
from bagpipe.lowlevel.strict_json import number

Record = Mapping[str, Any]

PLAIN_SECONDS = 2.0
"""A plain line is printed at most so often."""
TOGETHER_SECONDS = 0.05
"""Records that are seen within this time were read at one look."""
PACE_RECORDS = 20
"""The remaining time is estimated from so many of the latest records."""
EVENTS = {
    "preparing": "preparing the data",
    "starting": "waiting for every role to start",
    "training": "training",
    "evaluating": "evaluating on the test part",
}


class MetricsTail:
    """Records appended to a JSON-lines file since the last look; a line still being written is left for later.

    Args:
        whole: the first look finds what was there before, too.
    """

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() and not whole else 0

    def read(self) -> list[Record]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return list(records_in(whole.decode("utf-8", "replace")))


class Pace:
    """Estimates the remaining time from when the latest records were seen: the clock of their times may be set anew.

    Args:
        clock: seconds since some moment; never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=PACE_RECORDS)
        self._clock = clock

    def remaining_seconds(self, record: Record) -> float | None:
        """None until two records have been seen, or where the end is not known."""
        step, total, now = int(record["step"]), record.get("total_steps"), self._clock()
        if self._seen and step <= self._seen[-1][1]:
            self._seen.clear()  # a new attempt began further back
        if len(self._seen) > 1 and now - self._seen[-1][0] < TOGETHER_SECONDS:
            self._seen.pop()  # of records that were read together only the last one tells the pace
        self._seen.append((now, step))
        (first_time, first_step), (last_time, _) = self._seen[0], self._seen[-1]
        if total is None or step == first_step or last_time - first_time < TOGETHER_SECONDS:
            return None
        return (int(total) - step) * (last_time - first_time) / (step - first_step)


def describe(record: Record, eta_seconds: float | None) -> str:
    """One step record in words."""
    total = f"/{record['total_steps']}" if record.get("total_steps") else ""
    parts = [f"step {record['step']}{total}"]
    loss = number(record, "loss")
    if loss is not None:
        parts.append(f"loss {loss:.4f}")
    parts.append(f"{record['examples_per_second']:,.0f} examples/s")
    parts.append(f"hits {record['cache_hit_rate']:.1%}")
    waits = sorted(record["waits"].items(), key=lambda item: -item[1])
    shown = [f"{name} {seconds:.2f} s" for name, seconds in waits if seconds >= 0.005][:3]
    parts.append(f"waited {', '.join(shown) or 'for nothing'}")
    if eta_seconds is not None:
        minutes, seconds = divmod(int(eta_seconds + 0.5), 60)
        parts.append(f"ETA {minutes}:{seconds:02d}")
    return "  ".join(parts)


class View(Protocol):
    """Where a run's progress goes."""

    def record(self, record: Record) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class PlainView:
    """Lines, for logs and pipes.

    Args:
        clock: as of `Pace`.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._pace, self._last, self._clock = write, Pace(clock), float("-inf"), clock

    def record(self, record: Record) -> None:
        if "event" in record:
            self._write(str(record.get("text") or EVENTS.get(record["event"], record["event"])).rstrip())
            return
        eta = self._pace.remaining_seconds(record)
        now = self._clock()
        if now - self._last >= PLAIN_SECONDS or record["step"] == record.get("total_steps"):
            self._last = now
            self._write(describe(record, eta))

    def note(self, text: str) -> None:
        self._write(text)

    def close(self) -> None:
        pass


class BarView:
    """One line that is redrawn, for people at a terminal."""

    def __init__(self, console: Console) -> None:
        self._pace = Pace()
        self._progress = Progress(BarColumn(20), TextColumn("{task.description}", markup=False), console=console)
        self._bar: TaskID = self._progress.add_task("starting", total=None)
        self._progress.start()

    def record(self, record: Record) -> None:
        if "text" in record:
            self.note(str(record["text"]).rstrip())
        elif "event" in record:
            self._progress.update(self._bar, description=EVENTS.get(record["event"], str(record["event"])))
        if "event" in record:
            return
        text = describe(record, self._pace.remaining_seconds(record))
        self._progress.update(self._bar, description=text, completed=record["step"], total=record.get("total_steps"))

    def note(self, text: str) -> None:
        self._progress.console.print(Text(text))

    def close(self) -> None:
        self._progress.stop()


def view_for(console: Console) -> View:
    """A bar on a terminal, lines elsewhere."""
    if console.is_terminal:
        return BarView(console)
    return PlainView(print_while_read)


def print_while_read(text: str) -> None:
    """Print a line; once the reader is gone (`bagpipe run ... | head`), discard it: the run goes on all the same."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

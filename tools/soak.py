"""Runs tiny steps for some time, kills a role every few thousand of them, and writes whether anything grew.

python tools/soak.py --minutes 60 --write     an hour, and the table in docs/reliability.md
python tools/soak.py --steps 1000000          until so many steps are trained, however long that takes
python tools/soak.py --trainers 1             about twice as many steps a second; trainers then exchange nothing

Right is: the run ends by itself, and between the first and the last quarter of it neither the memory nor the
descriptors of any role have grown, nor the files of the run directory.
"""

import argparse
import math
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pages import write_part

from bagpipe.config.document import Job
from bagpipe.config.load import parse_job
from bagpipe.local.progress import Record
from bagpipe.local.rundir import RunDir
from bagpipe.local.supervisor import Supervisor
from bagpipe.testing.forked_child import known_to, preload

TARGET = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- soak: written by tools/soak.py -->", "<!-- end of soak -->"
JOB = """
metadata: {name: soak}
spec:
  model: {name: dlrm, bottomMlp: [4], overMlp: [4]}
  data: {format: synthetic, synthetic: {examples: 4000, tableSizes: [50, 400]}}
  embedding: {dim: 4, optimizer: {name: adagrad, lr: 0.05}}
  batchSize: 4
  epochs: 1000000
  steps: 100000000
  lookahead: 8
  cacheRows: 300
  evaluate: false
  logEvery: 100
  checkpoint: {every: 2000, keep: 2}
  transport: {deadPeerSeconds: 60, deadlineSeconds: 120}
  runPolicy: {backoffLimit: 10000}
  servers: {replicas: 1}
  trainers: {replicas: TRAINERS, device: cpu}
"""

MEASURE_SECONDS = 2.0
"""Between two looks at every role, so that what they say takes no memory to speak of itself."""


@dataclass(slots=True)
class Watcher:
    """The run's view: measures at every record, kills at every `every`th step, and asks the run to end in time."""

    until: float
    steps: int
    every: int
    folder: Path
    seed: int
    pids: dict[str, int] = field(default_factory=dict)
    seen: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """By what is measured: when, and the figure."""
    kills: dict[str, int] = field(default_factory=dict)
    step: int = 0
    asked: bool = False
    begun: float = field(default_factory=time.monotonic)
    measured: float = 0.0
    _next: int = 0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random, self._next = random.Random(self.seed), self.every

    def record(self, record: Record) -> None:
        if "loss" not in record:
            return
        self.step = max(self.step, record["step"])
        self._measure()
        if time.monotonic() > self.until or self.step >= self.steps:
            if not self.asked:
                self.asked = True
                os.kill(os.getpid(), signal.SIGTERM)
        elif self.step >= self._next:
            self._next = self.step + self.every
            role = self._random.choice(sorted(self.pids))
            self.kills[role] = self.kills.get(role, 0) + 1
            os.kill(self.pids[role], signal.SIGKILL)

    def _measure(self) -> None:
        now = time.monotonic()
        if now - self.measured < MEASURE_SECONDS:
            return
        self.measured = now
        for role, pid in {**self.pids, "supervisor": os.getpid()}.items():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))
                memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
            except (OSError, StopIteration):  # it was killed, and its successor is not known yet
                continue
            self.seen.setdefault(f"{role}, MiB", []).append((now, memory / 1024))
            self.seen.setdefault(f"{role}, descriptors", []).append((now, descriptors))
        files = sum(len(names) for _, _, names in os.walk(self.folder))
        self.seen.setdefault("run directory, files", []).append((now, files))

    def note(self, text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        """Nothing is open."""


def main(arguments: Sequence[str]) -> int:
    """Returns 1 if the run ended by an error or anything grew."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--minutes", type=float, help="how long (default: 60, or as long as --steps takes)")
    made.add_argument("--steps", type=int, help="how many steps (default: as many as there is time for)")
    made.add_argument("--every", type=int, default=3_000, help="steps between two kills")
    made.add_argument("--trainers", type=int, default=2, choices=(1, 2))
    made.add_argument("--seed", type=int, default=0, help="which role is killed when")
    made.add_argument("--write", action="store_true", help="replace the table in docs/reliability.md")
    chosen = made.parse_args(arguments)
    minutes = chosen.minutes or (math.inf if chosen.steps else 60.0)
    preload()
    job: Job = parse_job(JOB.replace("TRAINERS", str(chosen.trainers)), "the job that is soaked")
    with tempfile.TemporaryDirectory(prefix="bagpipe-soak-") as place:
        watcher = Watcher(
            until=time.monotonic() + 60 * minutes,
            steps=chosen.steps or sys.maxsize,
            every=chosen.every,
            folder=Path(place) / "run",
            seed=chosen.seed,
        )
        with RunDir.create(watcher.folder) as directory:
            directory.begin(job)
            outcome = Supervisor(job, directory, watcher, child=known_to(watcher.pids)).run()
    rows = [(name, *quarters(values)) for name, values in sorted(watcher.seen.items())]
    grown = [name for name, before, after in rows if after > before * 1.2 + 8]
    print(
        f"{watcher.step} steps, {watcher.step / (time.monotonic() - watcher.begun):.0f} a second, "
        f"kills {watcher.kills}, ended with {outcome.code} {outcome.error}; "
        f"grown: {grown or 'nothing'}"
    )
    if chosen.write:
        write(rows, watcher, " ".join(["python tools/soak.py", *arguments]))
    return int(bool(grown) or outcome.code not in (0, 143))


def quarters(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The median of the second quarter of the time, and that of the last: in the first a role warms up."""
    begin, end = values[0][0], values[-1][0]
    quarter = (end - begin) / 4
    second = [value for at, value in values if begin + quarter <= at <= begin + 2 * quarter] or [values[0][1]]
    last = [value for at, value in values if at >= end - quarter]
    return statistics.median(second), statistics.median(last)


def write(rows: Sequence[tuple[str, float, float]], watcher: Watcher, command: str) -> None:
    """Replace the table."""
    killed = ", ".join(f"{role} {count}" for role, count in sorted(watcher.kills.items()))
    minutes = (time.monotonic() - watcher.begun) / 60
    lines = [
        f"`{command}` on {platform.machine()}, Linux {platform.release().split('-')[0]}:",
        f"{watcher.step:,} steps in {minutes:.0f} minutes; killed: {killed or 'nobody'}.",
        "",
        "| what | median in the second quarter | in the last |",
        "|---|--:|--:|",
        *(f"| {name} | {before:.0f} | {after:.0f} |" for name, before, after in rows),
    ]
    write_part(TARGET, BEGIN, END, lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

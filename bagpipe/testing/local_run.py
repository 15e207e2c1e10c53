"""Starts a `bagpipe run` as a process, to be watched and disturbed from outside: for tests and sweeps.

Linux only: roles are found among the supervisor's children in `/proc`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bagpipe.lowlevel.clock import SYSTEM_CLOCK
from bagpipe.lowlevel.json_lines import records_in

LOOK_SECONDS = 0.02
ROLES = (("oracle", ""), ("server", "--shard"), ("trainer", "--rank"))


@dataclass(slots=True)
class LocalRun:
    """One run as a process; what it prints goes to `output`, beside the run directory."""

    run_dir: Path
    process: "subprocess.Popen[bytes]"
    output: Path

    @classmethod
    def start(cls, run_dir: Path, *arguments: str, environment: Mapping[str, str] = os.environ) -> "LocalRun":
        output = run_dir.with_name(f"{run_dir.name}.out")
        command = [sys.executable, "-m", "bagpipe.cli.main", "run", *arguments, "--run-dir", str(run_dir)]
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=dict(environment) | {"OMP_NUM_THREADS": "1"}
            )
        return cls(run_dir, process, output)

    def told(self) -> str:
        """What the run has printed."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def finish(self, seconds: float = 600.0) -> int:
        """Wait for its end; returns the exit code. A run that takes longer is killed, and TimeoutExpired is raised."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def kill(self) -> None:
        """End it and every role at once."""
        for pid in [*self.roles().values(), self.process.pid]:
            end_process(pid)
        self.process.wait()

    # ── what it has come to ───────────────────────────────────────────────────────────────────────

    def records(self) -> list[dict[str, Any]]:
        """What `metrics.jsonl` holds by now."""
        try:
            text = (self.run_dir / "metrics.jsonl").read_text()
        except OSError:
            return []
        return [dict(record) for record in records_in(text)]

    def step(self) -> int:
        """Steps that have been reported."""
        return max((record["step"] for record in self.records() if "loss" in record), default=0)

    def wait_for_step(self, step: int) -> None:
        """Wait until this step is reported; AssertionError if the run ends before."""
        while self.step() < step:
            if self.process.poll() is not None:
                raise AssertionError(f"the run ended with {self.process.returncode}: {self.told()[-2000:]}")
            SYSTEM_CLOCK.pause(LOOK_SECONDS)

    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text())
        return found

    # ── its processes ─────────────────────────────────────────────────────────────────────────────

    def roles(self) -> dict[str, int]:
        """The pid of every role that runs now: `oracle`, `server 0`, `trainer 1`."""
        return roles_of(self.process.pid)

    def pid_of(self, role: str, seconds: float = 60.0) -> int:
        """The pid of a role, once it runs."""
        deadline = time.monotonic() + seconds
        while (pid := self.roles().get(role)) is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"{role} does not run")
            SYSTEM_CLOCK.pause(LOOK_SECONDS)
        return pid


def roles_of(supervisor: int) -> dict[str, int]:
    """The roles among a supervisor's children."""
    found = {}
    try:
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    except OSError:
        return {}
    for pid in children:
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:  # it ended meanwhile
            continue
        for role, index in ROLES:
            if role in arguments and "-m" in arguments:
                found[f"{role} {arguments[arguments.index(index) + 1]}" if index else role] = int(pid)
    return found


def end_process(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def listening(pid: int) -> list[tuple[str, int]]:
    """(address in the kernel's hexadecimal form, port) of every TCP socket on which a process listens."""
    held = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.add(os.readlink(link))
        except OSError:  # closed meanwhile
            continue
    found = []
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            entries = line.split()
            if entries[3] == "0A" and f"socket:[{entries[9]}]" in held:
                address, _, port = entries[1].rpartition(":")
                found.append((address, int(port, 16)))
    return found

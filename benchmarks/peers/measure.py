"""One measurement: start every role on its link, wait for the steps, count time, CPU and bytes, end everything.

Times are the contender's own; CPU comes from the kernel's clock of each process, bytes from the links. Both are
read twice, after the warm-up and after the last measured step. `others_cores` is how many cores something else kept
busy meanwhile (the kernel's network threads and this program are a few hundredths of it): it tells a disturbed
measurement. Whatever was started is ended, whatever happens.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bagpipe.local.process import LAUNCHER
from peers.contender import Contender
from peers.contenders.ours import Ours
from peers.links import INTERFACE, Links
from peers.setting import Setting

POLL_SECONDS = 0.1
START_SECONDS = 180.0
STEP_SECONDS = 60.0
TAIL_CHARACTERS = 600


class MeasurementError(Exception):
    """A contender did not get through its steps; says what it said."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the counters after some step."""

    step: int
    clock: float
    cpu_seconds: dict[str, float]
    busy_seconds: float
    """Of all cores together, whatever kept them busy."""
    bytes_by_role: dict[str, tuple[int, int]]


def measure(contender: Contender, setting: Setting, links: Links, cache: Path) -> dict[str, Any]:
    """Run one contender; returns the record of this measurement.

    Raises:
        MeasurementError: a role died or fell silent.
    """
    contender.prepare(setting, cache)
    with tempfile.TemporaryDirectory(prefix="bagpipe-peers-") as name, ExitStack() as stack:
        directory = Path(name)
        children = _start(contender, setting, links, directory, stack)
        first = _wait(contender, setting, links, directory, children, setting.warmup)
        last = _wait(contender, setting, links, directory, children, setting.last_step)
        seconds = contender.step_seconds(setting, directory)[setting.warmup : setting.last_step]
        record = summarize(setting, seconds, first, last)
        if isinstance(contender, Ours):
            record["waits_ms"] = contender.waits(directory, setting.warmup)
            if contender.looks_ahead:
                record["planned"] = contender.planned(setting)
        return record


def summarize(setting: Setting, seconds: list[float], first: Snapshot, last: Snapshot) -> dict[str, Any]:
    """Figures of one measurement; milliseconds and bytes are for one step."""
    steps = last.step - first.step
    cpu = {role: 1e3 * (last.cpu_seconds[role] - first.cpu_seconds[role]) / steps for role in last.cpu_seconds}
    moved = {
        role: [round((after - before) / steps) for before, after in zip(first.bytes_by_role[role], ends, strict=True)]
        for role, ends in last.bytes_by_role.items()
    }
    ranked = sorted(seconds)
    ours = sum(last.cpu_seconds.values()) - sum(first.cpu_seconds.values())
    others = (last.busy_seconds - first.busy_seconds - ours) / (last.clock - first.clock)
    return {
        "setting": setting.to_json(),
        "ms": round(1e3 * statistics.median(seconds), 2),
        "mean_ms": round(1e3 * statistics.fmean(seconds), 2),
        "p90_ms": round(1e3 * ranked[int(0.9 * (len(ranked) - 1))], 2),
        "others_cores": round(others, 3),
        "cpu_ms": {role: round(ms, 2) for role, ms in cpu.items()},
        "bytes": {role: {"sent": sent, "received": received} for role, (sent, received) in moved.items()},
    }


def _start(
    contender: Contender, setting: Setting, links: Links, directory: Path, stack: ExitStack
) -> dict[str, subprocess.Popen[bytes]]:
    roles = contender.roles(setting)
    addresses = {role: links.address(role) for role in roles}
    told = {"setting": setting.to_json(), "addresses": addresses}
    (directory / "setting.json").write_text(json.dumps(told))
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")))),
        # Both libraries otherwise listen where the machine's name points to.
        "GLOO_SOCKET_IFNAME": INTERFACE,
        "TP_SOCKET_IFNAME": INTERFACE,
    }
    children = {}
    for role in roles:
        # The launcher has the kernel end the role when this program dies, however it dies.
        launcher = [sys.executable, "-S", "-E", str(LAUNCHER), str(os.getpid())]
        command = [*launcher, *links.inside(role, contender.command(setting, role, addresses, directory))]
        output = stack.enter_context(_log(directory, role).open("wb"))
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        stack.callback(_end, child)
        children[role] = child
    return children


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()


def _log(directory: Path, role: str) -> Path:
    return directory / f"{role.replace(' ', '-')}.log"


def _wait(
    contender: Contender,
    setting: Setting,
    links: Links,
    directory: Path,
    children: dict[str, subprocess.Popen[bytes]],
    step: int,
) -> Snapshot:
    """Until `step` steps are done."""
    done, changed = 0, time.monotonic()
    while True:
        seen = len(contender.step_seconds(setting, directory))
        if seen >= step:
            cpu = {role: cpu_seconds(child.pid) for role, child in children.items()}
            busy, counted = busy_seconds(), links.counters()
            return Snapshot(seen, time.monotonic(), cpu, busy, {role: counted[role] for role in children})
        now = time.monotonic()
        if seen > done:
            done, changed = seen, now
        ended = [role for role, child in children.items() if child.poll() is not None]
        if ended or now - changed > (STEP_SECONDS if done else START_SECONDS):
            why = f"{', '.join(ended)} ended" if ended else f"no step for {now - changed:.0f} s"
            raise MeasurementError(f"{contender.name}: {why} after {done} steps: {_log_tails(directory, children)}")
        time.sleep(POLL_SECONDS)


def _log_tails(directory: Path, children: dict[str, subprocess.Popen[bytes]]) -> str:
    said = []
    for role in children:
        text = _log(directory, role).read_text(errors="replace").strip()
        said.append(f"[{role}] {text[-TAIL_CHARACTERS:]}")
    return "\n".join(said)


def cpu_seconds(pid: int) -> float:
    """CPU time of a running process with all its threads: the kernel's clock of that process."""
    return time.clock_gettime((~pid << 3) | 2)


def busy_seconds() -> float:
    """CPU time that this machine has spent on anything but waiting, all cores together; stolen time counts."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _waiting, interrupt, soft_interrupt, steal = fields
    return (user + nice + system + interrupt + soft_interrupt + steal) / os.sysconf("SC_CLK_TCK")

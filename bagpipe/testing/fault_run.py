"""Runs a short job with a fault in the middle: a link that breaks, a role that is stopped and continued, a disk that
fails, a clock that jumps.

The supervisor and its policy are those of `bagpipe run`; roles are forks of this process (`forked_child.py`), and every
link between two of them goes through a proxy (`fault_proxy.py`).
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ctypes import CDLL
from dataclasses import dataclass, field
from pathlib import Path

from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.config.load import parse_job
from bagpipe.errors import BagpipeError
from bagpipe.local.commands import Attempt, CommandBuilder, role_commands
from bagpipe.local.policy import RoleId
from bagpipe.local.ports import free_ports
from bagpipe.local.progress import Record
from bagpipe.local.rundir import RunDir
from bagpipe.local.supervisor import Supervisor
from bagpipe.net.curve import CURVE_DIR, CurveKeys
from bagpipe.testing.fault_machine import EVERYONE, OF_THE_MACHINE, Machine
from bagpipe.testing.forked_child import known_to, preload

__all__ = ["DEAD_SECONDS", "FAULTS", "Fault", "Faulted", "preload", "run_with"]

CLONE_NEWNET = 0x40000000
STEPS = 40
AT_STEP = 12
"""The fault comes once this step is reported."""
DEAD_SECONDS = 8.0
JOB = f"""
metadata: {{name: fault}}
spec:
  model: {{name: dlrm, bottomMlp: [8], overMlp: [8]}}
  data:
    format: synthetic
    testFraction: 0.05
    synthetic: {{examples: 1500, tableSizes: [50, 4000, 7, 300], multiHot: 2}}
  embedding: {{dim: 8, optimizer: {{name: adagrad, lr: 0.05}}}}
  batchSize: 32
  steps: {STEPS}
  lookahead: 8
  seed: 3
  logEvery: 1
  checkpoint: {{every: 10, keep: 2}}
  transport: {{deadPeerSeconds: {DEAD_SECONDS}, deadlineSeconds: 30, stepSeconds: 30}}
  servers: {{replicas: 1}}
  trainers: {{replicas: 2, device: cpu}}
"""
LINKS = ("oracle", "server 0", "trainer 1")
"""A link is named after the role that listens behind it: all roles connect to the oracle, and one trainer to the
other."""
ALL_LINKS = (*LINKS, "trainer 0")
"""Those that a partition between two roles needs: trainers connect to each other both ways."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`what` happens to the link or the role `where`; `seconds`: for how long, 0 where it does not end.

    `part`: nothing passes between the roles `where` and `other`, in neither direction. `lose`: so many per cent of all
    packets are lost; `drop`: no packet reaches or leaves the port of a role, or, where `other` is given, passes between
    the two roles in either direction, and nobody is told. These two need root and iptables, and move this process into
    a network of its own. Disks and clocks (`OF_THE_MACHINE`) are explained in `fault_machine.py`: `where` is a role or
    a folder.
    """

    what: str
    where: str
    seconds: float = 0.0
    """Of `clock`: by how much it jumps."""
    other: str = ""
    num_bytes: int = 0
    """Of `torn`."""
    curve: bool = False
    """The run is encrypted."""

    def __str__(self) -> str:
        if self.what == "clock":
            return f"clock of {self.where} {self.seconds / 3600:+g} h"
        if self.what == "torn":
            return f"torn files of {self.where} after {self.num_bytes} bytes"
        both = f"{self.what} {self.where}" + (f" and {self.other}" if self.other else "")
        lasting = f" for {round(self.seconds, 1):g} s" if self.seconds else ""
        return both + lasting + (", encrypted" if self.curve else "")


OF_MESSAGES = ("replay", "reorder", "earlier")
"""Faults of whole messages, which the proxy has to know. `earlier`: a trainer is killed, and what was said in the first
attempt is said again in the second one."""
PARTED = (
    ("oracle", "server 0"),
    ("oracle", "trainer 0"),
    ("oracle", "trainer 1"),
    ("server 0", "trainer 0"),
    ("server 0", "trainer 1"),
    ("trainer 0", "trainer 1"),
)
"""Every two roles that talk to each other."""
DROPPED_BETWEEN = (
    ("oracle", "server 0"),
    ("oracle", "trainer 0"),
    ("trainer 0", "trainer 1"),
    ("trainer 1", "server 0"),
)
"""Two roles of each kind of connection."""
GROUPS = {role: 61_000 + number for number, role in enumerate(("oracle", "server 0", "trainer 0", "trainer 1"))}
"""By role: the group of its sockets, by which the kernel knows them where packets between two roles are dropped."""
MARK = 7
"""Of connections between two such roles."""
OF_MARKED = (f"INPUT -m connmark --mark {MARK} -j DROP",)
LOST_PER_CENT = ("1 %", "10 %", "30 %")
_BELOW, _ABOVE = DEAD_SECONDS / 3, DEAD_SECONDS * 3
WRITERS = ("oracle", "server 0", "trainer 0")
"""Roles that write files."""
_HOUR, _DAY = 3600.0, 86400.0
FAULTS = (
    *(Fault(what, link) for what in ("reset", "silence", "delay", "split", *OF_MESSAGES) for link in LINKS),
    *(Fault("cut", link, seconds) for seconds in (_BELOW, DEAD_SECONDS, _ABOVE) for link in LINKS),
    *(Fault("part", one, seconds, other) for seconds in (_BELOW, DEAD_SECONDS, _ABOVE) for one, other in PARTED),
    *(Fault("lose", share) for share in LOST_PER_CENT),
    *(Fault("drop", link, seconds) for seconds in (_BELOW, DEAD_SECONDS, _ABOVE) for link in LINKS),
    *(Fault("drop", link, seconds, curve=True) for seconds in (DEAD_SECONDS, _ABOVE) for link in LINKS),
    *(
        Fault("drop", one, seconds, other, curve=curve)
        for curve in (False, True)
        for seconds in (DEAD_SECONDS, _ABOVE)
        for one, other in DROPPED_BETWEEN
    ),
    *(Fault("stop", role, seconds) for seconds in (_BELOW, DEAD_SECONDS, _ABOVE) for role in (*LINKS, "trainer 0")),
    *(Fault(what, "run directory", seconds) for what in ("full", "read-only") for seconds in (0.0, DEAD_SECONDS)),
    Fault("read-only", "checkpoints"),
    *(Fault("torn", role, num_bytes=number) for number in (0, 3000) for role in WRITERS),
    *(Fault("slow", where) for where in (*WRITERS, EVERYONE)),
    *(Fault("clock", EVERYONE, seconds) for seconds in (_HOUR, -_HOUR, _DAY, -_DAY)),
    *(Fault("clock", role, seconds) for seconds in (_DAY, -_DAY) for role in WRITERS),
)
DELAY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Faulted:
    """The result of a run with a fault."""

    fault: Fault | None
    digest: str | None
    code: int
    attempts: int
    seconds: float
    told: str
    """Why a new attempt was begun, or the run ended."""
    resumed: bool = False
    """The run ended by name for want of a disk; the digest is of the run that went on with it once it was mended."""


@dataclass(slots=True)
class _Disturber:
    """A run's view that causes the fault at its step. The supervisor calls it, in its thread."""

    fault: Fault | None
    proxy: "subprocess.Popen[bytes]"
    ports: Mapping[str, int]
    machine: Machine | None
    behind: Mapping[str, int]
    """The ports on which the roles themselves listen."""
    pids: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    done: bool = False

    def record(self, record: Record) -> None:
        if self.fault is None or self.done or record.get("step", 0) < AT_STEP:
            return
        self.done = True
        if self.fault.what == "stop":
            os.kill(self.pids[self.fault.where], signal.SIGSTOP)
            go_on = f"sleep {self.fault.seconds}; kill -CONT {self.pids[self.fault.where]} 2>/dev/null"
            subprocess.Popen(["sh", "-c", go_on])
            return
        if self.machine is not None:
            self.machine.begin(self.pids)
            return
        if self.fault.what == "lose":
            lose_packets(float(self.fault.where.rstrip(" %")) / 100)
            return
        if self.fault.what == "drop":
            rules = OF_MARKED if self.fault.other else at_port(self.behind[self.fault.where])
            drop_packets(rules, self.fault.seconds)
            return
        number = DELAY_SECONDS if self.fault.what == "delay" else self.fault.seconds
        self._tell(self.fault.where, f"{self.fault.what} {number} {self.fault.other}")
        if self.fault.what == "part" and self.fault.other in self.ports:
            self._tell(self.fault.other, f"part {number} {self.fault.where}")
        if self.fault.what == "earlier":
            os.kill(self.pids["trainer 1"], signal.SIGKILL)

    def _tell(self, link: str, command: str) -> None:
        assert self.proxy.stdin is not None
        self.proxy.stdin.write(f"{self.ports[link]} {command}\n".encode())
        self.proxy.stdin.flush()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        """Nothing is open."""


def run_with(fault: Fault | None, folder: Path) -> Faulted:
    """One run, with this fault or undisturbed."""
    job: Job = parse_job(JOB, "the job that is disturbed")
    begun = time.monotonic()
    what = "" if fault is None else fault.what
    if what in ("lose", "drop"):
        enter_own_network()
    between = what == "drop" and fault is not None and bool(fault.other)
    links = ALL_LINKS if what == "part" or between else LINKS
    behind = dict(zip(links, free_ports(len(links)), strict=True))
    before = dict(zip(links, free_ports(len(links)), strict=True))
    command = [sys.executable, "-m", "bagpipe.testing.fault_proxy"]
    command += ["--messages"] if what in (*OF_MESSAGES, "part") else []
    command += [f"{before[link]}:{behind[link]}" for link in links]
    with ExitStack() as stack:
        if fault is not None and fault.curve:
            stack.enter_context(_keys(folder.with_name(f"{folder.name}-keys")))
        proxy = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        stack.callback(proxy.kill)
        assert proxy.stdout is not None and proxy.stdout.readline()
        machine = _machine_of(fault, folder)
        if machine is not None:
            stack.enter_context(machine.prepared())
            stack.callback(machine.leave)
        view = _Disturber(fault, proxy, before, machine, behind)
        directory = stack.enter_context(RunDir.create(folder))
        directory.begin(job)
        if between and fault is not None:
            mark_connections(fault.where, fault.other, behind)
            before = behind  # No proxy: on its connections nobody could tell who has made the one behind.
        build = _through_the_proxy(role_commands(job, directory.job_file, directory.path), behind, before)
        code = _supervise(job, directory, view, build)
        notes, attempts = list(view.notes), sum("every role starts again" in note for note in view.notes) + 1
        resumed = code != 0 and machine is not None
        if resumed and machine is not None:
            machine.end()
            code = _supervise(job, directory, view, build, directory.starting_checkpoint(job, view.note))
            notes = notes if code == 0 else view.notes
        newest = newest_complete(directory.checkpoints(job))
        digest = model_digest(newest) if code == 0 and newest is not None else None
    return Faulted(fault, digest, code, attempts, time.monotonic() - begun, "; ".join(notes), resumed)


def _machine_of(fault: Fault | None, folder: Path) -> Machine | None:
    if fault is None or fault.what not in OF_THE_MACHINE:
        return None
    return Machine(fault.what, fault.where, folder, seconds=fault.seconds, num_bytes=fault.num_bytes)


def _supervise(
    job: Job, directory: RunDir, view: _Disturber, build: CommandBuilder, checkpoint: Path | None = None
) -> int:
    """The exit code of `bagpipe run`; its one line, if it ended with an error, is the last of the view's notes."""
    apart = view.fault is not None and view.fault.what == "drop" and view.fault.other
    child = known_to(view.pids, GROUPS if apart else None)
    try:
        outcome = Supervisor(job, directory, view, build=build, child=child).run(checkpoint)
    except BagpipeError as error:
        view.note(str(error))
        return error.exit_code
    if outcome.error:
        view.note(outcome.error)
    return outcome.code


def enter_own_network() -> None:
    """This process, and what it starts, has a network with nothing in it but loopback from now on (Linux, root)."""
    CDLL(None, use_errno=True).unshare(CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def lose_packets(share: float) -> None:
    """From now on this share of all packets that arrive is dropped at random, in a network that holds only loopback."""
    _check_own_network()
    rule = f"-A INPUT -m statistic --mode random --probability {share} -j DROP"
    subprocess.run(["iptables", *rule.split()], check=True)


def at_port(port: int) -> list[str]:
    """Rules that drop every packet to and from this port."""
    return [f"INPUT -p tcp --{side} {port} -j DROP" for side in ("dport", "sport")]


def mark_connections(one: str, other: str, ports: Mapping[str, int]) -> None:
    """From now on a connection that one of these roles makes to the other has `MARK`, in both directions."""
    _check_own_network()
    for maker, listener in ((one, other), (other, one)):
        rule = f"-A OUTPUT -p tcp --dport {ports[listener]} -m owner --gid-owner {GROUPS[maker]}"
        subprocess.run(
            ["iptables", "-t", "mangle", *rule.split(), "-j", "CONNMARK", "--set-mark", str(MARK)], check=True
        )


def drop_packets(rules: Sequence[str], seconds: float) -> None:
    """For so long the packets of these rules are dropped, in a network that holds only loopback.

    Connections end by no reset: their ends learn nothing, and what they have sent comes through afterwards.
    """
    _check_own_network()
    for rule in rules:
        subprocess.run(["iptables", "-A", *rule.split()], check=True)
    subprocess.Popen(["sh", "-c", f"sleep {seconds}; " + "; ".join(f"iptables -D {rule}" for rule in rules)])


def _check_own_network() -> None:
    if {name for _, name in socket.if_nameindex() if not name.startswith(("tunl", "sit", "ip6"))} != {"lo"}:
        raise RuntimeError("expected a network of this process's own; packets of others would be lost")


@contextmanager
def _keys(folder: Path) -> Iterator[None]:
    """The run has keys, so that all that its roles say is encrypted."""
    CurveKeys.create(folder)
    os.environ[CURVE_DIR] = str(folder)
    try:
        yield
    finally:
        del os.environ[CURVE_DIR]


def _through_the_proxy(build: CommandBuilder, behind: Mapping[str, int], before: Mapping[str, int]) -> CommandBuilder:
    """Every role with a link listens behind the proxy, and is found before it; another one is found as it is."""

    def built(role: RoleId, attempt: Attempt) -> list[str]:
        command = list(build(role, attempt))
        name = str(role)
        if name in behind:
            command[command.index("--bind") + 1] = f"tcp://127.0.0.1:{behind[name]}"
        if role.kind != "oracle":
            command[command.index("--oracle") + 1] = f"tcp://127.0.0.1:{before['oracle']}"
            if name in before:
                command += ["--advertise", f"tcp://127.0.0.1:{before[name]}"]
        return command

    return built

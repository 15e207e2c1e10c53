"""A network of rate-limited full-duplex links on one machine: how does each role get a link of its own?

    with Links(["oracle", "server 0", "trainer 0"], gbit=1.0) as links:
        links.check()
        subprocess.Popen(links.inside("trainer 0", ["python", ...]))

Every role lives in a network namespace of its own. One veth pair is its link: one end is `eth0` in there, the
other a port of the bridge in the hub's namespace. `tc tbf` on both ends limits what the role sends and what it
receives, each by itself, as a network card and a switch's port do. Needs root, `ip` and `tc`; the kernel of a
small virtual machine may lack netem, so no delay is added.

Queues are deep (16 MB): a contender is measured by its bytes and its waits, not by its luck with lost packets.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

INTERFACE = "eth0"
PORT = 29_555
QUEUE_BYTES = 16_000_000
LEAST_BURST = 131_072
CHECK_SECONDS = 0.6
TOLERANCE = (0.85, 1.05)
"""Goodput that a check accepts, as a part of the stated rate: headers cost 4 to 5 %."""
COMMAND_SECONDS = 20.0


class LinksError(Exception):
    """The network could not be made, or is not what it should be."""


def missing_capability() -> str | None:
    """Why links cannot be made here; None: they can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if absent:
        return f"needs {' and '.join(absent)} (iproute2)"
    try:
        with Links(["a"], gbit=1.0):
            return None
    except LinksError as error:
        return str(error)


def burst_bytes(gbit: float) -> int:
    """The bucket of `tc tbf`: two milliseconds of the rate, and never less than two of the largest packets."""
    return max(LEAST_BURST, int(gbit * 1e9 / 8 * 0.002))


def address_of(number: int) -> str:
    """IPv4 address of the role with this number."""
    return f"10.77.{number // 250}.{number % 250 + 2}"


class Links:
    """The roles' namespaces while the context is open; nothing of them is left afterwards.

    Args:
        gbit: rate of every link in each direction; None: unlimited.

    Raises:
        LinksError: the kernel or its tools refused (at entry), or a check failed.
    """

    def __init__(self, roles: Sequence[str], gbit: float | None) -> None:
        self.roles, self.gbit = tuple(roles), gbit
        self._prefix = f"bp{os.getpid()}"
        self._made: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._namespace(self._hub)
            _run("ip", "-n", self._hub, "link", "add", "br0", "type", "bridge")
            _run("ip", "-n", self._hub, "link", "set", "br0", "up")
            for number in range(len(self.roles)):
                self._link(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        while self._made:
            # A namespace takes its interfaces, queues and bridge with it.
            subprocess.run(["ip", "netns", "delete", self._made.pop()], capture_output=True, check=False)

    def address(self, role: str) -> str:
        """Where a role can be reached by the others."""
        return address_of(self.roles.index(role))

    def inside(self, role: str, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on this role's link; the process id stays the same."""
        return ["ip", "netns", "exec", self._inner(self.roles.index(role)), *command]

    def counters(self) -> dict[str, tuple[int, int]]:
        """Bytes that each role has sent and received so far, frames and headers included."""
        text = _run("ip", "-n", self._hub, "-s", "-j", "link", "show")
        found = {link["ifname"]: link["stats64"] for link in json.loads(text) if "stats64" in link}
        counted = {}
        for number, role in enumerate(self.roles):
            # Seen from the hub: what it receives on a port is what the role has sent.
            stats = found[f"port{number}"]
            counted[role] = (int(stats["rx"]["bytes"]), int(stats["tx"]["bytes"]))
        return counted

    def check(self) -> list[dict[str, Any]]:
        """Send both ways at once between neighbours, over raw TCP; returns what was measured.

        Raises:
            LinksError: a direction is slower or faster than stated.
        """
        return [self._check_pair(first, second) for first, second in neighbours(self.roles)]

    # ── below ────────────────────────────────────────────────────────────────────────────────────

    @property
    def _hub(self) -> str:
        return f"{self._prefix}-hub"

    def _inner(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    def _namespace(self, name: str) -> None:
        _run("ip", "netns", "add", name)
        self._made.append(name)

    def _link(self, number: int) -> None:
        inner, port = self._inner(number), f"port{number}"
        self._namespace(inner)
        _run("ip", "-n", inner, "link", "set", "lo", "up")
        _run(
            *("ip", "-n", inner, "link", "add", INTERFACE, "type", "veth"),
            *("peer", "name", port, "netns", self._hub),
        )
        _run("ip", "-n", inner, "address", "add", f"{address_of(number)}/16", "dev", INTERFACE)
        _run("ip", "-n", self._hub, "link", "set", port, "master", "br0", "up")
        _run("ip", "-n", inner, "link", "set", INTERFACE, "up")
        if self.gbit is not None:
            self._limit(inner, INTERFACE, self.gbit)
            self._limit(self._hub, port, self.gbit)

    def _limit(self, namespace: str, interface: str, gbit: float) -> None:
        _run(
            *("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", "tbf"),
            *("rate", f"{round(gbit * 1e9)}bit", "burst", str(burst_bytes(gbit)), "limit", str(QUEUE_BYTES)),
        )

    def _check_pair(self, first: str, second: str) -> dict[str, Any]:
        size = int((self.gbit or 4.0) * 1e9 / 8 * CHECK_SECONDS)
        script = [sys.executable, "-S", "-E", str(Path(__file__).with_name("duplex.py"))]
        ends = []
        for role, how in ((first, "listen"), (second, "connect")):
            command = self.inside(role, [*script, how, self.address(first), str(PORT), str(size)])
            ends.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        try:
            spoken = [end.communicate(timeout=COMMAND_SECONDS) for end in ends]
        except subprocess.TimeoutExpired:
            raise LinksError(f"{first} and {second}: both ways at once took over {COMMAND_SECONDS:g} s") from None
        finally:
            for end in ends:
                end.kill()
                end.wait()
        if any(end.returncode for end in ends):
            raise LinksError(f"{first} and {second}: cannot talk: {' '.join(error.strip() for _, error in spoken)}")
        gbits = [size * 8 / 1e9 / float(out) for out, _ in spoken]
        judge(f"{first} and {second}", gbits, self.gbit)
        return {"between": [first, second], "gbit": [round(g, 4) for g in gbits]}


def neighbours(roles: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs in which every role takes part; an odd last one talks to the first."""
    pairs = list(zip(roles[::2], roles[1::2], strict=False))
    return [*pairs, (roles[0], roles[-1])] if len(roles) % 2 and len(roles) > 1 else pairs


def judge(who: str, measured: Sequence[float], stated: float | None) -> None:
    """Refuse links that are not what they claim to be.

    Args:
        measured: goodput of each direction while both flow, Gbit/s.

    Raises:
        LinksError: says what was expected and found.
    """
    if stated is None:
        return
    low, high = (stated * part for part in TOLERANCE)
    if not all(low <= gbit <= high for gbit in measured):
        found = " and ".join(f"{gbit:.3f}" for gbit in measured)
        raise LinksError(
            f"{who}: expected {stated:g} Gbit/s in both directions at once ({low:.3f} to {high:.3f}), found {found}; "
            "nothing is measured on such links. Is the machine busy, or too slow for this rate?"
        )


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    except OSError as error:
        raise LinksError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise LinksError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout

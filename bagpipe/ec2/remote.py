"""Runs commands and copies files on a machine, through ssh.

Only `Ssh` knows ssh: how a command reaches a machine, and under which address machines reach each other. Files are
copied the same way, as a command's input and output.
"""

import io
import shlex
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from bagpipe.config import paths
from bagpipe.ec2.machines import Machine
from bagpipe.ec2.settings import LaunchConfig
from bagpipe.errors import BagpipeError, ExitCode
from bagpipe.lowlevel.clock import SYSTEM_CLOCK, Clock

POLL_SECONDS = 0.2
COPY_SECONDS = 600.0


class RemoteError(BagpipeError):
    """A command on a machine failed or took too long."""

    exit_code = ExitCode.TRANSIENT


class Door(Protocol):
    """How a command reaches a machine; tests replace it."""

    def argv(self, machine: Machine, command: str) -> Sequence[str]:
        """A local command line that runs a shell command in the machine's home."""

    def address(self, machine: Machine) -> str:
        """Where other machines find it."""


class Ssh:
    """Reaches machines through ssh."""

    def __init__(self, config: LaunchConfig, known_hosts: Path) -> None:
        self._config, self._known_hosts = config, known_hosts

    def argv(self, machine: Machine, command: str) -> Sequence[str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "8",
            # New machines have new keys: they are accepted at the first contact, and checked from then on.
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": str(self._known_hosts),
            "LogLevel": "ERROR",
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        key = str(paths.local(self._config.key_path))
        target = f"{self._config.ssh_username}@{machine.public_ip}"
        return ["ssh", "-i", key, *flags, target, f"bash -lc {shlex.quote(command)}"]

    def address(self, machine: Machine) -> str:
        return machine.private_ip


@dataclass(slots=True)
class Running:
    """A command that was started."""

    what: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Remote:
    """Runs commands on machines and copies files to and from them."""

    def __init__(self, door: Door, logs: Path, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._door, self._logs, self._clock = door, logs, clock
        self._started: list[Running] = []

    def address(self, machine: Machine) -> str:
        return self._door.address(machine)

    def start(self, machine: Machine, command: str, log: str) -> Running:
        """Start a command; its output goes to the file `<log>.log` of the logs' folder."""
        path = self._logs / f"{log}.log"
        with path.open("ab") as file:
            process = subprocess.Popen(
                self._door.argv(machine, command), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
        running = Running(f"{log} on {machine.name}", process, path)
        self._started.append(running)
        return running

    def finish(self, running: Iterable[Running], seconds: float, what: str) -> None:
        """Wait until all have ended well.

        Raises:
            RemoteError: one failed (with the last line of its log), or the time is over.
        """
        waiting, end = list(running), self._clock.now() + seconds
        while waiting:
            for one in list(waiting):
                code = one.process.poll()
                if code:
                    raise RemoteError(f"{one.what}: exit code {code}: {_last_line(one.log)} (log: {one.log})")
                if code == 0:
                    waiting.remove(one)
            if waiting and self._clock.now() >= end:
                raise RemoteError(f"{what}: not done after {seconds:g} s; still running: {waiting[0].what}")
            if waiting:
                # Of several that run, any may fail first: so each wait is short.
                with suppress(subprocess.TimeoutExpired):
                    waiting[0].process.wait(POLL_SECONDS)

    def until_ready(self, machines: Sequence[Machine], seconds: float) -> None:
        """Wait until every machine answers.

        Raises:
            RemoteError: one does not in time.
        """
        end = self._clock.now() + seconds
        for machine in machines:
            while True:
                probe = self.start(machine, "true", f"{machine.name}-ready")
                try:
                    self.finish([probe], 30.0, "answer")
                    break
                except RemoteError as error:
                    if self._clock.now() >= end:
                        raise RemoteError(f"{machine.name} does not answer after {seconds:g} s: {error}") from None
                    self._clock.pause(POLL_SECONDS * 10)

    def put(self, machine: Machine, content: bytes, name: str) -> None:
        """Write a file in the machine's home."""
        self._piped(machine, f"cat > {shlex.quote(name)}", content)

    def fetch(self, machine: Machine, pattern: str, folder: Path) -> list[Path]:
        """Copy files here by a glob; returns them, none if there are none."""
        # A glob that matches nothing stays a word, and tar must not fail for it.
        listed = f'for f in {pattern}; do [ -f "$f" ] && printf \'%s\\0\' "$f"; done; true'
        archive = self._piped(machine, f"({listed}) | tar cf - --null -T -", b"")
        found = []
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar.getmembers():
                content: IO[bytes] | None = tar.extractfile(member)
                if content is None:
                    continue
                target = folder / Path(member.name).name
                target.write_bytes(content.read())
                found.append(target)
        return sorted(found)

    def close(self) -> None:
        """Stop every command; their machines are about to be terminated."""
        for running in self._started:
            running.stop()

    def _piped(self, machine: Machine, command: str, content: bytes) -> bytes:
        try:
            done = subprocess.run(
                self._door.argv(machine, command), input=content, capture_output=True, timeout=COPY_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise RemoteError(f"{machine.name}: copying took more than {COPY_SECONDS:g} s") from None
        if done.returncode:
            raise RemoteError(f"{machine.name}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"

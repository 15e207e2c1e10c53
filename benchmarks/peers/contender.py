"""The one interface of all contenders: which roles it needs, and how each is started."""

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from peers.setting import Setting

METRICS = "metrics.jsonl"


class Contender(Protocol):
    """A system that can be measured."""

    name: str
    label: str
    """For tables."""
    looks_ahead: bool
    """Whether it needs its whole lookahead to pass before it is in its usual state."""

    def roles(self, setting: Setting) -> Sequence[str]:
        """`trainer 0`..., `server 0`..., `oracle`: every process, in the order of their start."""
        ...

    def prepare(self, setting: Setting, cache: Path) -> None:
        """Whatever must exist before the clock starts; kept in `cache` for the next round."""
        ...

    def command(self, setting: Setting, role: str, addresses: Mapping[str, str], directory: Path) -> list[str]:
        """The command line of one role; its working files go to `directory`."""
        ...

    def step_seconds(self, setting: Setting, directory: Path) -> list[float]:
        """Seconds of every step so far, from the first on."""
        ...


def trainers_and_servers(setting: Setting, *, servers: bool) -> list[str]:
    """The usual roles."""
    names = [f"server {i}" for i in range(setting.servers)] if servers else []
    return [*names, *(f"trainer {i}" for i in range(setting.trainers))]


class Peer:
    """A contender that is a module of ours on somebody else's library: `peers.contenders.MODULE`."""

    looks_ahead = False

    def __init__(self, name: str, label: str, module: str, *, servers: bool = False, looks_ahead: bool = False) -> None:
        self.name, self.label, self.looks_ahead = name, label, looks_ahead
        self._module, self._servers = module, servers

    def roles(self, setting: Setting) -> Sequence[str]:
        return trainers_and_servers(setting, servers=self._servers)

    def prepare(self, setting: Setting, cache: Path) -> None:
        """Peers draw the stream themselves, before their first step."""

    def command(self, setting: Setting, role: str, addresses: Mapping[str, str], directory: Path) -> list[str]:
        kind, number = role.split()
        return [sys.executable, "-m", f"peers.contenders.{self._module}", str(directory), kind, number]

    def step_seconds(self, setting: Setting, directory: Path) -> list[float]:
        """From the last trainer's end of a step to the last trainer's end of the next."""
        files = [directory / f"{METRICS}.{rank}" for rank in range(setting.trainers)]
        if not all(file.exists() for file in files):
            return []
        each = [[json.loads(line)["at"] for line in whole_lines(file)] for file in files]
        return [after - before for before, after in pairwise(map(max, zip(*each, strict=False)))]


def whole_lines(file: Path) -> list[str]:
    """Lines that are complete: the last may be half written."""
    text = file.read_text()
    return text[: text.rfind("\n") + 1].splitlines()

"""Numbered points at which a process can be made to die: for sweeps that kill a run at each of them.

Code that stores, sends or replaces something calls `passed(NAME)` before it does. That is a function that does nothing
unless `$BAGPIPE_CRASH` is set when the process begins:

    FOLDER                 append the name of every point to FOLDER/<role>: this is how points are counted
    FOLDER server 0 #17    end the process of server 0 by SIGKILL at its 17th point, once: FOLDER/killed says at which
    FOLDER oracle Send #2  the same at its second point of that name

After any of these kills may stand ` then ROLE #NUMBER`: once it has happened, that role's process dies at its so manyth
point from then on; FOLDER/killed-then says at which. It may be the same role: then its successor dies.

Points are counted from the start of each process, so a process that was started again has numbers of its own.
"""

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

VARIABLE = "BAGPIPE_CRASH"
KILLED, KILLED_THEN = "killed", "killed-then"
_ROLE = r"oracle|(?:server|trainer) \d+"
_SETTING = re.compile(
    rf"(?P<folder>.+?)(?: (?P<role>{_ROLE})(?: (?P<point>[^#]+?))? #(?P<number>\d+)"
    rf"(?: then (?P<then>{_ROLE}) #(?P<then_number>\d+))?)?"
)


def _nothing(point: str) -> None:
    """Crash points are off."""


passed: Callable[[str], None] = _nothing
"""This process is about to do what the point is named after."""


def arm(role: str) -> None:
    """This process is that role; called once, before anything else of it."""
    setting = os.environ.get(VARIABLE)
    if not setting:
        return
    found = _SETTING.fullmatch(setting)
    if found is None:
        raise ValueError(
            f"${VARIABLE}: expected FOLDER or FOLDER ROLE [POINT] #NUMBER [then ROLE #NUMBER], found {setting!r}"
        )
    folder = Path(found["folder"])
    kills = []
    if found["role"] == role:
        kills.append(_killing(folder / KILLED, int(found["number"]), found["point"]))
    if found["then"] == role:
        kills.append(_killing(folder / KILLED_THEN, int(found["then_number"]), None, after=folder / KILLED))
    global passed  # noqa: PLW0603  # replaced once, so that it costs nothing where it is off
    if found["role"] is None:
        passed = _counting(folder / role)
    elif kills:
        passed = _all_of(kills)


def _all_of(kills: Sequence[Callable[[str], None]]) -> Callable[[str], None]:
    def each(point: str) -> None:
        for kill in kills:
            kill(point)

    return each


def _counting(file: Path) -> Callable[[str], None]:
    def count(point: str) -> None:
        with file.open("a", encoding="ascii") as names:
            names.write(f"{point}\n")

    return count


def _killing(mark: Path, number: int, name: str | None, after: Path | None = None) -> Callable[[str], None]:
    """Args:
    name: only points of that name count.
    after: only points count that are passed when this is there.
    """
    left = number

    def kill(point: str) -> None:
        nonlocal left
        if (name is not None and point != name) or (after is not None and not after.exists()):
            return
        left -= 1
        if left:
            return
        try:
            with mark.open("x", encoding="ascii") as file:  # Only the first process of this role dies.
                file.write(f"{point} {time.time()}\n")
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return kill

"""Numbered points at which a process can be made to die: for sweeps that kill a run at each of them.

Code that stores, sends or replaces something calls `passed(NAME)` before it does. That is a function that does nothing
unless `$BAGPIPE_CRASH` is set when the process begins:

    FOLDER                 append the name of every point to FOLDER/<role>: this is how points are counted
    FOLDER server 0 #17    end the process of server 0 by SIGKILL at its 17th point, once: FOLDER/killed says at which
    FOLDER oracle Send #2  the same at its second point of that name

Any of these kills may be followed by ` then ROLE #NUMBER`: after it, that role's process dies at the point of this
number, counted from the first kill on; FOLDER/killed-then says at which. If it is the same role, its successor dies.

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
"""Called with a point's name just before the process does what the point is named after."""


def arm(role: str) -> None:
    """Switch the crash points of this role's process on, if the environment asks for it; called once, at its start.

    Raises:
        ValueError: `$BAGPIPE_CRASH` has another form.
    """
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
    """A function that kills this process at the point of this number.

    Args:
        mark: file that is made at the kill, so that only the first process of the role dies.
        number: which of the points that count, from 1.
        name: only points of this name count.
        after: only points that are passed when this file exists count.
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

"""Numbered points at which a process can be made to die: for sweeps that kill a run at each of them.

Code that stores, sends or replaces something calls `passed(NAME)` before it does. That is a function that does nothing
unless `$BAGPIPE_CRASH` is set when the process begins:

    FOLDER                 append the name of every point to FOLDER/<role>: this is how points are counted
    FOLDER server 0 #17    end the process of server 0 by SIGKILL at its 17th point, once: FOLDER/killed says at which
    FOLDER oracle Send #2  the same at its second point of that name

Points are counted from the start of each process, so a process that was started again has numbers of its own.
"""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

VARIABLE = "BAGPIPE_CRASH"
KILLED = "killed"
_SETTING = re.compile(
    r"(?P<folder>.+?)(?: (?P<role>oracle|(?:server|trainer) \d+)(?: (?P<point>.+?))? #(?P<number>\d+))?"
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
        raise ValueError(f"${VARIABLE}: expected FOLDER or FOLDER ROLE [POINT] #NUMBER, found {setting!r}")
    folder = Path(found["folder"])
    global passed  # noqa: PLW0603  # replaced once, so that it costs nothing where it is off
    if found["role"] is None:
        passed = _counting(folder / role)
    elif found["role"] == role:
        passed = _killing(folder / KILLED, int(found["number"]), found["point"])


def _counting(file: Path) -> Callable[[str], None]:
    def count(point: str) -> None:
        with file.open("a", encoding="ascii") as names:
            names.write(f"{point}\n")

    return count


def _killing(mark: Path, number: int, name: str | None) -> Callable[[str], None]:
    left = number

    def kill(point: str) -> None:
        nonlocal left
        if name is not None and point != name:
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

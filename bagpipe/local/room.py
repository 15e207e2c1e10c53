"""Room on the disks of a run: whether an attempt that ended for want of it may be followed by another one.

What a role wrote is removed between two attempts. If a disk then has no more room than the ended attempt began with,
the next one would end at the same file, so the run ends instead; once somebody has made room, it goes on.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from bagpipe.lowlevel.atomic_files import free_bytes
from bagpipe.lowlevel.wording import space

REFUSED = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
"""How the system says that there is no room; every message about a file that cannot be written has its words."""
BARELY = 8192
"""A log on a disk with fewer bytes than this may not have taken the line that says why its role ended."""


def names_want_of_room(words: str | None) -> bool:
    """Whether this is the error of a role that found no room for a file."""
    return words is not None and any(reason in words for reason in REFUSED)


class Room:
    """The free bytes of the folders that an attempt writes to, when it began and now.

    Args:
        folders: a run directory, and where its checkpoints lie.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._at_begin: dict[Path, int] = {}

    def begin(self) -> None:
        """An attempt begins now."""
        self._at_begin = self._now()

    def lacked(self, words: str | None) -> bool:
        """Whether a role that ended with this error (None: its log has none) has ended for want of room."""
        if words is None:
            return any(free < BARELY for free in self._now().values())
        return names_want_of_room(words)

    def no_more(self) -> str:
        """Which folder's disk has least room, and how much, if that is no more than the attempt began with; else ''."""
        now = self._now()
        if not now:
            return ""
        folder = min(now, key=now.__getitem__)
        if now[folder] > self._at_begin.get(folder, now[folder]):
            return ""
        return f"{folder} has {space(now[folder])} of room left, no more than this attempt began with"

    def _now(self) -> dict[Path, int]:
        found = {folder: free_bytes(folder) for folder in self._folders}
        return {folder: free for folder, free in found.items() if free is not None}

"""Wording of messages: counts, lists of names, and names that are unknown."""

import difflib
from collections.abc import Sequence
from contextlib import suppress

LISTED = 12
"""Names that a message lists."""


def counted(number: int, noun: str) -> str:
    """`1 step`, `2,048 steps`; for nouns whose plural ends in s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def text_of(error: BaseException) -> str:
    """What an exception says; nothing where its own `__str__` fails."""
    with suppress(Exception):
        return str(error)
    return ""


def space(num_bytes: int) -> str:
    """`12 KiB`, rounded up; from ten of them on, `34,567 MiB`."""
    kibibytes = -(-num_bytes // 1024)
    return f"{kibibytes:,} KiB" if kibibytes < 10 * 1024 else f"{-(-kibibytes // 1024):,} MiB"


def listed(names: Sequence[str]) -> str:
    """`a, b, c`; of many names the first twelve, and how many more there are."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def no_column(name: str, where: str, there: Sequence[str]) -> str:
    """`'itme' is no column of log.csv; did you mean 'item'?`; where no name is near, the names that are there."""
    return f"{name!r} is no column of {where}; {_nearest(name, there, 'it has')}"


def no_table(name: str, there: Sequence[str]) -> str:
    """`'itme' is no table; did you mean 'item'?`; where no name is near, the names that are there."""
    return f"{name!r} is no table; {_nearest(name, there, 'there are')}"


def no_feature(name: str, there: Sequence[str]) -> str:
    """`'itme' is no feature; did you mean 'item'?`; where no name is near, the names that are there."""
    return f"{name!r} is no feature; {_nearest(name, there, 'there are')}"


def _nearest(name: str, there: Sequence[str], has: str) -> str:
    near = difflib.get_close_matches(name, there, 1)
    return f"did you mean {near[0]!r}?" if near else f"{has} {listed(there)}"

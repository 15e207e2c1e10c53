"""Finds a part of a prepared folder that was deleted."""

import os
import re
from collections.abc import Callable, Sequence

from bagpipe.data.files import InputFile, is_there
from bagpipe.data.remedies import prepare_again
from bagpipe.errors import DataError

_PART_NAMES = re.compile(r"part-(\d{5,})\.parquet")


def check_parts(files: Sequence[InputFile], part_name: str, goes_on: Callable[[InputFile], bool]) -> None:
    """Refuse a folder from which a part was lost: the others would be split at other examples than before.

    A part that was given by its own name and is read alone is what was asked for, and so are some parts of a folder
    that has the others too.

    Args:
        part_name: how parts are called, with a place for the number.
        goes_on: whether another part follows a folder's last one, which is full and does not say how the data ends.

    Raises:
        DataError: names the first part that is missing or empty.
    """
    found: dict[str, dict[int, InputFile]] = {}
    for file in files:
        folder, name = os.path.split(file.name)
        if part := _PART_NAMES.fullmatch(name):
            found.setdefault(folder, {})[int(part[1])] = file
    for folder, parts in found.items():
        last = max(parts)
        if len(parts) == 1 and parts[last].named:
            continue
        for number in sorted(set(range(last + 1 + goes_on(parts[last]))) - set(parts)):
            name = part_name.format(number)
            there = is_there(os.path.join(folder, name))
            if not there:
                what = "is missing" if there is None else "is empty"
                again = prepare_again(os.path.join(folder, name))
                left, remedy = f"{len(parts)} parts are", f"put it back, or {again}"
                if len(parts) == 1:
                    itself = f"name {part_name.format(last)} itself to read it alone"
                    left, remedy = "1 part is", f"put it back, {again}, or {itself}"
                raise DataError(f"{folder or '.'}: {name} {what}, so {left} not all of the data; {remedy}")

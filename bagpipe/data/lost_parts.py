"""Finds a part of a prepared folder that was deleted."""

import re
from collections.abc import Sequence
from pathlib import Path

from bagpipe.data.files import InputFile
from bagpipe.errors import DataError

_PART_NAMES = re.compile(r"part-(\d{5,})\.parquet")


def check_parts(files: Sequence[InputFile], part_name: str, *, goes_on: bool) -> None:
    """Refuse a folder from which a part was lost: the others would be split at other examples than before.

    A part that is read alone is what was asked for, and so are some parts of a folder that has the others too.

    Args:
        part_name: how parts are called, with a place for the number.
        goes_on: another part follows the last of `files`, which is full and does not say how the data ends.

    Raises:
        DataError: names the first part that is missing.
    """
    found: dict[Path, list[int]] = {}
    for file in files:
        path = Path(file.name)
        if not file.remote and (part := _PART_NAMES.fullmatch(path.name)):
            found.setdefault(path.parent, []).append(int(part[1]))
    for folder, numbers in found.items():
        if len(numbers) == 1:
            continue
        end = max(numbers) + 1
        last = goes_on and Path(files[-1].name) == folder / part_name.format(end - 1)
        for number in sorted(set(range(end + last)) - set(numbers)):
            if not (folder / part_name.format(number)).exists():
                raise DataError(
                    f"{folder}: {part_name.format(number)} is missing, so {len(numbers)} parts are not all of the "
                    "data; put it back, or prepare the data again"
                )

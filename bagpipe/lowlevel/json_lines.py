"""Reads JSON lines that a process may be writing now, or that it left unfinished, or that stand among other lines."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Record = Mapping[str, Any]


def records_in(lines: str | Iterator[str]) -> Iterator[Record]:
    """The JSON objects among the lines, in their order; other lines are passed over.

    Args:
        lines: a text, whose part after the last line break is ignored because it may still be written, or whole lines.
    """
    for line in lines[: lines.rfind("\n") + 1].split("\n") if isinstance(lines, str) else lines:
        if not line.lstrip().startswith("{"):
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found

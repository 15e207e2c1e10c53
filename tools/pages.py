"""The part of a page that a command writes, between two marks of its own."""

from collections.abc import Iterable
from pathlib import Path


def with_part(page: str, begin: str, end: str, lines: Iterable[str]) -> str:
    """The page with these lines between the marks; marks that are missing are put at its end."""
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    return "\n".join([head + begin, "", *lines, "", end]) + tail


def write_part(target: Path, begin: str, end: str, lines: Iterable[str]) -> None:
    """Replace the lines between the marks in a file, in UTF-8."""
    page = target.read_text(encoding="utf-8")
    target.write_text(with_part(page, begin, end, lines), encoding="utf-8")

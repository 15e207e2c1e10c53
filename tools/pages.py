"""The part of a page that a command writes, between two marks of its own."""

from collections.abc import Iterable


def with_part(page: str, begin: str, end: str, lines: Iterable[str]) -> str:
    """The page with these lines between the marks; marks that are missing are put at its end."""
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    return "\n".join([head + begin, "", *lines, "", end]) + tail

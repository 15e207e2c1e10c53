"""Shows the progress of a run that Python started: in a notebook's cell, as a bar on a terminal, as lines elsewhere."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from rich.console import Console

from bagpipe.local.progress import EVENTS, Pace, Record, View, describe, view_for

NOTES = 5
"""How many of a run's latest notes a cell keeps; a note tells, for instance, why a role was restarted."""


class CellView:
    """A text that is replaced as the run goes on: its latest notes, and its latest record.

    Args:
        display: shows the text; called again with a new one, it replaces what it showed.
    """

    def __init__(self, display: Callable[[str], None]) -> None:
        self._display, self._pace = display, Pace()
        self._notes: list[str] = []
        self._line = ""

    def record(self, record: Record) -> None:
        if "event" in record:
            self._line = EVENTS.get(record["event"], str(record["event"]))
        else:
            self._line = describe(record, self._pace.remaining_seconds(record))
        self._show()

    def note(self, text: str) -> None:
        self._notes = [*self._notes, text][-NOTES:]
        self._show()

    def close(self) -> None:
        pass

    def _show(self) -> None:
        self._display("\n".join(filter(None, (*self._notes, self._line))))


class NoView:
    """Shows nothing."""

    def record(self, record: Record) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def choose_view(*, progress: bool) -> View:
    """The cell of a notebook, a bar on a terminal, lines where the output is neither."""
    if not progress:
        return NoView()
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None and getattr(shell, "kernel", None) is not None:
        return CellView(_in_cell())
    return view_for(Console())


def teller(*, progress: bool) -> Callable[[str], None]:
    """Prints what was guessed about the data: above the progress, which a notebook's cell writes over."""
    return print if progress else lambda note: None


def _in_cell() -> Callable[[str], None]:
    screen: Any = import_module("IPython.display")
    shown: list[Any] = []

    def show(text: str) -> None:
        content = {"text/plain": text}
        if shown:
            screen.update_display(content, display_id=shown[0].display_id, raw=True)
        else:
            shown.append(screen.display(content, raw=True, display_id=True))

    return show

"""What is in the columns of data that nobody described: their types, numbers, times and texts, by the first rows."""

import datetime as dt
import re
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.config.columns import DenseColumn
from bagpipe.data.column_cells import MARKS, as_numbers
from bagpipe.data.column_files import TableFormat, table_pieces, table_schema
from bagpipe.data.column_values import is_list, is_text, moments_of, numbers_of, plain
from bagpipe.data.files import InputFile
from bagpipe.data.units import is_money_or_share, units_of
from bagpipe.errors import DataError

SAMPLE_ROWS = 200_000
PIECES = 50
SEPARATORS = "|;"
SECONDS = (5e8, 2.5e9)
"""Unix times between 1985 and 2049."""
SIGNS = (
    {"thousands": ","}, {"decimal": ","}, {"thousands": ".", "decimal": ","}, {"thousands": "'"}, {"thousands": " "},
    {"thousands": " ", "decimal": ","},
)  # fmt: skip
"""How numbers are written elsewhere."""
_YES = ("yes", "y", "true", "t", "click", "clicked", "buy", "bought", "purchase", "purchased", "converted", "liked")
_TIME_NAME = re.compile(
    r"(.*_)?(time|timestamp|datetime|date|ts|when|created|created_at|hour|day)(_.*)?", re.IGNORECASE
)
_DAYS = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d.%m.%Y",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d-%b-%Y",
    "%d %b %Y",
)
_HOURS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", "T%H:%M:%S")
FORMS = tuple(day + hour for day in _DAYS for hour in _HOURS)
_PACKED = {"%y%m%d": 6, "%Y%m%d": 8, "%y%m%d%H": 8, "%Y%m%d%H": 10, "%Y%m%d%H%M": 12, "%Y%m%d%H%M%S": 14}
"""Times as whole numbers of so many digits, which rise with them."""
_FEW = 1000
MOST_ODD = 0.2
"""Share of the texts of a column that are no numbers, below which it is told that the others are."""


@dataclass(slots=True)
class Column:
    """One column as the sample has it."""

    name: str
    type: str
    rows: int
    missing: int
    distinct: int
    numbers: Any = None
    """Values that are there, if all are numbers."""
    written: dict[str, Any] = field(default_factory=dict)
    """How the numbers are written, as settings of a dense column; empty: as usual."""
    units: tuple[str, ...] = ()
    """What stands beside the numbers where every text is one, but it is not clear that they are meant as numbers."""
    odd: str | None = None
    """A text that is no number where most of the column's are."""
    several: bool = False
    separator: str = ""
    usable: bool = True
    words: tuple[str, ...] = ()
    """The values, if they are two texts and none is missing."""
    time_forms: tuple[str, ...] = ()
    """Ways to read all values as times, in the signs of strptime; an empty one: a number, a date or ISO 8601."""
    sorted_tail: bool = False
    """The last tenth has one value only, and the rows before have others."""
    step: float = 0.0
    """By how much each row's number is greater than the one before it, if that is always the same."""

    @property
    def yes(self) -> str | None:
        """The one of two texts that means yes."""
        found = [word for word in self.words if word.strip().lower() in _YES and "'" not in word]
        return found[0] if len(found) == 1 else None

    @property
    def whole(self) -> bool:
        return self.numbers is not None and bool(np.all(self.numbers == np.floor(self.numbers)))

    @property
    def values(self) -> list[float]:
        """The different numbers, rising."""
        return [] if self.numbers is None else [float(v) for v in np.unique(self.numbers)]

    @property
    def named_like_time(self) -> bool:
        return _TIME_NAME.fullmatch(self.name.strip()) is not None

    @property
    def about(self) -> str:
        """For a comment."""
        gaps = f", {self.missing / self.rows:.0%} missing" if self.missing else ""
        lists = ", several values" if self.several else ""
        return f"{self.distinct:,} different values{lists}{gaps}"


def look_at(file: InputFile, kind: TableFormat) -> list[Column]:
    """The columns of the first rows of a file.

    Raises:
        DataError: two columns have one name, or no row can be read.
    """
    schema = table_schema(file, kind)
    twice = next((n for n in schema.names if schema.names.count(n) > 1), None)
    if twice is not None:
        raise DataError(f"{file.name}: column {twice} is there twice; give each column a name of its own")
    parts, rows, first_bad = [], 0, None
    for piece in islice(table_pieces(file, kind, schema.names, schema, skip_bad=True), PIECES):
        parts.append(piece.load())
        rows, first_bad = rows + parts[-1].num_rows, first_bad or piece.first_bad
        if rows >= SAMPLE_ROWS:
            break
    if not rows:
        found = f"{first_bad}; that is so of all rows that were looked at: mend the file" if first_bad else None
        raise DataError(found or f"{file.name}: no rows; expected at least one example")
    table = pa.concat_tables(parts, promote_options="permissive").slice(0, SAMPLE_ROWS)
    return [_column(name, table.column(name)) for name in table.column_names]


def _column(name: str, cells: Any) -> Column:
    values, several, separator = plain(cells), is_list(cells.type), ""
    shown, missing = str(cells.type), values.null_count
    if several:
        values = plain(values.flatten())
    elif is_text(values.type):
        separator = _separator(values)
        several = bool(separator)
    if pa.types.is_nested(values.type) or pa.types.is_null(values.type) or pa.types.is_binary(values.type):
        return Column(name, shown, len(cells), missing, 0, usable=False)
    column = Column(
        name, shown, len(cells), missing, int(pc.count_distinct(values).as_py()), several=several, separator=separator
    )
    if several:
        return column
    _add_numbers(column, values)
    if column.numbers is None and column.distinct == 2 and not missing:
        column.words = tuple(sorted(map(str, pc.unique(values).to_pylist())))
    if not column.missing and column.distinct > 1:
        column.time_forms = _time_forms(column, values)
    column.sorted_tail = _one_value_at_the_end(values)
    return column


def _add_numbers(column: Column, values: Any) -> None:
    units = _units(values)
    for written in [{}, *_ways_to_write(values, units)]:
        found, wrong = numbers_of(as_numbers(values, DenseColumn(column.name, **written)))
        there = ~np.isnan(found)
        if not wrong.any() and there.any():
            column.numbers, column.written = found[there], written
            column.missing = int((~there).sum())
            steps = np.unique(np.diff(found)) if there.all() and len(found) > 2 else np.zeros(0)
            column.step = float(steps[0]) if len(steps) == 1 and steps[0] > 0 else 0.0
            return
    column.units = units
    column.odd = _odd_one(values)


def _odd_one(values: Any) -> str | None:
    """The first text that is no number, if most are."""
    if not is_text(values.type):
        return None
    numbers, wrong = numbers_of(values)
    told = ~np.isnan(numbers)
    few = wrong.any() and np.count_nonzero(wrong) <= MOST_ODD * np.count_nonzero(told)
    return str(values[int(np.flatnonzero(wrong)[0])].as_py()) if few else None


def _units(values: Any) -> tuple[str, ...]:
    """What stands beside numbers, if all texts of a column are numbers."""
    if not is_text(values.type):
        return ()
    few = pc.unique(values).slice(0, _FEW).to_pylist()
    return tuple(units_of(text for text in few if text is not None and text.strip() not in MARKS) or ())


def _ways_to_write(values: Any, units: tuple[str, ...]) -> list[dict[str, Any]]:
    """Settings under which the texts of a column may be numbers."""
    if not is_text(values.type):
        return []
    trimmed = pc.utf8_trim_whitespace(values)
    marks = tuple(mark for mark in MARKS if pc.any(pc.equal(trimmed, mark)).as_py())
    told: dict[str, Any] = {"missing": marks} if marks else {}
    if len(units) == 1 and is_money_or_share(units[0]):
        told["unit"] = units[0]
    signs = [s for s in SIGNS if all(pc.any(pc.match_substring(values, sign)).as_py() for sign in s.values())]
    return [*([told] if told else []), *({**told, **sign} for sign in signs)]


def _separator(values: Any) -> str:
    """What cuts a good part of the cells into short values."""
    for one in SEPARATORS:
        share = pc.mean(pc.cast(pc.match_substring(values, one), pa.float64())).as_py() or 0.0
        if share > 0.05:
            return one
    return ""


def _one_value_at_the_end(values: Any) -> bool:
    tail = values.slice(len(values) * 9 // 10)
    return len(values) > 100 and len(pc.unique(tail)) == 1 < len(pc.unique(values))


def _time_forms(column: Column, values: Any) -> tuple[str, ...]:
    if column.type.startswith(("timestamp", "date")):
        return ("",)
    if column.numbers is not None:
        return ("",) if not column.written and column.whole and _numbers_are_times(column) else ()
    if not is_text(values.type):
        return ()
    if moments_of(values, "") is not None:
        return ("",)
    different = pc.unique(values)
    few = [text.strip() for text in different.slice(0, _FEW).to_pylist()]
    forms = [form for form in FORMS if all(_is_form(text, form) for text in few)]
    return tuple(form for form in forms if not moments_of(different, form).null_count)


def _numbers_are_times(column: Column) -> bool:
    low, high = float(column.numbers.min()), float(column.numbers.max())
    if any(SECONDS[0] * k <= low and high <= SECONDS[1] * k for k in (1, 1e3, 1e6, 1e9)):
        return True
    texts = [f"{value:.0f}" for value in column.values[:_FEW]]
    return column.named_like_time and any(
        all(len(text) == digits and _is_form(text, form) for text in texts) for form, digits in _PACKED.items()
    )


def _is_form(text: str, form: str) -> bool:
    try:
        dt.datetime.strptime(text, form)
    except ValueError:
        return False
    return True

"""What is in the columns of data that nobody described: their types, numbers, times and texts, by the first rows."""

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.data.column_files import TableFormat, table_pieces, table_schema
from bagpipe.data.column_values import Floats64, is_list, is_moment, is_text, moments_of, numbers_of, plain
from bagpipe.data.files import InputFile
from bagpipe.data.guesses import (
    FEW,
    Doubt,
    Lists,
    are_records,
    doubt_about_lists,
    doubt_about_numbers,
    doubt_about_times,
    gaps_in_times,
    lists_in,
    numbers_in,
    odd_one,
    sentinel_in_times,
    times_of_units,
    units_in,
)
from bagpipe.data.split import OUR_DAYS, UNITS
from bagpipe.data.written_numbers import MARKS
from bagpipe.errors import DataError

SAMPLE_ROWS = 200_000
PIECES = 50
FILES = 8
"""That are looked at, spread over all."""
_YES = (
    *("yes", "y", "true", "t", "click", "clicked", "buy", "bought", "purchase", "purchased", "converted", "liked"),
    *("ja", "wahr", "oui", "vrai", "sí", "si", "verdadero", "sim", "verdadeiro", "да"),
)
MOST_WORDS = 10
"""Different texts of a column that are kept: an answer, in as many spellings as people find."""
_TIME_NAME = re.compile(
    r"(.*_)?(time|timestamp|datetime|date|ts|when|created|created_at|hour|day)(_.*)?"
    r"|(?-i:.*[a-z](Time|Timestamp|DateTime|Date|At)(Ms)?)",
    re.IGNORECASE,
)
_IDS = re.compile(
    r"(.*_)?(id|key|hash|code|no|type|category|cat|class|zip|brand|device|region|city)(_.*)?"
    r"|(?-i:.*[a-z](Id|ID|Key|Code|No))",
    re.IGNORECASE,
)
_THINGS = re.compile(
    r"(.*_)?(item|product|sku|movie|film|song|track|artist|album|book|article|video|ad|advert|advertiser|creative|campaign|"
    r"publisher|seller|merchant|shop|store|site|domain|app|query|keyword|genre|page|doc|document|postal|imei|ip|isbn|asin)",
    re.IGNORECASE,
)
"""What is named and not counted. `items` and `item_count` count."""
GROUPS = re.compile(r"(user|member|customer|visitor|session|account)s?(_?(id|no|key|hash))?|uid", re.IGNORECASE)
MOST_SENTINELS = 0.2
"""Share of the numbers in a column of times that stand for no time, such as 0 and -1."""
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
_LOGGED = ("%d/%b/%Y:%H:%M:%S %z", "[%d/%b/%Y:%H:%M:%S %z]", "%a, %d %b %Y %H:%M:%S %z", "%a, %d %b %Y %H:%M:%S GMT")
"""As web servers and mail write them, with brackets, blanks and commas that part nothing."""
FORMS = (*(day + hour for day in _DAYS for hour in _HOURS), *_LOGGED)
_PACKED = {"%y%m%d": 6, "%Y%m%d": 8, "%y%m%d%H": 8, "%Y%m%d%H": 10, "%Y%m%d%H%M": 12, "%Y%m%d%H%M%S": 14}
"""Times as whole numbers of so many digits, which rise with them."""


@dataclass(slots=True)
class Column:
    """One column as the sample has it."""

    name: str
    type: str
    rows: int
    missing: int
    distinct: int
    """Different values; of texts with brackets different texts."""
    numbers: Any = None
    """Values that are there, if all are numbers."""
    written: dict[str, Any] = field(default_factory=dict)
    """How the numbers are written, as settings of a dense column; empty: as usual."""
    odd: str | None = None
    """A text that is no number where most of the column's are."""
    doubt: Doubt | None = None
    """What it may be meant as beside what it was taken for."""
    several: bool = False
    separator: str = ""
    brackets: bool = False
    unusable: str = ""
    """Why nothing can be learned of it as it is; empty: something can."""
    words: tuple[str, ...] = ()
    """The different texts but those for a missing value, if there are a few only; the rarest first."""
    marked: int = 0
    """Rows that hold a text for a missing value, such as NA, where there are a few different texts only."""
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
        return found[0] if len(found) == 1 and len(self.words) == 2 else None

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
    def named_like_id(self) -> bool:
        name = self.name.strip()
        return any(names.fullmatch(name) for names in (_IDS, _THINGS, GROUPS))

    @property
    def about(self) -> str:
        """For a comment."""
        gaps = f", {self.missing / self.rows:.0%} missing" if self.missing else ""
        lists = ", several values" if self.several else ""
        return f"{self.distinct:,} different {'lists' if self.brackets else 'values'}{lists}{gaps}"


def look_at(
    files: Sequence[InputFile], kind: TableFormat, header: Sequence[str] = ()
) -> tuple[list[Column], str | None]:
    """The columns of the first rows of some of the files, and the first malformed one of these rows in words.

    Args:
        files: of one kind, in their order.
        header: names of the columns of text; empty: the files tell them.

    Raises:
        DataError: two columns have one name, or no row can be read.
    """
    schema = table_schema(files[0], kind, header)
    twice = next((n for n in schema.names if schema.names.count(n) > 1), None)
    if twice is not None:
        raise DataError(f"{files[0].name}: column {twice} is there twice; give each column a name of its own")
    parts: list[pa.Table] = []
    first_bad: str | None = None
    some = [files[len(files) * place // FILES] for place in range(FILES)] if len(files) > FILES else files
    for file in some:
        found, bad = _first_rows(file, kind, schema, header, SAMPLE_ROWS // len(some))
        parts, first_bad = parts + found, first_bad or bad
    if not sum(part.num_rows for part in parts):
        told = f"{first_bad}; that is so of all rows that were looked at: mend the file" if first_bad else None
        raise DataError(told or f"{files[0].name}: no rows; expected at least one example")
    table = _together(parts)
    try:
        return [_column(name, table.column(name)) for name in table.column_names], first_bad
    except pa.ArrowException as error:
        raise DataError(f"{files[0].name}: cannot be looked at ({' '.join(str(error).split())})") from error


def _first_rows(
    file: InputFile, kind: TableFormat, schema: pa.Schema, header: Sequence[str], rows: int
) -> tuple[list[pa.Table], str | None]:
    """At least `rows` rows of a file if it has them, and its first malformed row in words."""
    parts: list[pa.Table] = []
    first_bad = None
    for piece in islice(table_pieces(file, kind, schema.names, schema, header, skip_bad=True), PIECES):
        parts.append(piece.load().slice(0, rows))
        first_bad = first_bad or piece.first_bad
        rows -= parts[-1].num_rows
        if rows <= 0:
            break
    return parts, first_bad


def _together(parts: list[pa.Table]) -> pa.Table:
    """All parts; those of a file with other types only as far as they are one table with the first."""
    for count in range(len(parts), 1, -1):
        try:
            return pa.concat_tables(parts[:count], promote_options="permissive")
        except pa.ArrowException:
            continue
    return parts[0]


def _column(name: str, cells: Any) -> Column:
    values, several, lists = plain(cells), is_list(cells.type), None
    shown, missing, rows = str(cells.type), values.null_count, len(cells)
    if several:
        values = plain(values.flatten())
    elif is_text(values.type):
        lists = None if _logged(values) else lists_in(values)
    if why := _unusable(values, lists, several=several):
        return Column(name, shown, rows, missing, 0, unusable=why[0], doubt=why[1], several=several)
    column = Column(name, shown, rows, missing, int(pc.count_distinct(values).as_py()), several=several)
    if lists is not None:
        column.several, column.separator, column.brackets = True, lists.separator, lists.brackets
        if lists.separator:
            column.distinct = int(pc.count_distinct(pc.list_flatten(pc.split_pattern(values, lists.separator))).as_py())
    if column.several:
        return column
    _add_numbers(column, values)
    if column.numbers is None and column.distinct <= MOST_WORDS:
        _add_words(column, values)
    if not column.missing and column.distinct > 1:
        column.time_forms = _time_forms(column, values)
    if column.time_forms:
        column.doubt = None
    elif (doubt := _doubt_about_times(column, values)) is not None:
        # No feature: it never comes again, and whether it is there is often what is to be predicted (`clicked_at`).
        column.doubt, column.unusable = doubt, doubt.found
    column.sorted_tail = _one_value_at_the_end(values)
    return column


def _doubt_about_times(column: Column, values: Any) -> Doubt | None:
    """What is wrong with a column that holds times in most rows."""
    if column.numbers is None or is_moment(values.type):
        return doubt_about_times(column.name, values)
    if column.missing and not column.written and _numbers_are_times(column):
        return gaps_in_times(column.name)
    return _doubtful_times(column)


def _logged(texts: Any) -> bool:
    """Whether the first texts are times as logs have them."""
    few = [text.strip() for text in texts.slice(0, FEW).drop_null().slice(0, 3).to_pylist()]
    return bool(few) and any(all(_is_form(text, form) for text in few) for form in _LOGGED)


def _add_words(column: Column, values: Any) -> None:
    counts = {one["values"]: one["counts"] for one in pc.value_counts(values.drop_null()).to_pylist()}
    marks = [text for text in counts if str(text).strip() in ("", *MARKS)]
    column.marked = sum(counts.pop(text) for text in marks)
    column.words = tuple(map(str, sorted(counts, key=lambda text: (counts[text], str(text)))))


def _unusable(values: Any, lists: Lists | None, *, several: bool) -> tuple[str, Doubt | None] | None:
    """Why values are neither numbers nor categories, and what to do about it; None: they may be either."""
    if pa.types.is_null(values.type):
        return "nothing in it", None
    if pa.types.is_nested(values.type) and not is_list(values.type):
        keys = [field.name for field in values.type] if pa.types.is_struct(values.type) else []
        write = f", {', '.join(keys[:3])}" if keys else ""
        return "records within the rows", Doubt("records within the rows", f"write a column for each key{write}")
    if pa.types.is_nested(values.type):
        return "lists of lists", Doubt("lists of lists", "write a column for each inner list")
    if any(f(values.type) for f in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)):
        return f"{values.type}", Doubt("bytes, which have no meaning here", "write text if they are names")
    if pa.types.is_interval(values.type):
        return "lengths of time in months and days", None
    if is_text(values.type) and are_records(values):
        return "records in its cells", Doubt("JSON records in one cell", "write a column for each key")
    if (several and pa.types.is_floating(values.type)) or (lists is not None and lists.brackets):
        numbers, wrong = numbers_of(values if lists is None else pa.array(lists.values[:FEW], pa.string()))
        if not wrong.any() and np.any(numbers != np.floor(numbers), where=~np.isnan(numbers)):
            found = "lists of numbers with a fraction, which are no categories"
            return found, Doubt(found, "if their places mean something, write a column for each")
    return None


def _add_numbers(column: Column, values: Any) -> None:
    text = is_text(values.type)
    units = units_in(values) if text else ()
    found = numbers_in(column.name, values, units)
    if text:
        column.odd = None if found else odd_one(values)
        column.doubt = doubt_about_numbers(column.name, values, units, found[0] if found else None)
    if found is None:
        column.doubt = column.doubt or (doubt_about_lists(column.name, values) if text else None)
        return
    column.written, numbers = found
    there = ~np.isnan(numbers)
    column.numbers, column.missing = numbers[there], int((~there).sum())
    steps = np.unique(np.diff(numbers)) if there.all() and len(numbers) > 2 else np.zeros(0)
    column.step = float(steps[0]) if len(steps) == 1 and steps[0] > 0 else 0.0


def _one_value_at_the_end(values: Any) -> bool:
    tail = values.slice(len(values) * 9 // 10)
    return len(values) > 100 and len(pc.unique(tail)) == 1 < len(pc.unique(values))


def _time_forms(column: Column, values: Any) -> tuple[str, ...]:
    if column.type.startswith(("timestamp", "date")):
        return ("",)
    if column.numbers is not None:
        return ("",) if not column.written and _numbers_are_times(column) else ()
    if not is_text(values.type):
        return ()
    different = pc.unique(values)
    if not any(moments_of(some, "").null_count for some in (different.slice(0, 1), different)):
        return ("",)
    few = [text.strip() for text in different.slice(0, FEW).to_pylist()]
    forms = [form for form in FORMS if all(_is_form(text, form) for text in few)]
    return tuple(form for form in forms if not moments_of(different, form).null_count)


def _numbers_are_times(column: Column) -> bool:
    if column.named_like_id and not column.named_like_time:
        return False
    if any(there.all() for there in _in_units(column.numbers).values()):
        return column.whole or column.named_like_time
    if not column.whole:
        return False
    texts = [f"{value:.0f}" for value in column.values[:FEW]]
    return column.named_like_time and any(
        all(len(text) == digits and _is_form(text, form) for text in texts) for form, digits in _PACKED.items()
    )


def _in_units(numbers: Floats64) -> dict[str, Any]:
    """Which of the numbers are Unix times of our days, by unit."""
    return {unit: (numbers >= OUR_DAYS[0] * by) & (numbers <= OUR_DAYS[1] * by) for unit, by in UNITS.items()}


def _doubtful_times(column: Column) -> Doubt | None:
    """Numbers that are Unix times in several units, or with a number for no time among them; None: they are others."""
    if column.numbers is None or column.written or not column.named_like_time:
        return None
    found = _in_units(column.numbers)
    units = [unit for unit, there in found.items() if there.any()]
    none = ~np.logical_or.reduce(list(found.values()))
    if not units or none.mean() > MOST_SENTINELS:
        return None
    if len(units) > 1:
        return times_of_units(column.name, units)
    odd = float(column.numbers[int(np.argmax(none))])
    return sentinel_in_times(column.name, f"{odd:.15g}")


def _is_form(text: str, form: str) -> bool:
    try:
        dt.datetime.strptime(text, form)
    except ValueError:
        return False
    return True

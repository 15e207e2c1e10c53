"""What may this data be? A job for it, with a comment for every guess: what `bagpipe init` writes.

A sample of the first rows decides. Names help where values leave a choice; nothing here is used by training, and
every guess stands in the job where it can be changed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.config.paths import typed
from bagpipe.data.column_files import TableFormat, table_pieces, table_schema
from bagpipe.data.column_values import is_list, numbers_of, plain
from bagpipe.data.file_kinds import choose_files
from bagpipe.data.files import InputFile
from bagpipe.errors import ConfigError, DataError
from bagpipe.lowlevel.strict_json import encode

SAMPLE_ROWS = 200_000
PIECES = 50
_LABELS = ("label", "target", "y", "click", "clicked", "is_click", "is_clicked", "conversion", "converted", "purchase",
           "purchased", "bought", "liked", "rating", "stars", "score")  # fmt: skip
_YES = ("yes", "y", "true", "t", "click", "clicked", "buy", "bought", "purchase", "purchased", "converted", "liked")
_TIMES = re.compile(r"(.*_)?(time|timestamp|datetime|date|ts|when|created|created_at|hour)(_.*)?", re.IGNORECASE)
_GROUPS = re.compile(r"(user|member|customer|visitor|session|account)s?(_?(id|no|key|hash))?|uid", re.IGNORECASE)
_IDS = re.compile(
    r"(.*_)?(id|key|hash|code|no|type|category|cat|class|zip|brand|device|region|city)(_.*)?", re.IGNORECASE
)
SEPARATORS = "|;"
SECONDS = (5e8, 2.5e9)
"""Unix times between 1985 and 2049."""


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
    several: bool = False
    separator: str = ""
    usable: bool = True
    words: tuple[str, ...] = ()
    """The values, if they are two texts and none is missing."""

    @property
    def yes(self) -> str | None:
        """The one of two texts that means yes."""
        found = [word for word in self.words if word.strip().lower() in _YES and "'" not in word]
        return found[0] if len(found) == 1 else None

    @property
    def whole(self) -> bool:
        return self.numbers is not None and bool(np.all(self.numbers == np.floor(self.numbers)))

    @property
    def about(self) -> str:
        """For a comment."""
        gaps = f", {self.missing / self.rows:.0%} missing" if self.missing else ""
        lists = ", several values" if self.several else ""
        return f"{self.distinct:,} different values{lists}{gaps}"


@dataclass(slots=True)
class Suggestion:
    """A job, and what to tell whoever asked for it."""

    text: str
    notes: list[str] = field(default_factory=list)


def suggest_job(path: str, *, label: str | None = None, name: str = "job") -> Suggestion:
    """Look at the data and write a job for it.

    Args:
        label: the column to predict; None: guessed.

    Raises:
        ConfigError: no column looks like a label, or `label` is none.
        DataError: the data cannot be read.
    """
    chosen = choose_files(path, known=label is None)
    if chosen.kind.known:
        found = chosen.kind.format
        notes = [f"{found}: one of the formats that need no description"]
        return Suggestion(_job(name, chosen.path, found, []), [*notes, *chosen.notes])
    columns = look_at(chosen.files[0], cast("TableFormat", chosen.kind.format))
    suggestion = _described(name, path, chosen.path, columns, label)
    suggestion.notes += chosen.notes
    return suggestion


def look_at(file: InputFile, kind: TableFormat) -> list[Column]:
    """The columns of the first rows of a file."""
    schema = table_schema(file, kind)
    twice = next((n for n in schema.names if schema.names.count(n) > 1), None)
    if twice is not None:
        raise ConfigError(f"{file.name}: column {twice} is there twice; give each column a name of its own")
    parts, rows = [], 0
    for piece in islice(table_pieces(file, kind, schema.names, schema, skip_bad=True), PIECES):
        parts.append(piece.load())
        rows += parts[-1].num_rows
        if rows >= SAMPLE_ROWS:
            break
    if not rows:
        raise DataError(f"{file.name}: no rows; expected at least one example")
    table = pa.concat_tables(parts, promote_options="permissive").slice(0, SAMPLE_ROWS)
    return [_column(name, table.column(name)) for name in table.column_names]


def _column(name: str, cells: Any) -> Column:
    values, several, separator = plain(cells), is_list(cells.type), ""
    shown, missing = str(cells.type), values.null_count
    if several:
        values = plain(values.flatten())
    elif pa.types.is_string(values.type):
        separator = _separator(values)
        several = bool(separator)
    if pa.types.is_nested(values.type) or pa.types.is_null(values.type) or pa.types.is_binary(values.type):
        return Column(name, shown, len(cells), missing, 0, usable=False)
    distinct = int(pc.count_distinct(values).as_py())
    numbers = None
    if not several:
        found, wrong = numbers_of(values)
        if not wrong.any() and len(values) > missing:
            numbers = found[~np.isnan(found)]
    two = numbers is None and not several and distinct == 2 and not missing
    words = tuple(sorted(map(str, pc.unique(values).to_pylist()))) if two else ()
    return Column(name, shown, len(cells), missing, distinct, numbers, several, separator, words=words)


def _separator(values: Any) -> str:
    """What cuts a good part of the cells into short values."""
    for one in SEPARATORS:
        share = pc.mean(pc.cast(pc.match_substring(values, one), pa.float64())).as_py() or 0.0
        if share > 0.05:
            return one
    return ""


# ── guesses ───────────────────────────────────────────────────────────────────────────────────────


def _described(
    name: str, path: str, chosen: str | list[str], columns: Sequence[Column], label: str | None
) -> Suggestion:
    notes: list[str] = []
    target = _label(columns, label, path)
    time = next((c for c in columns if c is not target and _is_time(c)), None)
    group = next((c for c in columns if c is not target and not c.several and _GROUPS.fullmatch(c.name)), None)
    dense: list[str] = []
    sparse: list[str] = []
    ignored: list[str] = []
    for column in columns:
        if column is target or column is time:
            continue
        kind, why = _use(column)
        if kind == "dense":
            dense.append(_dense_line(column))
        elif kind == "sparse":
            sparse.append(_sparse_line(column))
        else:
            ignored.append(f"        - {_quoted(column.name)}  # {why}")
    if not sparse:
        raise ConfigError(f"{path}: no column looks like a category; describe the columns yourself (docs/data.md)")
    lines = ["    columns:", "      labels:", _label_line(target, notes), *(["      dense:", *dense] if dense else [])]
    lines += ["      sparse:", *sparse]
    if time is not None:
        lines.append(f"      time: {_quoted(time.name)}")
    if group is not None:
        lines.append(f"      group: {_quoted(group.name)}  # splitBy: group keeps each of them on one side")
    if ignored:
        lines += ["      ignore:", *ignored]
        notes.append(f"ignored: {len(ignored)} columns, see the comments")
    split = "time" if time is not None else "order"
    head = [
        "    testFraction: 0.1",
        f"    splitBy: {split}"
        + ("  # the latest tenth for tests" if time else "  # the last tenth of the rows for tests"),
        "    encoding: vocabulary  # hash: no pass over the data first, and unknown values share rows",
    ]
    if time is None:
        notes.append("no column of times: the last rows are for tests; sort them by time, or set splitBy: group")
    return Suggestion(_job(name, chosen, None, [*head, *lines]), notes)


def _label(columns: Sequence[Column], asked: str | None, path: str) -> Column:
    by_name = {c.name: c for c in columns}
    if asked is not None:
        if asked not in by_name:
            raise ConfigError(f"--label {asked}: no column of {path}; it has {', '.join(list(by_name)[:12])}")
        return by_name[asked]
    candidates = [c for c in columns if c.numbers is not None and not c.missing and 1 < c.distinct <= 11 and c.whole]
    for name in _LABELS:
        for column in [*candidates, *(c for c in columns if c.yes is not None)]:
            if column.name.lower() == name:
                return column
    two = [c for c in candidates if set(np.unique(c.numbers).tolist()) == {0.0, 1.0}]
    rated = [c for c in candidates if c.numbers.min() >= 0 and 4 <= c.numbers.max() <= 10 and c.distinct >= 4]
    found = two or rated
    if not found:
        raise ConfigError(
            f"{path}: no column looks like a label (0 and 1, or ratings); name it: "
            f"bagpipe init {typed(path)} --label COLUMN "
            f"({', '.join(list(by_name)[:12])})"
        )
    return found[0]


def _is_time(column: Column) -> bool:
    if column.several or not column.usable or column.missing or column.distinct < 2:
        return False
    if column.numbers is not None:
        low, high = float(column.numbers.min()), float(column.numbers.max())
        unix = any(SECONDS[0] * k <= low and high <= SECONDS[1] * k for k in (1, 1e3, 1e6, 1e9))
        return unix and column.whole
    if not (_TIMES.fullmatch(column.name) or column.type.startswith(("timestamp", "date"))):
        return False
    return column.type.startswith(("timestamp", "date"))


def _use(column: Column) -> tuple[str, str]:
    """What a column is good for, and why."""
    if not column.usable:
        return "ignore", f"{column.type}, or nothing in it"
    if column.name.lower() in _LABELS:
        return "ignore", "looks like another label, which is not known when a prediction is made"
    if column.missing == column.rows:
        return "ignore", "always missing"
    if column.distinct <= 1 and not column.missing:
        return "ignore", "always the same"
    if column.several:
        return "sparse", ""
    named = _IDS.fullmatch(column.name) is not None
    if column.numbers is not None and not column.whole:
        return "dense", ""
    if column.distinct > 0.95 * (column.rows - column.missing) and column.rows > 100 and not named:
        return ("dense", "") if column.numbers is not None else ("ignore", "nearly every row has a value of its own")
    if column.distinct == column.rows > 100:
        return "ignore", "every row has a value of its own"
    if column.numbers is None or named or column.type not in ("string", "large_string"):
        return ("sparse", "") if column.numbers is None or named or column.distinct > 1000 else _small(column)
    return _small(column)


def _small(column: Column) -> tuple[str, str]:
    """Whole numbers without a telling name: spread far apart they count or measure something."""
    spread = float(column.numbers.max() - column.numbers.min()) if len(column.numbers) else 0.0
    skewed = spread > 0 and float(np.median(column.numbers) - column.numbers.min()) < 0.02 * spread
    return ("dense", "") if skewed and column.distinct > 50 and column.distinct < 0.5 * spread else ("sparse", "")


# ── lines of the job ──────────────────────────────────────────────────────────────────────────────


def _quoted(text: str | list[str]) -> str:
    """JSON is YAML, and quotes any name."""
    return encode(text)


def _label_line(column: Column, notes: list[str]) -> str:
    values = np.unique(column.numbers).tolist() if column.numbers is not None else []
    if values == [0.0, 1.0]:
        share = float(column.numbers.mean())
        return f"        - {{name: {_quoted(column.name)}}}  # 0 or 1, {share:.1%} are 1"
    if column.yes is not None:
        rule = f"{column.name} == '{column.yes}'"
        no = next(word for word in column.words if word != column.yes)
        return f"        - {{name: {_quoted(column.name)}, rule: {_quoted(rule)}}}  # 0: {_quoted(no)}"
    if column.numbers is None or len(values) < 2:
        rule = f"{column.name} == 'yes'"
        example = f"{{name: {_quoted(column.name)}, rule: {_quoted(rule)}}}"
        raise ConfigError(
            f"column {column.name}: expected numbers for a label, found {column.about}; write the job by hand, "
            f"with a rule (docs/data.md), for instance {example}"
        )
    least = next((v for v in values[1:] if float(np.mean(column.numbers >= v)) <= 0.6), values[-1])
    share = float(np.mean(column.numbers >= least))
    notes.append(f"label: {column.name} >= {least:g}, which is a guess; {share:.0%} of the rows")
    rule = f"{column.name} >= {least:g}"
    about = f"{share:.0%} are 1; values {values[0]:g} to {values[-1]:g}"
    return f"        - {{name: {_quoted('high_' + column.name)}, rule: {_quoted(rule)}}}  # {about}"


def _dense_line(column: Column) -> str:
    settings = [f"name: {_quoted(column.name)}"]
    low, high = float(column.numbers.min()), float(column.numbers.max())
    if low >= 0 and high > 50 * max(float(np.median(column.numbers)), 1e-9):
        settings.append("log1p: true")
    settings.append("standardise: true")
    gaps = f", {column.missing / column.rows:.0%} missing" if column.missing else ""
    return f"        - {{{', '.join(settings)}}}  # {low:g} to {high:g}{gaps}"


def _sparse_line(column: Column) -> str:
    settings = [f"name: {_quoted(column.name)}"]
    if column.separator:
        settings.append(f"separator: {_quoted(column.separator)}")
    if column.several:
        settings.append("maxLength: 50")
    return f"        - {{{', '.join(settings)}}}  # {column.about}"


def _job(name: str, path: str | list[str], known: str | None, data: Sequence[str]) -> str:
    lines = [
        "# Written by `bagpipe init`; every line may be changed. What they mean: docs/settings.md, docs/data.md.",
        "apiVersion: bagpipe.dev/v1alpha1",
        "kind: BagpipeJob",
        f"metadata: {{name: {name}}}",
        "spec:",
        "  model: {name: dlrm, bottomMlp: [64], overMlp: [256]}",
        "  data:",
        f"    path: {_quoted(path)}",
    ]
    if known is not None:
        lines += [f"    format: {known}", "    testFraction: 0.1"]
        if known in ("criteo-tsv", "avazu-csv"):
            lines += ["    encoding: vocabulary", "    minCount: 3"]
        if known == "criteo-tsv":
            lines.append("    numericBins: log-squared")
    lines += data
    lines += [
        "  embedding:",
        "    dim: 8  # of every table; other widths: embedding.tables",
        "    initScale: 0.001",
        "    optimizer: {name: adagrad, lr: 0.02, eps: 0.003}",
        "  optimizer: {name: adam, lr: 0.001}",
        "  batchSize: 128",
        "  epochs: 1",
        "  seed: 1",
        "  trainers: {replicas: 1, device: cpu}",
    ]
    return "\n".join(lines) + "\n"

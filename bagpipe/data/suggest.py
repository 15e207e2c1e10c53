"""What may this data be? A job for it, with a comment for every guess: what `bagpipe init` writes.

A sample of the first rows decides (`bagpipe.data.sample`). Names help where values leave a choice; nothing here is used
by training, and every guess stands in the job where it can be changed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from bagpipe.config.paths import typed
from bagpipe.data.column_files import TableFormat
from bagpipe.data.file_kinds import choose_files
from bagpipe.data.presets import Preset, columns_as_yaml, preset_columns
from bagpipe.data.sample import GROUPS, Column, look_at
from bagpipe.data.uses import LABELS, maybe_ids, use_of
from bagpipe.errors import ConfigError
from bagpipe.lowlevel.strict_json import encode
from bagpipe.lowlevel.wording import counted, listed, no_column

_NO_EVENT = re.compile(r".*(birth|dob|expir|valid|release|founded|signup|sign_up|registered).*", re.IGNORECASE)
"""Times that do not say when the example happened."""
_RECIPE = ["    testFraction: 0.1", "    encoding: vocabulary", "    minCount: 3"]
"""Of the built-in click logs."""
OTHERS = "look like labels too:"


@dataclass(slots=True)
class Suggestion:
    """A job, and what to tell the user about it."""

    text: str
    notes: list[str] = field(default_factory=list)
    split_notes: list[str] = field(default_factory=list)
    """Those of the notes that tell of the parts of the data: of no use to a program that says itself what they are."""


def preset_job(path: str, preset: Preset, *, name: str = "job") -> Suggestion:
    """A job for data of a built-in format, with its columns spelled out so that they can be changed."""
    criteo = preset == "criteo-tsv"
    told = [
        f"    format: {'tsv' if criteo else 'csv'}",
        *_RECIPE,
        *columns_as_yaml(preset_columns(preset, bins=criteo)),
    ]
    return Suggestion(
        _job(name, path, None, told), [f"the columns of {preset}, spelled out; `format: {preset}` means the same"]
    )


def suggest_job(path: str, *, label: str | None = None, name: str = "job", python: bool = False) -> Suggestion:
    """Look at the data and write a job for it.

    Args:
        label: the column to predict; None: guessed.
        python: a program asks, so that messages speak of the argument `label=` and not of the option `--label`.

    Raises:
        ConfigError: no column looks like a label, or `label` is none.
        DataError: the data cannot be read.
    """
    chosen = choose_files(path, known=label is None)
    if chosen.kind.known:
        found = chosen.kind.format
        notes = [f"{found}: one of the formats that need no description"]
        return Suggestion(_job(name, chosen.path, found, []), [*notes, *chosen.notes])
    columns, first_bad = look_at(chosen.files, cast("TableFormat", chosen.kind.format), chosen.header)
    target = _label(columns, label, path, python=python)
    suggestion = _described(name, path, chosen.path, columns, target, first_bad, guessed=label is None, python=python)
    if chosen.header:
        known = f"    columns:\n      header: {_quoted(list(chosen.header))}\n"
        suggestion.text = suggestion.text.replace("    columns:\n", known, 1)
    suggestion.notes += chosen.notes
    return suggestion


# ── guesses ───────────────────────────────────────────────────────────────────────────────────────


def _described(
    name: str,
    path: str,
    chosen: str | list[str],
    columns: Sequence[Column],
    target: Column,
    first_bad: str | None,
    *,
    guessed: bool,
    python: bool,
) -> Suggestion:
    notes, others = _label_notes(columns, target, guessed=guessed, python=python)
    time = _time(columns, target)
    whole = (c for c in columns if c is not target and not c.several and not c.unusable)
    group = next((c for c in whole if GROUPS.fullmatch(c.name.strip())), None)
    lines: dict[str, list[str]] = {"dense": [], "sparse": [], "ignore": []}
    ignored: list[str] = []
    for column in columns:
        if column is not target and column is not time:
            kind, why = use_of(column)
            write = {"dense": _dense_line, "sparse": _sparse_line}.get(kind)
            doubts = [*_doubts(column, kind), *maybe_ids(column, kind)]
            lines[kind] += [f"        # {doubt}" for doubt in doubts]
            lines[kind].append(write(column) if write else f"        - {_quoted(column.name)}  # {why}")
            ignored += [] if write else [f"{column.name} ({why})"]
            notes += doubts
    if not lines["sparse"]:
        raise ConfigError(f"{path}: no column looks like a category ({_found(columns)}); {_hint(columns)}")
    told = ["    columns:", "      labels:", _label_line(target, notes)]
    told += [f"        # {OTHERS} {listed(others)}; a second label is one more line here"] if others else []
    told += ["      dense:", *lines["dense"]] if lines["dense"] else []
    told += ["      sparse:", *lines["sparse"]]
    if time is not None:
        guess = "" if time.numbers is None or time.named_like_time else "its numbers may be Unix times"
        told.append(f"      time: {_quoted(time.name)}" + (f"  # {guess}" if guess else ""))
        notes += [f"time: {time.name}, which is a guess ({guess}); if they are ids, list it under sparse"] * bool(guess)
        told += [f"      timeFormat: {_quoted(time.time_forms[0])}"] if time.time_forms[0] else []
    if group is not None:
        told.append(f"      group: {_quoted(group.name)}  # splitBy: group keeps each of them on one side")
    if lines["ignore"]:
        told += ["      ignore:", *lines["ignore"]]
        # A program has no job file before it whose comments give the reasons.
        few = f"{counted(len(ignored), 'column')}, see the comments"
        notes.append(f"ignored: {listed(ignored) if python else few}")
    split_notes: list[str] = []
    head = _split_lines(target, time, group, split_notes)
    notes += split_notes
    head.append("    encoding: vocabulary  # hash: no pass over the data first, and unknown values share rows")
    head += _skipped(target, first_bad, notes)
    return Suggestion(_job(name, chosen, None, [*head, *told]), notes, split_notes)


def _skipped(target: Column, first_bad: str | None, notes: list[str]) -> list[str]:
    """The line by which rows that cannot be trained on are skipped and counted, if there are some."""
    reasons = []
    if target.missing or target.marked:
        share = f"{target.missing + target.marked:,} of {target.rows:,} rows"
        reasons.append(f"{share} have no label")
        notes.append(f"label: {share} have none and are skipped, as all rows that cannot be read (onBadLine)")
    if first_bad is not None:
        reasons.append("some rows are malformed")
        notes.append(f"{first_bad}; such rows are skipped and counted (onBadLine)")
    about = f"{' and '.join(reasons)}; all rows that cannot be read are skipped and counted"
    return [f"    onBadLine: skip  # {about}"] if reasons else []


def _found(columns: Sequence[Column]) -> str:
    return listed([column.name for column in columns])


def _doubts(column: Column, kind: str) -> list[str]:
    """What the column may be meant as beside what it was taken for, for the job and the terminal."""
    if column.doubt is None:
        return []
    if kind == "dense" or column.unusable:
        return [f"{column.name}: {column.doubt.found}; {column.doubt.then}"]
    return [f"{column.name}: {column.doubt.told('taken as categories' if kind == 'sparse' else 'ignored')}"]


def _hint(columns: Sequence[Column]) -> str:
    if len(columns) == 1:
        return "if there are several columns, separate them by a tab, a comma, `;`, `|`, `::` or spaces"
    return "describe the columns yourself (docs/data.md)"


def _split_lines(target: Column, time: Column | None, group: Column | None, notes: list[str]) -> list[str]:
    share = "    testFraction: 0.1"
    if time is not None:
        return [share, "    splitBy: time  # the latest tenth for tests"]
    if target.sorted_tail and group is not None:
        notes.append("the rows are sorted by the label: whole groups are for tests, chosen by a hash")
        return [share, "    splitBy: group  # the rows are sorted by the label"]
    if target.sorted_tail:
        notes.append("the rows are sorted by the label, so that the last tenth has one value only: shuffle the file")
    else:
        notes.append("no column of times: the last rows are for tests; sort them by time, or set splitBy: group")
    return [share, "    splitBy: order  # the last tenth of the rows for tests"]


def _label_notes(
    columns: Sequence[Column], target: Column, *, guessed: bool, python: bool
) -> tuple[list[str], list[str]]:
    """What to say of the label, and the other columns that look like one."""
    others = [c.name for c in columns if c is not target and _two_valued(c)]
    words = f"label: {target.name}"
    if guessed:
        words += f", which is a guess; {'label=' if python else '--label'} names another"
    if others:
        words += f"; {OTHERS} {listed(others)}; what is not known before the prediction belongs under labels or ignore"
    return [words], others


def _two_valued(column: Column) -> bool:
    """Whether it says yes or no of every row, in whatever two words, or has a label's name."""
    plain = column.numbers is not None and not column.missing and set(column.written) <= {"missing"}
    words = len(column.words) == 2 and not (column.several or column.missing or column.marked)
    two = column.yes is not None or words or (plain and column.values in ([0.0, 1.0], [-1.0, 1.0]))
    return two or column.name.strip().lower() in LABELS


def _label(columns: Sequence[Column], asked: str | None, path: str, *, python: bool) -> Column:
    by_name = {c.name: c for c in columns}
    if asked is not None:
        if asked not in by_name:
            raise ConfigError(f"{'label=' if python else '--label '}{no_column(asked, path, list(by_name))}")
        return by_name[asked]
    plain = [c for c in columns if c.numbers is not None and set(c.written) <= {"missing"}]
    numbers = [c for c in plain if 1 < len(c.values) <= 11 and all(2 * v == round(2 * v) for v in c.values)]
    words = [c for c in columns if c.yes is not None]
    for name in LABELS:
        for column in [*numbers, *words]:
            if column.name.strip().lower() == name:
                return column
    full = [c for c in numbers if not c.missing]
    two = [c for c in full if c.values in ([0.0, 1.0], [-1.0, 1.0])]
    rated = [c for c in full if c.values[0] >= 0 and 4 <= c.values[-1] <= 10 and len(c.values) >= 4]
    found = two or words or ([] if _odd_label(columns) else rated)
    if not found:
        option = "label=COLUMN" if python else f"bagpipe init {typed(path)} --label COLUMN"
        raise ConfigError(
            f"{path}: no column looks like a label (0 and 1, or ratings); name it: {option} ({_found(columns)})"
            + (f"; {_hint(columns)}" if len(columns) == 1 else _odd_label(columns))
        )
    return found[0]


def _odd_label(columns: Sequence[Column]) -> str:
    """Why a column that is called like a label is none."""
    for column in (c for c in columns if c.name.strip().lower() in LABELS):
        if column.odd is not None:
            return f"; most values of {column.name} are numbers, but {column.odd[:40]!r} is none: mend these rows"
        if column.distinct == 1 and not column.missing:
            return f"; {column.name} is the same in every row, which teaches nothing"
        if len(column.words) > 2:
            words = listed([repr(word) for word in column.words])
            return f"; {column.name} holds {words} where two words are expected: write 1 and 0"
    return ""


def _time(columns: Sequence[Column], target: Column) -> Column | None:
    """When the examples happened: a column named like that, before any other that has times."""
    found = [c for c in columns if c is not target and len(c.time_forms) == 1 and not _NO_EVENT.fullmatch(c.name)]
    return next((c for c in found if c.named_like_time), found[0] if found else None)


# ── lines of the job ──────────────────────────────────────────────────────────────────────────────


_QUOTED = '"\\'


def _quoted(text: str | list[str]) -> str:
    """JSON is YAML, and quotes any name; letters of any language stay what they are, so that people can read them."""
    if not isinstance(text, str):
        return f"[{', '.join(map(_quoted, text))}]"
    return f'"{"".join(sign if sign.isprintable() and sign not in _QUOTED else encode(sign)[1:-1] for sign in text)}"'


def _label_line(column: Column, notes: list[str]) -> str:
    values = column.values
    if values == [0.0, 1.0]:
        share = float(column.numbers.mean())
        return f"        - {{name: {_quoted(column.name)}}}  # 0 or 1, {share:.1%} are 1"
    if len(column.words) == 2 and not any("'" in word for word in column.words):
        yes = column.yes or column.words[0]
        no = next(word for word in column.words if word != yes)
        if column.yes is None:
            notes.append(f"label: 1 where {column.name} is {yes!r}, the rarer of two words, which is a guess")
        rule = f"{column.name} == '{yes}' else '{no}'"
        return f"        - {{name: {_quoted(column.name)}, rule: {_quoted(rule)}}}  # any other text is refused"
    if len(values) < 2:
        raise ConfigError(_no_label(column))
    if len(values) == 2:
        rule = f"{column.name} == {_number(values[1])} else {_number(values[0])}"
        about = f"{float(np.mean(column.numbers == values[1])):.1%} are 1"
        return f"        - {{name: {_quoted(column.name)}, rule: {_quoted(rule)}}}  # {about}"
    least = next((v for v in values[1:] if float(np.mean(column.numbers >= v)) <= 0.6), values[-1])
    share = float(np.mean(column.numbers >= least))
    notes.append(f"label: {column.name} >= {least:g}, which is a guess; {share:.0%} of the rows")
    rule = f"{column.name} >= {_number(least)}"
    about = f"{share:.0%} are 1; values {values[0]:g} to {values[-1]:g}"
    return f"        - {{name: {_quoted('high_' + column.name)}, rule: {_quoted(rule)}}}  # {about}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _no_label(column: Column) -> str:
    if column.numbers is not None:
        only = f"found {column.values[0]:g} only; name another as the label"
        return f"column {column.name}: expected at least two values for a label, {only}"
    rule = f"{column.name} == 'yes'"
    example = f"{{name: {_quoted(column.name)}, rule: {_quoted(rule)}}}"
    return (
        f"column {column.name}: expected numbers for a label, found {column.about}; write the job by hand, "
        f"with a rule (docs/data.md), for instance {example}"
    )


def _dense_line(column: Column) -> str:
    settings = [f"name: {_quoted(column.name)}"]
    low, high = float(column.numbers.min()), float(column.numbers.max())
    if low >= 0 and high > 50 * max(float(np.median(column.numbers)), 1e-9):
        settings.append("log1p: true")
    settings += [
        f"{name}: {_quoted(value) if isinstance(value, str) else encode(value)}"
        for name, value in column.written.items()
    ]
    settings.append("standardise: true")
    gaps = f", {column.missing / column.rows:.0%} missing" if column.missing else ""
    return f"        - {{{', '.join(settings)}}}  # {low:g} to {high:g}{gaps}"


def _sparse_line(column: Column) -> str:
    settings = [f"name: {_quoted(column.name)}"]
    if column.separator:
        settings.append(f"separator: {_quoted(column.separator)}")
    if column.brackets:
        settings.append("brackets: true")
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
        lines.append(f"    format: {known}")
        lines += _RECIPE if known in ("criteo-tsv", "avazu-csv") else _RECIPE[:1]
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

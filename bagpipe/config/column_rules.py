"""Rules that tie the columns of one's own data to each other and to the rest of the job."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from bagpipe.config.columns import ColumnsConfig, DenseColumn, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig
from bagpipe.config.given import without_effect
from bagpipe.config.losses import LABEL_KINDS, label_findings, loss_kind
from bagpipe.config.model import ModelConfig

Comparison = Literal[">=", "<=", "==", "!=", ">", "<"]
_VALUE = r"'[^']*'|\"[^\"]*\"|[^'\"\s]+"
_RULE = re.compile(
    r"\s*(?P<column>.+?)\s*(?P<operator>>=|<=|==|!=|>|<)\s*"
    rf"(?P<value>{_VALUE})(\s+else\s+(?P<other>{_VALUE}))?\s*"
)
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
UNIX_TIMES = {"unix": 1, "unix-ms": 10**3, "unix-us": 10**6, "unix-ns": 10**9}
"""Units in a second of a time that is a number, by its `timeFormat`."""
_RAW_FORMATS = ("auto", "csv", "tsv", "jsonl", "arrow", "parquet")
_NO_NAMES_OF_ZONES = (
    "%Z: names of zones are not read; write the name itself where all times have one (%H:%M:%S UTC), or times with an "
    "offset and %z"
)


@dataclass(frozen=True, slots=True)
class LabelRule:
    """`column operator value [else other]`; a text in quotes is compared as text, else a number."""

    column: str
    operator: Comparison
    value: str | int | float
    """A whole number is an int, which is exact however large it is."""
    other: str | int | float | None = None
    """The only value for which the label is 0; None: it is 0 wherever the comparison does not hold."""


def label_rule(label: LabelColumn) -> LabelRule | None:
    """The label's comparison, if it has one.

    Raises:
        ValueError: it is not one.
    """
    if not label.rule:
        return None
    match = _RULE.fullmatch(label.rule)
    if match is None:
        raise ValueError(f"expected a comparison such as rating >= 4 or event == 'buy', found {label.rule!r}")
    value, other = _value(match["value"]), None if match["other"] is None else _value(match["other"])
    if isinstance(value, str) and match["operator"] not in ("==", "!="):
        raise ValueError(f"text is compared by == or != only, found {label.rule!r}")
    if other is not None and (
        match["operator"] != "==" or isinstance(other, str) is not isinstance(value, str) or other == value
    ):
        raise ValueError(f"expected two texts or two numbers, such as answer == 'yes' else 'no', found {label.rule!r}")
    return LabelRule(match["column"], cast("Comparison", match["operator"]), value, other)


def _value(text: str) -> str | int | float:
    if text[0] in "'\"":
        return text[1:-1]
    try:
        return exact_number(text)
    except ValueError:
        raise ValueError(f"expected a number or a text in quotes, found {text!r}") from None


def exact_number(text: str) -> int | float:
    """A number as it is written: a whole one as an int, because a float holds only those below 2^53 exactly.

    Raises:
        ValueError: it is no number.
    """
    if _WHOLE.fullmatch(text):
        return int(text)
    number = float(text)
    return int(number) if abs(number) < 2**64 and number.is_integer() else number


def column_findings(data: DataConfig, model: ModelConfig) -> Iterator[tuple[str, str]]:
    """Everything that is wrong with `data.columns` and the settings that depend on it."""
    columns = data.columns
    if columns is None:
        if data.split_by != "order":
            yield "spec.data.splitBy", f"{data.split_by} needs data.columns, which say what the time and the group are"
        return
    if data.format not in _RAW_FORMATS:
        yield "spec.data.columns", f"has no effect with format {data.format}, which has columns of its own; remove it"
    if data.encoding == "ids" and any(made_of_numbers(c) for c in columns.sparse):
        yield "spec.data.encoding", "ids cannot hold for features with boundaries, bins or part; use vocabulary or hash"
    if columns.header and data.format not in ("auto", "csv", "tsv"):
        yield "spec.data.columns.header", f"has no effect with format {data.format}, which tells its columns; remove it"
    twice = [name for name, count in Counter(columns.header).items() if count > 1]
    if twice:
        yield "spec.data.columns.header", f"{twice[0]!r} is listed twice; give each column a name of its own"
    yield from _labels(columns, model)
    yield from _names(columns)
    yield from _values(columns)
    if columns.time_format and (not columns.time or "%" not in columns.time_format):
        what = "a form such as %d.%m.%Y" if columns.time else "columns.time, which it is for"
        yield "spec.data.columns.timeFormat", f"{columns.time_format!r}: expected {what}; add it, or remove timeFormat"
    elif _names_zones(columns.time_format):
        yield "spec.data.columns.timeFormat", f"{columns.time_format!r}: {_NO_NAMES_OF_ZONES}"
    for kind in ("time", "group"):
        if data.split_by == kind and not getattr(columns, kind):
            yield f"spec.data.columns.{kind}", f"missing; splitBy: {kind} needs it"


def made_of_numbers(column: SparseColumn) -> bool:
    """Whether values are computed from the cells, so that the cells themselves are no values."""
    return bool(column.boundaries) or column.bins != "none" or column.part != "none"


def _labels(columns: ColumnsConfig, model: ModelConfig) -> Iterator[tuple[str, str]]:
    if not columns.labels:
        yield "spec.data.columns.labels", "empty; name the column to predict"
    loss = loss_kind(model)
    if columns.labels:
        yield from label_findings(model, len(columns.labels))
    for index, label in enumerate(columns.labels):
        where = f"spec.data.columns.labels[{index}]"
        try:
            rule = label_rule(label)
        except ValueError as error:
            yield f"{where}.rule", str(error)
            continue
        if rule is not None and label.kind != "binary":
            yield f"{where}.kind", f"a rule gives 0 or 1, not a {label.kind}; remove the rule or the kind"
        if loss is not None and label.kind not in LABEL_KINDS[loss.figures]:
            wanted = "squared-error, or poisson for counts" if loss.figures == "clicks" else "squared-error"
            yield (
                f"{where}.kind",
                f"{label.kind} does not fit the loss {loss.name}; give a rule, or model.loss: {wanted}",
            )


def _names(columns: ColumnsConfig) -> Iterator[tuple[str, str]]:
    for what, listed in (("labels", columns.labels), ("dense", columns.dense), ("sparse", columns.sparse)):
        twice = [name for name, count in Counter(c.name for c in listed).items() if count > 1]
        if twice:
            yield f"spec.data.columns.{what}", f"{twice[0]!r} is listed twice; give each feature a name of its own"
    yield from _answers(columns)
    if not columns.sparse:
        yield "spec.data.columns.sparse", "empty; name at least one categorical column"


def _answers(columns: ColumnsConfig) -> Iterator[tuple[str, str]]:
    """Features that read a column that a label is made of."""
    targets = {name: label.name for label in columns.labels for name in _read_by(label)}
    features = [(f"dense[{i}]", d.column or d.name) for i, d in enumerate(columns.dense)]
    features += [(f"sparse[{i}]", s.column or s.name) for i, s in enumerate(columns.sparse)]
    for where, source in features:
        if source in targets:
            what = f"reads {source!r}, which the label {targets[source]!r} is made of"
            yield f"spec.data.columns.{where}", f"{what}; it is not known when a prediction is made; remove it"


def _read_by(label: LabelColumn) -> list[str]:
    """The column that a label is made of; none if its rule is not valid, which `_labels` reports."""
    try:
        rule = label_rule(label)
    except ValueError:
        return []
    return [rule.column if rule else label.name]


def _values(columns: ColumnsConfig) -> Iterator[tuple[str, str]]:
    for index, dense in enumerate(columns.dense):
        if dense.clip and (len(dense.clip) != 2 or dense.clip[0] > dense.clip[1]):
            yield f"spec.data.columns.dense[{index}].clip", "expected two numbers, the least and the greatest value"
        if dense.thousands and (dense.thousands == dense.decimal or dense.thousands in "0123456789+-eE"):
            where = f"spec.data.columns.dense[{index}].thousands"
            yield where, f"{dense.thousands!r} is a part of numbers with decimal: {dense.decimal!r}; name another sign"
        if dense.unit and (not dense.unit.strip() or set(dense.unit) & set("0123456789+-.,")):
            where = f"spec.data.columns.dense[{index}].unit"
            yield where, f"{dense.unit!r}: expected a sign or a word without the signs of numbers, such as $ or kg"
        others = ("thousands", "decimal", "unit", "negative") if dense.duration != "none" else ()
        because = f"on text that is read as duration: {dense.duration}"
        yield from without_effect(f"spec.data.columns.dense[{index}]", dense, others, because)
        yield from _counted(f"spec.data.columns.dense[{index}]", dense, columns.sparse)
    for index, sparse in enumerate(columns.sparse):
        where = f"spec.data.columns.sparse[{index}]"
        rising = sparse.boundaries
        if any(a >= b for a, b in itertools.pairwise(rising)):
            yield f"{where}.boundaries", "expected rising numbers"
        if rising and (sparse.separator or sparse.brackets or sparse.max_length):
            yield f"{where}.boundaries", "a number is one value; remove separator, brackets and maxLength"
        if sparse.separator and sparse.brackets:
            yield f"{where}.separator", "a list in brackets has commas; remove separator or brackets"
        if rising and sparse.weight:
            yield f"{where}.weight", "an interval has no weight; remove weight or boundaries"
        yield from _computed(where, sparse)
        if sparse.keep != "last" and sparse.max_length is None:
            yield f"{where}.keep", "has no effect without maxLength; set that, or remove keep"


def _counted(where: str, dense: DenseColumn, sparse: Sequence[SparseColumn]) -> Iterator[tuple[str, str]]:
    """Of a feature that is how often a value was seen, which its cells need not be numbers for."""
    if dense.count == "none":
        return
    others = ("missing", "thousands", "decimal", "unit", "negative", "duration", "fill")
    yield from without_effect(where, dense, others, f"with count: {dense.count}, which counts cells as they are")
    if dense.log1p and dense.count == "log-share":
        yield f"{where}.log1p", "has no effect with count: log-share, which is never above 0; remove it"
    source = dense.column or dense.name
    for other in sparse:
        if (other.column or other.name) == source and (other.separator or other.brackets):
            what = f"a cell of {source!r} holds several values for the sparse feature {other.name!r}"
            yield f"{where}.count", f"{what}, and only a cell of one value is counted; count another column"


def _computed(where: str, sparse: SparseColumn) -> Iterator[tuple[str, str]]:
    """Of values that are computed from one cell."""
    both = sparse.bins != "none" and sparse.part != "none"
    several = sparse.boundaries or sparse.separator or sparse.brackets or sparse.max_length or sparse.weight
    if both or (several and (sparse.bins != "none" or sparse.part != "none")):
        yield where, "bins and part each make one value of one cell; remove what does not go with it"
    if sparse.time_format and sparse.part == "none":
        yield f"{where}.timeFormat", "has no effect without part: hour or weekday; set that, or remove timeFormat"
    elif sparse.time_format and "%" not in sparse.time_format and sparse.time_format not in UNIX_TIMES:
        known = ", ".join(UNIX_TIMES)
        yield f"{where}.timeFormat", f"{sparse.time_format!r}: expected a form such as %y%m%d%H, or one of {known}"
    elif _names_zones(sparse.time_format):
        yield f"{where}.timeFormat", f"{sparse.time_format!r}: {_NO_NAMES_OF_ZONES}"


def _names_zones(form: str) -> bool:
    """Whether a form of times has %Z, which Arrow passes over: 10:00 PST would be 10:00 UTC, in silence."""
    return "%Z" in form.replace("%%", "")

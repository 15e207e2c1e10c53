"""Cells become numbers and rows as a slow reader in plain Python makes them, however they are written and typed."""

import csv
import io
import math
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bagpipe import Transform
from bagpipe.config.columns import DenseColumn, SparseColumn
from bagpipe.data.column_cells import dense_cells, sparse_cells
from bagpipe.data.column_files import table_format, table_pieces, table_schema
from bagpipe.data.column_values import Problems
from bagpipe.data.files import find_files
from bagpipe.data.transform import DenseStatistics

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────

GROUPED = {
    ",": r"[+-]?([1-9][0-9]{0,2}(,[0-9]{3})+|[1-9][0-9]?(,[0-9]{2})+,[0-9]{3})(\.[0-9]*)?",
    ".": r"[+-]?([1-9][0-9]{0,2}(\.[0-9]{3})+|[1-9][0-9]?(\.[0-9]{2})+\.[0-9]{3})(,[0-9]*)?",
}
"""Groups of three digits, or as India writes them."""
CELL = st.none() | st.sampled_from(
    ["", "0", "-1", "3.5", "3,5", "1,234", "1.234", "1,234.5", "1.234,5", "12,34", " 7 ", "NA", "-", "abc", "1e3",
     "nan", "inf", "-0", ".5", "1,23,456", "0,512", "9" * 60]
)  # fmt: skip
STATED = st.fixed_dictionaries({
    "fill": st.sampled_from([0.0, -2.5]),
    "missing": st.sampled_from([(), ("NA",), ("NA", "-")]),
    "signs": st.sampled_from([("", "."), (",", "."), (".", ","), ("", ",")]),
    "clip": st.sampled_from([(), (-1.0, 100.0)]),
    "log1p": st.booleans(),
    "known": st.sampled_from([None, (2.0, 4.0)]),
})  # fmt: skip


def slow_number(cell: str | None, stated: dict[str, Any]) -> float | None:
    """The value of one cell; None: it is no number."""
    thousands, decimal = stated["signs"]
    text = "" if cell is None or cell.strip() in stated["missing"] else cell.strip()
    if cell is None or cell.strip() in stated["missing"]:
        number = math.nan
    else:
        if thousands and re.fullmatch(GROUPED[thousands], text):
            text = text.replace(thousands, "")
        if decimal == ",":
            text = "none" if "." in text else text.replace(",", ".")
        try:
            number = float(text)
        except ValueError:
            return None
    if math.isinf(number) or abs(number) > float(np.finfo(np.float32).max):
        return None
    number = stated["fill"] if math.isnan(number) else number
    if stated["clip"]:
        number = min(max(number, stated["clip"][0]), stated["clip"][1])
    if stated["log1p"]:
        number = math.log1p(max(number, 0.0))
    if stated["known"]:
        number = (float(np.float32(number)) - stated["known"][0]) / stated["known"][1]
    return number


@quick
@given(
    cells=st.lists(CELL, min_size=1, max_size=12),
    stated=STATED,
    kind=st.sampled_from([pa.string(), pa.large_string(), pa.string_view()]),
)
def test_a_number_is_read_as_the_column_says_or_refused(
    cells: list[str | None], stated: dict[str, Any], kind: Any
) -> None:
    """Marks, signs of thousands and fractions, filling, clipping, logarithm and standardising, one cell at a time."""
    thousands, decimal = stated["signs"]
    rest = {name: stated[name] for name in ("fill", "missing", "clip", "log1p")}
    column = DenseColumn("x", thousands=thousands, decimal=decimal, **rest)
    known = DenseStatistics("x", *stated["known"]) if stated["known"] else None
    problems = Problems(np.zeros(len(cells), np.bool_))
    found = dense_cells(pa.table({"x": pa.array(cells, pa.string()).cast(kind)}), column, known, problems)
    expected = [slow_number(cell, stated) for cell in cells]
    assert problems.bad.tolist() == [value is None for value in expected]
    for value, slow in zip(found.tolist(), expected, strict=True):
        if slow is not None:
            assert value == pytest.approx(slow, rel=1e-6, abs=1e-30)


# ── one value, other types ────────────────────────────────────────────────────────────────────────

AS: dict[str, tuple[Any, Any]] = {
    "int64": (pa.int64(), int),
    "int32": (pa.int32(), int),
    "float64": (pa.float64(), float),
    "decimal": (pa.decimal128(20, 0), Decimal),
    "text": (pa.string(), str),
    "dictionary": (pa.dictionary(pa.int32(), pa.int64()), int),
}


@settings(quick, max_examples=20)
@given(values=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=8, unique=True), data=st.data())
def test_a_whole_number_is_one_id_in_every_type(values: list[int], data: Any) -> None:
    """Trained on as integers, met again as a float that looks like one, a decimal, text: the same row.

    0.5 and 1e300 are refused, truth values are 0 and 1.
    """
    frame = pa.table({"y": [i % 2 for i in range(len(values))], "id": pa.array(values, pa.int64())})
    columns = {"labels": ["y"], "sparse": ["id"]}
    transform = Transform.fit(frame, columns)
    expected = transform.encode(frame).features["id"].rows.tolist()
    assert sorted(expected) == list(range(1, len(values) + 1))
    kind, write = AS[data.draw(st.sampled_from(sorted(AS)))]
    other = pa.table({"id": pa.array([write(value) for value in values], kind)})
    assert transform.encode(other).features["id"].rows.tolist() == expected
    truth = transform.encode(pa.table({"id": pa.array([False, True])})).features["id"].rows.tolist()
    numbers = transform.encode(pa.table({"id": pa.array([0, 1])})).features["id"].rows.tolist()
    assert truth == numbers
    odd = data.draw(st.sampled_from([0.5, 1e300, -(2.0**63)]))
    with pytest.raises(Exception, match="row 1: column id: expected a whole number of 64 bits"):
        transform.encode(pa.table({"id": pa.array([odd])}))


@quick
@given(
    cells=st.lists(st.none() | st.lists(st.text("ab1 é", min_size=1, max_size=9), max_size=5), min_size=1, max_size=8),
    most=st.none() | st.integers(1, 3),
    keep=st.sampled_from(["first", "last"]),
)
def test_a_separated_cell_is_the_list_that_it_writes(
    cells: list[list[str] | None], most: int | None, keep: Any
) -> None:
    """Codes and lengths are equal; a missing cell is one missing value, an empty text an empty list."""
    column = SparseColumn("x", separator="|", max_length=most, keep=keep)
    lists = pa.table({"x": pa.array(cells, pa.list_(pa.string()))})
    text = pa.table({"x": pa.array([None if cell is None else "|".join(cell) for cell in cells], pa.string())})
    problems = Problems(np.zeros(len(cells), np.bool_))
    found = [sparse_cells(table, column, "token", problems) for table in (lists, text)]
    assert problems.first_row is None
    one, other = [
        [part.codes[at : at + size].tolist() for at, size in zip(part.begins, part.lengths, strict=True)]
        for part in found
    ]
    assert one == other
    cut = slice(None) if most is None else slice(None, most) if keep == "first" else slice(-most, None)
    each = {
        v: sparse_cells(pa.table({"x": [[v]]}), SparseColumn("x"), "token", problems).codes[0]
        for c in cells
        for v in c or ()
    }
    assert one == [[0] if cell is None else [int(each[v]) for v in cell][cut] for cell in cells]


# ── files ─────────────────────────────────────────────────────────────────────────────────────────

SIGNS = st.text(st.sampled_from(list("abc019.,;|:\t\"'\n é#-")), max_size=6)


@quick
@given(
    rows=st.lists(st.lists(SIGNS, min_size=3, max_size=3), min_size=5, max_size=12),
    separator=st.sampled_from(["\t", ",", ";", "|"]),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
)
def test_quoted_text_is_read_back_whatever_signs_it_holds(
    rows: list[list[str]], separator: str, end: str, mark: bool, tmp_path_factory: Any
) -> None:
    """Separators, quotes and line ends of any kind in quotes are text; the separator is found all the same."""
    path: Path = tmp_path_factory.mktemp("file") / "log.csv"
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["first", "second", "third"], *rows])
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.getvalue().encode())
    (file,) = find_files(str(path))
    kind = table_format(file, "auto")
    schema = table_schema(file, kind)
    assert schema.names == ["first", "second", "third"]
    table = pa.concat_tables([p.load() for p in table_pieces(file, kind, schema.names, schema, skip_bad=False)])
    assert [list(row.values()) for row in table.to_pylist()] == rows


@quick
@given(cut=st.integers(1, 7), seed=st.integers(0, 9))
def test_a_separator_of_two_signs_is_found_across_reads(cut: int, seed: int) -> None:
    """However few bytes come at once, each is replaced as if all came at once."""
    from bagpipe.data.dialect import Narrowed

    rng = random.Random(seed)
    content = "".join(rng.choice([":", "::", "a", "\n"]) for _ in range(80)).encode()
    stream, found = Narrowed(io.BytesIO(content), "::"), b""
    while part := stream.read(cut):
        found += part
    assert found == content.replace(b"::", b"\x1f")

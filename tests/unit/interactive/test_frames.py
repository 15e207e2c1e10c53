"""Frames of every kind become the same Parquet."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings

from bagpipe.errors import ConfigError, DataError
from bagpipe.interactive import frames
from bagpipe.interactive.frames import is_path, warn_of_index, write_frame

ROWS = [
    {"user": 2**62 + number, "item": f"i{number % 7}", "tags": ["a"] * (number % 3), "price": number / 3, "gap": None}
    for number in range(100)
]
for row in ROWS[40::3]:
    row["gap"] = 0.5


class Rows(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter({**row, "user": torch.tensor(row["user"]), "price": np.float64(row["price"])} for row in ROWS)


class ByNumber(torch.utils.data.Dataset[Any]):
    def __getitem__(self, number: int) -> Any:
        return ROWS[number]

    def __len__(self) -> int:
        return len(ROWS)


def as_table() -> pa.Table:
    return pa.Table.from_pylist(ROWS)


KINDS: dict[str, Callable[[], Any]] = {
    "table": as_table,
    "batch": lambda: as_table().combine_chunks().to_batches()[0],
    "reader": lambda: as_table().to_reader(),
    "dataset": lambda: pads.dataset(as_table()),
    "scanner": lambda: pads.dataset(as_table()).scanner(),
    "dicts": lambda: ROWS,
    "generator": lambda: (row for row in ROWS),
    "torch iterable": Rows,
    "torch by number": ByNumber,
    "stream": lambda: Stream(as_table()),
}


class Stream:
    """Something of another library that speaks Arrow's stream."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1 << 16, 7])
def test_every_kind_of_frame_is_written_alike(
    kind: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the rows were, the folder holds them in their order, with every value, list and gap."""
    monkeypatch.setattr(frames, "SLICE_ROWS", rows)
    written = write_frame(KINDS[kind](), tmp_path / "rows")
    assert (written.rows, set(written.names)) == (100, set(ROWS[0]))
    assert pads.dataset(written.folder).to_table().select(list(ROWS[0])).to_pylist() == ROWS
    assert {str(file.suffix) for file in written.folder.iterdir()} == {".parquet"}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.one_of(st.none(), st.integers(-(2**53), 2**53)), min_size=1),
        min_size=1, max_size=12,
    ).filter(any),
    st.integers(1, 5),
)  # fmt: skip
def test_dicts_may_lack_keys_anywhere(rows: list[dict[str, int | None]], size: int) -> None:
    """Rows of dicts, in slices of any size, are what they were; a key that is not there is missing."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "SLICE_ROWS", size)
        written = write_frame(iter(rows), Path(folder) / "rows")
        found = pads.dataset(written.folder).to_table().to_pylist()
    names = {name for row in rows for name in row}
    assert found == [{name: row.get(name) for name in found[0]} for row in rows]
    assert set(found[0]) == names


def test_memory_holds_one_slice(tmp_path: Path) -> None:
    """A generator is asked for the rows of one slice at a time: those before are on the disk."""
    alive = itertools.count()
    most = 0

    def rows() -> Iterator[dict[str, int]]:
        nonlocal most
        for number in range(200_000):
            next(alive)
            most = max(most, number)
            yield {"a": number}

    source = frames.tables_of(rows())
    first = next(source)
    assert first.num_rows == frames.SLICE_ROWS
    assert most <= frames.SLICE_ROWS
    assert write_frame(rows(), tmp_path / "rows").rows == 200_000
    assert pq.read_metadata(tmp_path / "rows" / "part-00000.parquet").num_row_groups == 4


@pytest.mark.parametrize(
    ("frame", "kind", "message"),
    [
        (5, ConfigError, "data: expected a path, a pandas or polars frame, .* found int"),
        ({"a": 1}, ConfigError, "expected a path, .* found dict"),
        ({"a": [1]}, ConfigError, "data: a dict of columns is no frame; give pandas.DataFrame"),
        ([(1, 2)], ConfigError, "data: row 0: expected a dict of one row's values, found tuple"),
        ([{"a": 1}, 5], ConfigError, "data: row 1: expected a dict"),
        (
            [{"a": 1}, {"a": "x"}],
            DataError,
            r"data: column a: its values have no common type \(.*\); make all",
        ),
        ([{"a": 2**70}], DataError, r"data: column a: its values have no common type .* or numbers of 64 bits"),
        ([], DataError, "data: no rows; expected at least one"),
        (pa.table([[1], [2]], names=["a", "a"]), DataError, "data: column a is there twice"),
        (pa.table({"a": pa.array([], pa.int64())}), DataError, "data: no rows"),
    ],
)
def test_what_has_no_rows_is_refused_by_name(frame: Any, kind: type[Exception], message: str, tmp_path: Path) -> None:
    """One line: what was expected, what was found, where."""
    with pytest.raises(kind, match=message):
        write_frame(frame, tmp_path / "rows")


def test_types_that_change_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that is numbers in one slice and text in a later one is refused: no reader could take both."""
    monkeypatch.setattr(frames, "SLICE_ROWS", 2)
    with pytest.raises(DataError, match="values of different types in different rows"):
        write_frame([{"a": 1}, {"a": 2}, {"a": "x"}], tmp_path / "rows")


def test_a_loader_is_told_from_its_dataset(tmp_path: Path) -> None:
    """A DataLoader's batches would be read as rows with lists; it is refused, and its dataset is asked for."""
    with pytest.raises(ConfigError, match="a DataLoader gives batches; give the dataset that it reads"):
        write_frame(torch.utils.data.DataLoader(ByNumber()), tmp_path / "rows")


def test_a_series_is_told_from_a_frame(tmp_path: Path) -> None:
    """One row of a pandas frame is a series of its values; how a frame of one row is made is said."""
    with pytest.raises(
        ConfigError, match=r"rows: a Series is one column, or one row; give a frame, such as frame.iloc"
    ):
        write_frame(
            pytest.importorskip("pandas").DataFrame({"user": ["a"], "item": [3]}).iloc[0], tmp_path / "rows", "rows"
        )


def test_a_column_of_several_types_is_named(tmp_path: Path) -> None:
    """Of a pandas frame, which holds anything."""
    mixed = pytest.importorskip("pandas").DataFrame({"item": [1, 2], "user": ["a", 3]})
    with pytest.raises(DataError, match=r"data: column user: its values have no common type.*; make all of its"):
        write_frame(mixed, tmp_path / "rows")


def test_paths_are_told_from_rows() -> None:
    """Strings, paths and lists of them name files; everything else is rows."""
    assert all(is_path(one) for one in ("a.csv", Path("a"), ["a", Path("b")], ("s3://x/y",)))
    assert not any(is_path(one) for one in ([], [{"a": 1}], pa.table({"a": [1]}), 5, None))


@pytest.mark.parametrize("key", [1, None, ("a", "b"), b"user"])
def test_keys_that_are_no_names_are_refused(key: Any, tmp_path: Path) -> None:
    """By row and key: their values would be looked up by another name, and all be missing."""
    rows = [{"user": 1}, {"user": 2, key: 3}]
    with pytest.raises(ConfigError, match=r"rows: row 1: expected names of columns as keys, found .* of \w+"):
        write_frame(rows, tmp_path / "rows", "rows")


def test_a_named_index_of_a_frame_to_learn_from_is_told() -> None:
    """A pandas frame's index is no column: one with a name was one, most likely; of row numbers nothing is said."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"user": ["a", "b"], "click": [0, 1]})
    with pytest.warns(UserWarning, match=r"data: the index user is no column and is left out; frame.reset_index\(\)"):
        warn_of_index(frame.set_index("user"), "data")
    for plain in (frame, frame[frame.click == 1], ROWS, as_table()):
        warn_of_index(plain, "data")  # pytest makes an error of a warning

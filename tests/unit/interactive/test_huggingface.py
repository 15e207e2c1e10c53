"""HuggingFace's data sets, by classes that bear their names and behave as those of `datasets` 5.2."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.dataset as pads
import pytest

import bagpipe
from bagpipe.errors import ConfigError
from bagpipe.interactive.frames import write_frame

ROWS: list[dict[str, Any]] = [
    {"user": 2**62 + n, "tags": ["a"] * (n % 3), "price": n / 3 if n % 4 else None, "click": n % 2} for n in range(40)
]


class Dataset:
    """Rows in an Arrow table; what `format` says decides what is seen of them."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self._table = pa.Table.from_pylist(rows)
        self.features: Any = self._table.schema
        self.format: dict[str, Any] = {"type": None, "columns": None, "output_all_columns": False}
        self._transform: Callable[[Any], Any] = dict

    def with_format(self, kind: str | None = None, columns: list[str] | None = None) -> Self:
        made = type(self)(self._table.to_pylist())
        names = self._table.column_names if columns is None else columns
        made.format = {"type": kind, "columns": names, "output_all_columns": False}
        return made

    def with_transform(self, transform: Callable[[Any], Any]) -> Self:
        made = self.with_format("custom")
        made._transform = transform
        return made

    def iter(self, batch_size: int) -> Iterator[pa.Table]:
        assert self.format["type"] == "arrow"
        for at in range(0, len(self._table), batch_size):
            yield self._table.slice(at, batch_size).select(self.format["columns"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._table.to_pylist():
            if self.format["type"] == "custom":
                made = self._transform({name: [value] for name, value in row.items()})
                yield {name: values[0] for name, values in made.items()}
            else:
                yield row


class IterableDataset:
    """Rows of a generator. Of rows without declared types, batches in Arrow have those of the first."""

    def __init__(self, rows: Sequence[dict[str, Any]], features: Any, kind: str | None = None) -> None:
        self._rows, self.features, self._kind = rows, features, kind

    def with_format(self, kind: str | None = None) -> Self:
        return type(self)(self._rows, self.features, kind)

    def iter(self, batch_size: int) -> Iterator[pa.Table]:
        assert self._kind == "arrow"
        for at in range(0, len(self._rows), batch_size):
            each = [pa.Table.from_pylist([row]) for row in self._rows[at : at + batch_size]]
            each = each if self.features is None else [one.cast(self.features) for one in each]
            yield pa.concat_tables(each)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        assert self._kind != "arrow"
        yield from self._rows


class DatasetDict(dict[str, Any]):
    pass


for each in (Dataset, IterableDataset, DatasetDict):
    each.__module__ = "datasets.stand_in"

SCHEMA = pa.Table.from_pylist(ROWS).schema


@pytest.mark.parametrize(
    "rows",
    [Dataset(ROWS), Dataset(ROWS).with_format("torch"), IterableDataset(ROWS, SCHEMA), IterableDataset(ROWS, None)],
    ids=["rows", "as tensors", "streamed", "streamed, of unknown types"],
)
def test_every_row_is_written_with_its_types(rows: Any, tmp_path: Path) -> None:
    """Also of `IterableDataset.map` and `from_generator`, whose first row may lack what later ones have."""
    written = write_frame(rows, tmp_path / "rows")
    found = pads.dataset(written.folder).to_table()
    assert found.to_pylist() == ROWS
    assert found.schema.field("price").type == pa.float64()


def test_what_a_program_sees_of_it_is_what_is_written(tmp_path: Path) -> None:
    """Columns that a format leaves out are left out, and a transform that is made at each look is made."""
    some = write_frame(Dataset(ROWS).with_format("numpy", columns=["user", "click"]), tmp_path / "some")
    assert some.names == ("user", "click")
    made = Dataset(ROWS).with_transform(lambda batch: {"twice": [2 * click for click in batch["click"]]})
    written = write_frame(made, tmp_path / "made")
    assert pads.dataset(written.folder).to_table().to_pylist() == [{"twice": 2 * row["click"]} for row in ROWS]


def test_several_parts_are_told(tmp_path: Path) -> None:
    """A DatasetDict's names would be taken for rows, or, since it is a dict, for settings."""
    parts = DatasetDict(train=Dataset(ROWS), test=Dataset(ROWS))
    run_dir = tmp_path / "run"
    for give in (lambda: write_frame(parts, tmp_path / "rows"), lambda: bagpipe.fit(data=parts, run_dir=run_dir)):
        with pytest.raises(ConfigError, match="data: a DatasetDict has several parts; give one of them: train, test"):
            give()

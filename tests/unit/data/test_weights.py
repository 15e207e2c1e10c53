"""Weights and groups of examples, weights of values in lists: from columns to batches, whatever lies between."""

import json
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bagpipe.batch import Batch
from bagpipe.config.columns import ColumnsConfig, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.prepare import prepare
from bagpipe.errors import DataError

COLUMNS = ColumnsConfig(labels=(LabelColumn("y"),), sparse=(SparseColumn("item"),), weight="w", group="user")
ROWS = 200


def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    return [
        {"y": i % 2, "item": f"i{rng.integers(20)}", "w": float(rng.integers(0, 8)) / 4, "user": f"user {i % 9}"}
        for i in range(ROWS)
    ]


def write(folder: Path, lines: list[dict[str, Any]]) -> str:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def opened(path: str, folder: Path, **more: Any) -> Dataset:
    data = DataConfig(path=path, columns=COLUMNS, **more)
    return open_dataset(data, EmbeddingConfig(), seed=3, work_dir=folder / "work")


def whole(dataset: Dataset, batch_size: int = ROWS) -> list[Batch]:
    return list(dataset.train_batches(batch_size, epochs=1))


@pytest.mark.parametrize("encoding", ["vocabulary", "hash"])
def test_every_example_keeps_its_weight_and_its_group(tmp_path: Path, encoding: str) -> None:
    """Prepared or not, in file order or shuffled: weights are the column's, and equal groups have equal numbers."""
    lines = rows()
    path = write(tmp_path, lines)
    (plain,) = whole(opened(path, tmp_path, encoding=encoding))
    assert plain.weights_B is not None and plain.groups_B is not None
    assert (plain.weights_B.dtype, plain.groups_B.dtype) == (np.float32, np.int64)
    assert plain.weights_B.tolist() == [line["w"] for line in lines]
    number = dict(zip([line["user"] for line in lines], plain.groups_B.tolist(), strict=True))
    assert len(set(number.values())) == len(number) == 9
    assert plain.groups_B.tolist() == [number[line["user"]] for line in lines]

    shuffled = opened(path, tmp_path, encoding=encoding, shuffle="always", shuffle_window=64)
    parts = whole(shuffled, batch_size=33)
    together = [
        (key, weight, group)
        for part in parts
        for key, weight, group in zip(part.sparse[0].keys_N, part.weights_B, part.groups_B, strict=True)  # type: ignore[arg-type]  # they are there
    ]
    assert sorted(together) == sorted(zip(plain.sparse[0].keys_N, plain.weights_B, plain.groups_B, strict=True))
    assert together != list(zip(plain.sparse[0].keys_N, plain.weights_B, plain.groups_B, strict=True))


@pytest.mark.parametrize("weight", [-1, None, 1e39, "much"])
def test_what_is_no_weight_is_refused_by_row_and_column(tmp_path: Path, weight: object) -> None:
    """A weight is a finite number from 0; a row without one is malformed and can be skipped."""
    lines = rows()
    lines[4]["w"] = str(weight) if weight == "much" else weight
    if weight == "much":
        lines = [line | {"w": str(line["w"])} for line in lines]
    path = write(tmp_path, lines)
    with pytest.raises(DataError, match=r"log.jsonl: row 5: column w: expected a weight, a finite number from 0"):
        opened(path, tmp_path)
    skipped = opened(path, tmp_path, on_bad_line="skip")
    (batch,) = whole(skipped)
    assert batch.num_examples == ROWS - 1 and skipped.report.bad_lines == 1


LISTS = st.one_of(st.none(), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), max_size=5))
"""Values with their weights in eighths; None: missing."""


@given(
    cells=st.lists(LISTS, min_size=2, max_size=20),
    form=st.sampled_from(["parquet", "jsonl", "csv"]),
    most=st.one_of(st.none(), st.integers(1, 4)),
    keep=st.sampled_from(["first", "last"]),
    encoding=st.sampled_from(["hash", "vocabulary"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_value_keeps_its_weight(
    tmp_path_factory: pytest.TempPathFactory,
    cells: list[list[tuple[int, int]] | None],
    form: str,
    most: int | None,
    keep: Literal["first", "last"],
    encoding: str,
) -> None:
    """As plain Python pairs them, in every format, with lists cut at either end; a missing list has weight 1."""
    folder = tmp_path_factory.mktemp("weights")
    cells = [[(0, 8)], [(1, 4)], *cells]  # two values, whatever is drawn
    wanted = [[weight / 8 for _, weight in cell] if cell is not None else [1.0] for cell in cells]
    if most is not None:
        wanted = [one[:most] if keep == "first" else one[-most:] for one in wanted]
    items = [None if cell is None else [item for item, _ in cell] for cell in cells]
    weights = [None if cell is None else [weight / 8 for _, weight in cell] for cell in cells]
    path, separator = folder / f"log.{form}", ""
    lines = [
        {"y": i % 2, "plain": i % 3, "items": a, "of": b} for i, (a, b) in enumerate(zip(items, weights, strict=True))
    ]
    if form == "csv":
        separator = "|"
        cut = [[_cell(line["items"]), _cell(line["of"])] for line in lines]
        text = [f"{line['y']},{line['plain']},{a},{b}" for line, (a, b) in zip(lines, cut, strict=True)]
        path.write_text("\n".join(["y,plain,items,of", *text]) + "\n")
    elif form == "jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        kinds = {"y": pa.int8(), "plain": pa.int8(), "items": pa.list_(pa.int64()), "of": pa.list_(pa.float64())}
        pq.write_table(pa.Table.from_pylist(lines, pa.schema(kinds.items())), path, row_group_size=7)
    weighted = SparseColumn("items", weight="of", separator=separator, max_length=most, keep=keep)
    columns = ColumnsConfig(labels=(LabelColumn("y"),), sparse=(weighted, SparseColumn("plain")))
    data = DataConfig(path=str(path), columns=columns, encoding=encoding)  # type: ignore[arg-type]  # one of two
    dataset = open_dataset(data, EmbeddingConfig(), seed=3, work_dir=folder / "work")
    (batch,) = dataset.train_batches(1000, epochs=1)
    (block,) = batch.sparse
    assert block.weights_N is not None and block.lengths_BT is not None
    assert block.lengths_BT.tolist() == [[len(one), 1] for one in wanted]
    assert block.weights_N.tolist() == [weight for one in wanted for weight in [*one, 1.0]]


def _cell(values: list[Any] | None) -> str:
    """A missing cell is empty, an empty list is an empty text."""
    return "" if values is None else "|".join(map(str, values)) or '""'


@pytest.mark.parametrize(
    ("items", "of"), [([1, 2], [1.0]), ([1], [1.0, 1.0]), ([1], None), ([1], [-1.0]), ([1, 2], [1.0, None])]
)
def test_weights_that_do_not_fit_their_values_are_refused(tmp_path: Path, items: list[int], of: object) -> None:
    """One weight for each value, a finite number from 0; else the row is named, and can be skipped."""
    good = [{"y": i % 2, "items": [i, 1], "of": [0.5, 2.0]} for i in range(9)]
    path = write(tmp_path, [*good, {"y": 1, "items": items, "of": of}])
    columns = ColumnsConfig(labels=(LabelColumn("y"),), sparse=(SparseColumn("items", weight="of"),))
    data = DataConfig(path=path, columns=columns)
    expected = r"log.jsonl: row 10: column of: expected as many numbers from 0 as items has values"
    with pytest.raises(DataError, match=expected):
        open_dataset(data, EmbeddingConfig(), seed=3, work_dir=tmp_path / "work")
    skipped = msgspec.structs.replace(data, on_bad_line="skip")
    (batch,) = open_dataset(skipped, EmbeddingConfig(), seed=3, work_dir=tmp_path / "work").train_batches(99, epochs=1)
    assert batch.num_examples == 9


def test_prepared_weights_that_were_changed_are_refused(tmp_path: Path) -> None:
    """Prepared Parquet rewritten with a weight too few, or a negative one, is refused by row and column."""
    good = [{"y": i % 2, "items": [i, 1], "of": [0.5, 2.0]} for i in range(9)]
    columns = ColumnsConfig(labels=(LabelColumn("y"),), sparse=(SparseColumn("items", weight="of"),))
    prepare(DataConfig(path=write(tmp_path, good), columns=columns), tmp_path / "out")
    part = tmp_path / "out" / "part-00000.parquet"
    table = pq.read_table(part)
    for wrong in ([0.5], [0.5, -2.0]):
        lists = table.column("weight_items").to_pylist()
        lists[4] = wrong
        changed = table.set_column(
            table.column_names.index("weight_items"), "weight_items", pa.array(lists, pa.list_(pa.float64()))
        )
        pq.write_table(changed, part)
        dataset = open_dataset(DataConfig(path=str(part)), EmbeddingConfig(), seed=3, work_dir=tmp_path / "work")
        with pytest.raises(DataError, match="row 5: column weight_items: expected 2 finite numbers from 0"):
            list(dataset.train_batches(99, epochs=1))


def test_weights_of_values_follow_them_into_any_order(tmp_path: Path) -> None:
    """Shuffled and cut into batches across windows, every row is looked up with its own weight."""
    lines = [{"y": i % 2, "items": list(range(i % 4)), "of": [k + 0.5 for k in range(i % 4)]} for i in range(100)]
    columns = ColumnsConfig(labels=(LabelColumn("y"),), sparse=(SparseColumn("items", weight="of"),))
    data = DataConfig(path=write(tmp_path, lines), columns=columns, shuffle="always", shuffle_window=30)
    dataset = open_dataset(data, EmbeddingConfig(), seed=3, work_dir=tmp_path / "work")
    blocks = [batch.sparse[0] for batch in dataset.train_batches(17, epochs=1)]
    found = {
        (int(key), float(weight))
        for block in blocks
        for key, weight in zip(block.keys_N, block.weights_N, strict=True)  # type: ignore[arg-type]  # they are there
    }
    assert found == {(1, 0.5), (2, 1.5), (3, 2.5)}

"""Weights and groups of examples: from columns of one's own to batches, whatever lies between."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bagpipe.batch import Batch
from bagpipe.config.columns import ColumnsConfig, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data.dataset import Dataset, open_dataset
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

"""Small logs written for the tests, and what a slow and obvious reader makes of them."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bagpipe.batch import Batch
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.transform import Transform, load_transform

DEFAULT = EmbeddingConfig()
MakeDataset = Callable[..., Dataset]


@pytest.fixture
def criteo_lines() -> Callable[[int], list[str]]:
    """Seeded Criteo lines with missing and negative values."""

    def make(count: int, seed: int = 1) -> list[str]:
        rng = random.Random(seed)
        lines = []
        for _ in range(count):
            integers = [
                rng.choice(["", "-1", "0", str(rng.randrange(5)), str(rng.randrange(90000))]) for _ in range(13)
            ]
            values = [rng.choice(["", f"{rng.randrange(2 + 3**t % 50):08x}"]) for t in range(26)]
            lines.append("\t".join([str(rng.randrange(2)), *integers, *values]))
        return lines

    return make


@pytest.fixture
def criteo_file(tmp_path: Path, criteo_lines: Callable[[int], list[str]]) -> Path:
    path = tmp_path / "train.txt"
    path.write_text("\n".join(criteo_lines(200)) + "\n")
    return path


@pytest.fixture
def ragged_file(tmp_path: Path) -> Path:
    """Three multi-valued features, some empty, two labels, two dense values."""
    rng = random.Random(3)
    path = tmp_path / "ragged.json"
    with path.open("w") as out:
        for _ in range(150):
            sparse = [[rng.randrange(20) for _ in range(rng.randrange(4))] for _ in range(3)]
            out.write(json.dumps({"label": [rng.random(), 1], "dense": [rng.random(), 2], "sparse": sparse}) + "\n")
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> MakeDataset:
    """Open a data set: `dataset(path, embedding=..., seed=..., **data settings)`."""

    def make(path: object = (), *, embedding: EmbeddingConfig = DEFAULT, seed: int = 5, **settings: Any) -> Dataset:
        named = tuple(map(str, path)) if isinstance(path, (list, tuple)) else str(path)
        data = DataConfig(path=named, **settings)
        return open_dataset(data, embedding, seed=seed, work_dir=tmp_path / "work")

    return make


@pytest.fixture
def same() -> Callable[[Batch, Batch], bool]:
    """Whether two batches are equal to the bit, cursors included."""

    def equal(a: Batch, b: Batch) -> bool:
        arrays = [(a.dense_BF, b.dense_BF), (a.labels_BL, b.labels_BL)]
        for x, y in zip(a.sparse, b.sparse, strict=True):
            arrays.append((x.keys_N, y.keys_N))
            assert (x.lengths_BT is None) == (y.lengths_BT is None)
            if x.lengths_BT is not None and y.lengths_BT is not None:
                arrays.append((x.lengths_BT, y.lengths_BT))
        return (a.cursor, a.end) == (b.cursor, b.end) and all(
            x.dtype == y.dtype and np.array_equal(x, y) for x, y in arrays
        )

    return equal


@pytest.fixture
def make_kept(tmp_path: Path) -> Callable[..., tuple[Transform, Dataset]]:
    """Open `train`, then `test` with the transform of `train`, as another process would."""

    def make(train: Path, test: Path, **settings: Any) -> tuple[Transform, Dataset]:
        first = open_dataset(DataConfig(path=str(train), **settings), DEFAULT, seed=5, work_dir=tmp_path / "work")
        first.transform.save(tmp_path / "transform")
        kept = load_transform(tmp_path / "transform")
        data = DataConfig(path=str(test), **settings)
        return kept, open_dataset(data, DEFAULT, seed=5, work_dir=tmp_path / "other", kept=kept)

    return make

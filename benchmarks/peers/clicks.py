"""Real examples instead of the Zipf stream: a Criteo file, hashed into the comparison's tables, again and again.

A small file comes back after a few dozen steps. A lookahead that saw it twice would keep all of it in a cache, as no
real training set allows: with real examples it is `LOOKAHEAD`, half of the 137,000 examples' steps.
"""

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data.dataset import open_dataset
from bagpipe.tables import Table

CACHE = Path(__file__).parents[2] / "runs" / "peers"
"""What all measurements share, made once."""
LOOKAHEAD = 16
BATCH = 8192


def prepare(file: Path, table_rows: tuple[int, ...]) -> str:
    """Read a Criteo TSV file into the cache; returns the name for `Setting.clicks`."""
    name = file.name.partition(".")[0]
    features = [f"C{i}" for i in range(1, len(table_rows) + 1)]
    tables = tuple(
        Table(name=feature, num_embeddings=rows, embedding_dim=1, feature_names=(feature,))
        for feature, rows in zip(features, table_rows, strict=True)
    )
    dataset = open_dataset(
        DataConfig(path=str(file), format="criteo-tsv", encoding="hash"),
        EmbeddingConfig(dim=1, tables=tables),
        seed=1,
        work_dir=CACHE / name,
    )
    batches = list(dataset.train_batches(BATCH, epochs=1))
    keys_NT = np.concatenate([b.sparse[0].keys_N.reshape(-1, len(table_rows)) for b in batches])
    offsets = np.concatenate([[0], np.cumsum(table_rows)[:-1]])
    CACHE.mkdir(parents=True, exist_ok=True)
    np.savez(
        CACHE / f"{name}.npz",
        rows_TN=np.ascontiguousarray((keys_NT - offsets).T),
        dense_NF=np.concatenate([b.dense_BF for b in batches]),
        labels_N1=np.concatenate([b.labels_BL for b in batches]),
    )
    return name


@functools.cache
def load(name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What `prepare` kept, example by example: `rows_TN` (row within its table), `dense_NF`, `labels_N1`."""
    with np.load(CACHE / f"{name}.npz") as found:
        return found["rows_TN"], found["dense_NF"], found["labels_N1"]

"""The paper's own input files, made from public logs: JSON lines, and table sizes one a line.

    kaggle-json   kaggle_criteo_weekly.txt   Criteo: ln(1 + x) of 13 integers, 26 ids; Avazu: no dense values
    fgcnn-json    parsed_train.txt           Criteo: 39 ids, the integers' bins first; no dense values
    caser-json    parsed_caser.txt           MovieLens: [[user], [items]], negatives as `dense`, targets as `label`

Ids are rows counted from 0 by descending frequency (`bagpipe.data.vocabulary`). Beside the file lies
`emb_table_info.txt`; with `parts` the examples are cut into part_0.txt, part_1.txt, ... instead of one file.
"""

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from bagpipe.batch import Batch
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.files import find_files
from bagpipe.data.output import check_output, replacing
from bagpipe.data.ratings import read_ratings, windows
from bagpipe.errors import ConfigError
from bagpipe.tables import TableLayout

PaperFormat = Literal["kaggle-json", "fgcnn-json", "caser-json"]
FILE_NAMES: dict[PaperFormat, str] = {
    "kaggle-json": "kaggle_criteo_weekly.txt",
    "fgcnn-json": "parsed_train.txt",
    "caser-json": "parsed_caser.txt",
}
SIZES_FILE = "emb_table_info.txt"
_BLOCK = 1 << 15


@dataclass(frozen=True, slots=True)
class Sequences:
    """How ratings become examples; the defaults are Caser's own."""

    sequence: int = 10
    targets: int = 3
    negatives: int = 3


@dataclass(frozen=True, slots=True)
class Written:
    """What was written where."""

    folder: Path
    examples: int
    table_sizes: tuple[int, ...]


def write_paper_format(
    data: DataConfig,
    kind: PaperFormat,
    out: Path,
    *,
    seed: int = 0,
    parts: int | None = None,
    sequences: Sequences = Sequences(),  # frozen
    overwrite: bool = False,
) -> Written:
    """Write `data` to the folder `out` in one of the paper's formats.

    Raises:
        ConfigError: `out` exists, or the data has no such form.
        DataError: the data cannot be read.
        StorageError: the output cannot be written; nothing half-written is left.
    """
    sources = [] if data.format == "synthetic" else [f.name for f in find_files(data.path)]
    check_output(out, sources, overwrite=overwrite)
    with (
        replacing(out, overwrite=overwrite, mark=True) as folder,
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{out.name}.") as work,
    ):
        if kind == "caser-json":
            lines, sizes = _caser(data, sequences, seed)
        else:
            lines, sizes = _click_log(data, kind, seed, Path(work))
        count = _write(folder, FILE_NAMES[kind], lines, parts)
        (folder / SIZES_FILE).write_text("".join(f"{size}\n" for size in sizes), encoding="utf-8")
    return Written(out, count, sizes)


def _click_log(data: DataConfig, kind: PaperFormat, seed: int, work: Path) -> tuple[Iterator[bytes], tuple[int, ...]]:
    """Criteo and Avazu: ids by vocabulary."""
    binned = kind == "fgcnn-json"
    data = msgspec.structs.replace(
        data,
        encoding="ids" if data.format in ("synthetic", "criteo-json") else "vocabulary",
        numeric_bins="log-squared" if binned else "none",
        test_fraction=0.0,
        shuffle="never",
        drop_last=False,
    )
    dataset = open_dataset(data, EmbeddingConfig(dim=1), seed=seed, work_dir=work)
    sizes = tuple(t.num_embeddings for t in dataset.layout.tables)
    return _records(dataset, dense=not binned), sizes


def _records(dataset: Dataset, *, dense: bool) -> Iterator[bytes]:
    for batch in dataset.train_batches(_BLOCK, epochs=1):
        labels = batch.labels_BL[:, 0].tolist()
        values = batch.dense_BF.tolist() if dense else itertools.repeat([])
        for label, numbers, ids in zip(labels, values, _ids(batch, dataset.layout), strict=False):  # one is endless
            yield msgspec.json.encode({"label": label, "dense": numbers, "sparse": ids})


def _ids(batch: Batch, layout: TableLayout) -> list[list[int]]:
    """Row numbers within each table, example by example."""
    group, block = layout.groups[0], batch.sparse[0]
    if block.lengths_BT is not None:
        raise ConfigError("features with several lookups have no form in kaggle-json; use Parquet")
    ids: list[list[int]] = (block.keys_N.reshape(-1, len(group.offsets)) - group.offsets).tolist()
    return ids


def _caser(data: DataConfig, sequences: Sequences, seed: int) -> tuple[Iterator[bytes], tuple[int, ...]]:
    ratings = read_ratings(find_files(data.path))
    found = windows(
        ratings,
        sequence=sequences.sequence,
        targets=sequences.targets,
        negatives=sequences.negatives,
        seed=seed,
    )
    lines = (
        msgspec.json.encode(
            {"label": w.targets.tolist(), "dense": w.negatives.tolist(), "sparse": [[w.user], w.sequence.tolist()]}
        )
        for w in found
    )
    return lines, (ratings.num_users, ratings.num_items)


def _write(folder: Path, name: str, lines: Iterator[bytes], parts: int | None) -> int:
    """One file, or so many part files of equal length; returns the number of lines."""
    if parts is None:
        return _write_file(folder / name, lines)
    # The number of lines is known only at the end: one file first, which is then cut.
    whole = folder / f".{name}"
    count = _write_file(whole, lines)
    each = -(-count // parts)
    with whole.open("rb") as file:
        for part in range(parts):
            _write_file(folder / f"part_{part}.txt", (line[:-1] for line in itertools.islice(file, each)))
    whole.unlink()
    return count


def _write_file(path: Path, lines: Iterator[bytes]) -> int:
    count = 0
    with path.open("wb") as file:
        for line in lines:
            file.write(line + b"\n")
            count += 1
    return count

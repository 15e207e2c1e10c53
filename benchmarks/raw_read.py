"""How fast are rows of one's own columns read? Times CSV and Parquet to batches on one core, and pyarrow's own reading.

    python benchmarks/raw_read.py [ROWS] [--memory ROWS ...] [--before TREE] [--write docs/data.md] [--folder PATH]

The file is made here: a label, four numbers (one with gaps), two ids of 64 bits, three texts. Each way reads it once in
each of five rounds, in turns, and the least processor time counts, so that other programs do not. `pyarrow` reads the
same columns of the same file with the same settings (text where it is CSV) and does nothing with them; memcpy copies
256 MiB. `--memory` reads files of so many rows in processes of their own and tells the largest memory of each.
`--before` names another checkout, whose prepared Parquet is read in turns with this one's (`benchmarks/data_read.py`).
`--write` puts all of it into a page.
"""

import argparse
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from bagpipe.config.columns import ColumnsConfig, DenseColumn, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.prepare import learn
from bagpipe.data.transform import Transform

ROOT = Path(__file__).resolve().parents[1]
BATCH_SIZE, ROUNDS, GROUP = 16_384, 5, 1 << 18
DENSE, IDS, TEXTS = ("price", "age", "seconds", "score"), ("user", "item"), ("city", "device", "page")
NAMES = ("clicked", *DENSE, *IDS, *TEXTS)
BEGIN, END = "<!-- begin: benchmarks/raw_read.py -->", "<!-- end: benchmarks/raw_read.py -->"
COLUMNS = ColumnsConfig(
    labels=(LabelColumn("clicked"),),
    dense=tuple(DenseColumn(name, standardise=True) for name in DENSE),
    sparse=tuple(SparseColumn(name) for name in (*IDS, *TEXTS)),
)


@dataclass(frozen=True, slots=True)
class Speed:
    """Examples/s of a file as batches, and as pyarrow reads it; its size in bytes."""

    ours: float
    pyarrow: float
    size: int


# ── data ──────────────────────────────────────────────────────────────────────────────────────────


def tables(rows: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng(3)
    for begin in range(0, rows, GROUP):
        yield _some_rows(rng, min(GROUP, rows - begin))


def _some_rows(rng: np.random.Generator, count: int) -> pa.Table:
    def skewed(size: int) -> np.ndarray:
        return np.asarray((rng.random(count) ** 3 * size).astype(np.int64))

    def words(name: str, size: int) -> pa.Array:
        return pa.array([f"{name}-{i}" for i in range(size)]).take(pa.array(skewed(size)))

    gaps = rng.random(count) < 0.1
    return pa.table(
        [
            pa.array((rng.random(count) < 0.2).astype(np.int8)),
            pa.array(np.exp(rng.normal(3, 1, count)).round(2)),
            pa.array(rng.integers(18, 90, count), mask=gaps),
            pa.array(rng.integers(0, 10_000, count)),
            pa.array(rng.random(count).round(4)),
            pa.array(skewed(200_000) * 1_000_003),
            pa.array(skewed(50_000)),
            words("city", 3000),
            words("device", 40),
            words("page", 20_000),
        ],
        names=list(NAMES),
    )


def write(path: Path, rows: int) -> Path:
    """A file of the kind that the path's suffix names."""
    schema = next(tables(1)).schema
    writer = csv.CSVWriter(path, schema) if path.suffix == ".csv" else pq.ParquetWriter(path, schema)
    with writer:
        for table in tables(rows):
            writer.write_table(table)
    return path


# ── ways of reading ───────────────────────────────────────────────────────────────────────────────


def opened(path: Path, transform: Transform, work_dir: Path) -> Dataset:
    """All rows of the file, encoded as they are read."""
    data = DataConfig(path=str(path), columns=COLUMNS, test=str(path))
    return open_dataset(data, EmbeddingConfig(), seed=0, work_dir=work_dir, kept=transform, only_test=True)


def as_batches(dataset: Dataset) -> int:
    return sum(batch.num_examples for batch in dataset.test_batches(BATCH_SIZE))


def by_pyarrow(path: Path) -> int:
    """The same columns in pieces of the same size, as Arrow's arrays."""
    if path.suffix == ".csv":
        read = csv.ReadOptions(use_threads=False, block_size=4 << 20)
        convert = csv.ConvertOptions(column_types=dict.fromkeys(NAMES, pa.string()), include_columns=list(NAMES))
        parse = csv.ParseOptions(newlines_in_values=True)
        with csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as reader:
            return sum(batch.num_rows for batch in reader)
    with pq.ParquetFile(path) as parquet:
        groups = range(parquet.metadata.num_row_groups)
        return sum(parquet.read_row_group(i, columns=list(NAMES), use_threads=False).num_rows for i in groups)


def measure(folder: Path, rows: int) -> dict[str, Speed]:
    """Each kind of file, each way."""
    paths = [write(folder / f"rows.{kind}", rows) for kind in ("csv", "parquet")]
    transform = learn(DataConfig(path=str(paths[1]), columns=COLUMNS))
    as_text = learn(DataConfig(path=str(paths[0]), columns=COLUMNS))
    ways: dict[tuple[Path, str], Callable[[], int]] = {}
    for path, known in zip(paths, (as_text, transform), strict=True):
        dataset = opened(path, known, folder)
        ways[path, "ours"] = lambda dataset=dataset: as_batches(dataset)
        ways[path, "pyarrow"] = lambda path=path: by_pyarrow(path)
    best = dict.fromkeys(ways, 0.0)
    for number in range(ROUNDS + 1):
        for way, read in ways.items():
            started = time.process_time()
            found = read()
            assert found == rows, (way, found)
            if number:  # The first round compiles.
                best[way] = max(best[way], rows / (time.process_time() - started))
    return {path.suffix[1:]: Speed(best[path, "ours"], best[path, "pyarrow"], path.stat().st_size) for path in paths}


def memcpy_speed(size: int = 1 << 28) -> float:
    """Bytes copied per second of processor time."""
    source, target, best = np.ones(size, np.uint8), np.zeros(size, np.uint8), float("inf")
    for _ in range(3):
        started = time.process_time()
        np.copyto(target, source)
        best = min(best, time.process_time() - started)
    return size / best


# ── in processes of their own ─────────────────────────────────────────────────────────────────────


def memory_of(folder: Path, kind: str, rows: int) -> int:
    """Largest memory, in MiB, of a process that reads so many rows."""
    path = write(folder / f"large.{kind}", rows)
    done = subprocess.run([sys.executable, __file__, "--read", str(path)], check=True, capture_output=True, text=True)
    path.unlink()
    return int(done.stdout)


def read_one(path: Path) -> int:
    """Read a file as batches, in this process; its largest memory in MiB."""
    small = path.with_name(f"small{path.suffix}")
    write(small, 100_000)
    with tempfile.TemporaryDirectory() as work:
        as_batches(opened(path, learn(DataConfig(path=str(small), columns=COLUMNS)), Path(work)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def prepared_speeds(trees: list[Path]) -> list[float]:
    """Ids/s, in millions, of prepared Parquet of 26 features, of each checkout in turns."""
    best = [0.0] * len(trees)
    for _ in range(3):
        for number, tree in enumerate(trees):
            environment = os.environ | {"PYTHONPATH": f"{tree}:{tree / 'operator'}", "NUMBA_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, str(tree / "benchmarks" / "data_read.py")],
                check=True, capture_output=True, text=True, env=environment,
            )  # fmt: skip
            found = re.search(r"^parquet\s+\S+ M examples/s\s+(\S+) M ids/s", done.stdout, re.MULTILINE)
            assert found is not None, done.stdout
            best[number] = max(best[number], float(found[1]))
    return best


# ── words ─────────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    args = parse()
    if args.read is not None:
        print(read_one(args.read))
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        found = measure(Path(name), args.rows)
        memory = {(kind, n): memory_of(Path(name), kind, n) for kind in found for n in args.memory}
    lines = list(table(found, args, memory))
    if args.before is not None:
        before, now = prepared_speeds([args.before.resolve(), ROOT])
        lines += [
            "",
            f"Prepared Parquet of 26 features, in turns with the code before: {now:.0f} M ids/s, before {before:.0f}.",
        ]
    lines += ["", f"Load of the machine {load:.0f} at the beginning and {os.getloadavg()[0]:.0f} at the end."]
    print("\n".join(lines))
    if args.write is not None:
        sys.path.insert(0, str(ROOT))
        from tools.pages import with_part

        args.write.write_text(with_part(args.write.read_text(), BEGIN, END, lines))


def parse() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    made.add_argument("rows", nargs="?", type=int, default=1_000_000)
    made.add_argument("--memory", type=int, nargs="*", default=[], metavar="ROWS")
    made.add_argument("--before", type=Path, metavar="TREE")
    made.add_argument("--write", type=Path, metavar="PAGE")
    made.add_argument("--folder", type=Path)
    made.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    return made.parse_args()


def table(found: dict[str, Speed], args: argparse.Namespace, memory: dict[tuple[str, int], int]) -> Iterator[str]:
    command = " ".join(["python", "benchmarks/raw_read.py", str(args.rows)])
    yield f"`{command}` on one core ({platform.machine()}), rows of {len(NAMES)} columns:"
    yield ""
    sizes = [f" {n:,} rows |" for n in args.memory]
    yield "| file | size | to encoded batches | pyarrow alone | our share |" + "".join(sizes)
    yield "|---|---|---|---|---|" + "---|" * len(sizes)
    for kind, speed in found.items():
        ours, alone = f"{speed.ours / 1e6:.2f} M examples/s", f"{speed.pyarrow / 1e6:.2f} M rows/s"
        largest = (f"{memory[kind, n]} MiB" for n in args.memory)
        cells = [kind, f"{speed.size / 1e6:.0f} MB", ours, alone, f"{speed.ours / speed.pyarrow:.0%}", *largest]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield f"memcpy: {memcpy_speed() / 1e9:.1f} GB/s."


if __name__ == "__main__":
    main()

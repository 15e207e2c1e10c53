"""How long does `bagpipe data prepare` take for many rows, and how much memory and disk?

    python benchmarks/prepare_rows.py [ROWS] [--engine local|dask] [--workers N] [--folder PATH]

Makes ten Parquet files of ROWS rows in all (a label, a number, two ids of 64 bits with a skewed popularity), prepares
them with a vocabulary and a test part of a tenth, and prints the time, the largest memory of any one process, the bytes
of input and output, and a digest over the output, by which two engines are compared. Everything is deleted afterwards.
"""

import argparse
import hashlib
import os
import resource
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bagpipe.config.columns import ColumnsConfig, DenseColumn, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig
from bagpipe.data.dask_engine import dask_engine
from bagpipe.data.prepare import prepare

FILES = 10
GROUP = 1 << 18
"""Rows of a row group of the input."""
USERS, ITEMS = 200_000, 50_000
EVERYBODY = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def write_rows(folder: Path, rows: int) -> None:
    """Ten files, each from a seed of its own."""
    for number in range(FILES):
        count = rows // FILES + (number < rows % FILES)
        rng = np.random.default_rng(number)
        writer = None
        for begin in range(0, count, GROUP):
            table = _some_rows(rng, min(GROUP, count - begin))
            writer = writer or pq.ParquetWriter(folder / f"rows-{number}.parquet", table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def _some_rows(rng: np.random.Generator, count: int) -> pa.Table:
    users = (rng.random(count, np.float32) ** 3 * USERS).astype(np.int64)
    items = (rng.random(count, np.float32) ** 4 * ITEMS).astype(np.int64)
    return pa.table(
        {
            "clicked": (rng.random(count, np.float32) < 0.2).astype(np.int8),
            "price": rng.random(count, np.float32),
            "user": users * 1_000_003 - 5,
            "item": items * 7_919,
        }
    )


def described(folder: Path) -> DataConfig:
    """The data settings of such rows."""
    columns = ColumnsConfig(
        labels=(LabelColumn("clicked"),),
        dense=(DenseColumn("price", standardise=True),),
        sparse=(SparseColumn("user"), SparseColumn("item")),
    )
    return DataConfig(path=str(folder), columns=columns, test=0.1)


def processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, EVERYBODY))


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def digest_of(folder: Path) -> str:
    """Over the names and bytes of all files."""
    hashed = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        hashed.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                hashed.update(block)
    return hashed.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("rows", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--engine", choices=["local", "dask"], default="local")
    parser.add_argument("--workers", type=int, default=2, help="dask: processes of this machine")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        raw, out = Path(name) / "raw", Path(name) / "out"
        raw.mkdir()
        write_rows(raw, args.rows)
        started, busy = time.perf_counter(), processor_seconds()
        with ExitStack() as stack:
            engine = stack.enter_context(dask_engine(None, args.workers)) if args.engine == "dask" else None
            done = prepare(described(raw), out, engine=engine)
        seconds, busy = time.perf_counter() - started, processor_seconds() - busy
        memory = max(resource.getrusage(who).ru_maxrss >> 10 for who in EVERYBODY)
        print(f"{done.examples:,} rows, {args.engine}: {seconds:.0f} s ({busy:.0f} s of processor time),", end=" ")
        print(f"{memory:,} MiB at most in one process, load {os.getloadavg()[0]:.0f}")
        print(f"{size_of(raw) / 1e9:.2f} GB to {size_of(out) / 1e9:.2f} GB, digest {digest_of(out)}")


if __name__ == "__main__":
    main()

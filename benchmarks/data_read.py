"""How fast are batches read? Compares raw Criteo text with prepared Parquet on one core, end to end into `Batch`.

    python benchmarks/data_read.py [EXAMPLES]

Prints examples/s and ids/s of each, their ratio (the contract: at least 5), and this machine's memcpy
speed beside them. The file is made here, with the popularity skew of Criteo's logs.
"""

import argparse
import gzip
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bagpipe.config.document import DataConfig, EmbeddingConfig, SyntheticConfig
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.prepare import prepare
from bagpipe.data.raw import RawBlock
from bagpipe.data.synthetic import SyntheticLogs

BATCH_SIZE = 16_384
NUM_SPARSE = 26
PASSES = 5


@dataclass(frozen=True, slots=True)
class ReadSpeed:
    """Examples/s from each source and bytes/s of a large memory copy."""

    text: float
    text_gzip: float
    parquet: float
    memcpy: float

    @property
    def ratio(self) -> float:
        return self.parquet / self.text


def measure(examples: int = 400_000, folder: Path | None = None) -> ReadSpeed:
    """Write a log of `examples` lines, prepare it, and read both; the best of five passes each."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        raw, zipped = Path(name) / "train.txt", Path(name) / "train.txt.gz"
        raw.write_bytes(b"".join(criteo_lines(examples)))
        zipped.write_bytes(gzip.compress(raw.read_bytes(), 1))
        text = DataConfig(path=str(raw))
        prepare(text, Path(name) / "prepared")
        parquet = DataConfig(path=str(Path(name) / "prepared"))
        gzipped = DataConfig(path=str(zipped))
        opened = [_open(config, Path(name)) for config in (text, gzipped, parquet)]
        # In turns, so that a busy moment of the machine does not fall on one of them alone.
        rounds = [[_one_pass(dataset) for dataset in opened] for _ in range(PASSES)]
    speeds = [max(one) for one in zip(*rounds, strict=True)]
    return ReadSpeed(speeds[0], speeds[1], speeds[2], memcpy_speed())


def criteo_lines(examples: int, seed: int = 0) -> Iterator[bytes]:
    """A Criteo log of that many lines, in blocks."""
    source = SyntheticLogs(SyntheticConfig(examples=examples), seed)
    for piece in source.pieces(0)[1]:
        yield _lines(source.parse(piece))


def _lines(block: RawBlock) -> bytes:
    counts = np.expm1(block.dense_BF * 2).astype(np.int64)
    ids = (block.codes_N.reshape(len(block), NUM_SPARSE) * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)
    rows = zip(block.labels_BL[:, 0].astype(np.int64).tolist(), counts.tolist(), ids.tolist(), strict=True)
    lines = ("\t".join([str(y), *map(str, dense), *(f"{value:08x}" for value in sparse)]) for y, dense, sparse in rows)
    return ("\n".join(lines) + "\n").encode()


def _open(config: DataConfig, work_dir: Path) -> Dataset:
    dataset = open_dataset(config, EmbeddingConfig(), seed=0, work_dir=work_dir)
    for _ in zip(range(3), dataset.train_batches(BATCH_SIZE), strict=False):
        """Compile before the clock starts."""
    return dataset


def _one_pass(dataset: Dataset) -> float:
    """Examples per second of processor time: reading uses one thread, other programs do not count."""
    started, examples = time.process_time(), 0
    for batch in dataset.train_batches(BATCH_SIZE, epochs=1):
        examples += batch.num_examples
    return examples / (time.process_time() - started)


def memcpy_speed(size: int = 1 << 28) -> float:
    """Bytes copied per second by one core."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - started)
    return size / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", metavar="EXAMPLES", nargs="?", type=int, default=400_000, help="lines of the log")
    speed = measure(parser.parse_args().examples)
    for name, examples in (("text", speed.text), ("text.gz", speed.text_gzip), ("parquet", speed.parquet)):
        print(f"{name:8s} {examples / 1e6:6.2f} M examples/s {examples * NUM_SPARSE / 1e6:7.1f} M ids/s")
    print(f"parquet / text {speed.ratio:.1f}   memcpy {speed.memcpy / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()

"""How many rows a second one core reads from and writes to a shard, beside its memory's speed.

python benchmarks/shard_rows.py [--rows 10_000_000] [--dim 48] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bagpipe.batch import Keys
from bagpipe.config.document import EmbeddingConfig, RowOptimizer
from bagpipe.embedding.row_store import RowStore
from bagpipe.rows.initial import InitialRows
from bagpipe.tables import Table, TableLayout

REPEATS = 21


def median_seconds(run: Callable[[int], None]) -> float:
    """Median over fresh id sets, after one run to compile and to touch memory."""
    run(0)
    seconds = []
    for number in range(1, REPEATS + 1):
        begun = time.perf_counter()
        run(number)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def memcpy_gigabytes_per_second() -> float:
    source = np.ones(50_000_000 // 8)
    target = np.empty_like(source)
    return 0.05 / median_seconds(lambda _: np.copyto(target, source))


def measure(num_rows: int, dim: int) -> dict[str, float]:
    """Million rows a second, by operation."""
    group = TableLayout.of([Table(name="t", num_embeddings=num_rows, embedding_dim=dim, feature_names=("t",))]).groups[
        0
    ]
    store = RowStore(
        group,
        InitialRows(group, EmbeddingConfig(optimizer=RowOptimizer(name="sgd")), seed=0),
        shard=0,
        num_shards=1,
        directory=None,
    )
    for begin in range(0, num_rows, 1 << 20):
        keys = np.arange(begin, min(begin + (1 << 20), num_rows))
        store.write(keys, np.zeros((keys.size, dim), np.float32))
    rng = np.random.default_rng(0)
    uniform = [np.unique(rng.integers(0, num_rows, 16_500))[:16_000] for _ in range(REPEATS + 1)]
    skewed = [np.unique(num_rows * rng.random(120_000) ** 6).astype(np.int64)[:53_000] for _ in range(REPEATS + 1)]
    results = {}
    for name, sets in (("16k uniform", uniform), ("53k skewed", skewed)):
        results |= measure_sets(store, name, [rng.permutation(s) for s in sets])
    return results


def measure_sets(store: RowStore, name: str, sets: list[Keys]) -> dict[str, float]:
    """Read and write each set of ids once."""
    count = statistics.median(s.size for s in sets)
    rows = np.ones((max(s.size for s in sets), store.embedding_dim), np.float32)

    def gather(number: int) -> None:
        store.read(sets[number], 0)

    def update(number: int) -> None:
        store.write(sets[number], rows[: sets[number].size])

    return {
        f"gather {name}": count / median_seconds(gather) / 1e6,
        f"update {name}": count / median_seconds(update) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=48)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = measure(options.rows, options.dim)
    results["memcpy GB/s"] = memcpy_gigabytes_per_second()
    for name, value in results.items():
        print(f"{name:24s} {value:8.1f}{'' if 'GB' in name else ' M rows/s'}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

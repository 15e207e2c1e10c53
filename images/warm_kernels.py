"""Compile the kernels of an image while it is built, so that no pod waits half a minute for it.

Runs a tiny job; in an image without torch, the planner over that job and a shard by itself. The results
lie in `$NUMBA_CACHE_DIR`; `bagpipe/lowlevel/kernel_cache.py` hands them to the processes of a pod.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np

from bagpipe.cli.main import run_command
from bagpipe.config.document import EmbeddingConfig
from bagpipe.embedding.row_store import RowStore
from bagpipe.embedding.snapshot import Snapshot
from bagpipe.rows.initial import InitialRows
from bagpipe.tables import Table, TableLayout

JOB = """
apiVersion: bagpipe.dev/v1alpha1
kind: BagpipeJob
metadata: {name: warm}
spec:
  model: {name: dlrm, bottomMlp: [8], overMlp: [8]}
  data: {format: synthetic, testFraction: 0.1, synthetic: {examples: 2000, tableSizes: [100, 200]}}
  embedding: {dim: 8, optimizer: {name: adagrad, lr: 0.02}}
  batchSize: 64
  checkpoint: {every: 10}
  servers: {replicas: 2}
  trainers: {replicas: 2}
"""


def shard(directory: Path) -> None:
    """Run a shard by itself: read rows that nobody has written, write them, take a snapshot; on disk and in memory."""
    (group,) = TableLayout.of([Table("t", 100, 8, ("t",))]).groups
    for place in (directory, None):
        initial_rows = InitialRows(group, EmbeddingConfig(), seed=0)
        store = RowStore(group, initial_rows, shard=0, num_shards=2, directory=place)
        keys = np.arange(0, 100, 2, dtype=np.int64)
        records, _ = store.read(keys, keys.size)
        store.write(keys, records)
        snapshot = Snapshot(0, (store,), directory / f"snapshot-{place is None}", "shard")
        snapshot.before_write(0, store.positions(keys[:5]))
        snapshot.write()
        snapshot.wait(60)


def main() -> int:
    """Compile what this image needs; returns an exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "job.yaml"
        file.write_text(JOB, encoding="utf-8")
        if importlib.util.find_spec("torch"):
            return run_command(["run", str(file), "--run-dir", str(Path(scratch) / "run")])
        shard(Path(scratch))
        return run_command(["plan", str(file)])


if __name__ == "__main__":
    sys.exit(main())

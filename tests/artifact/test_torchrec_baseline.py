"""The TorchRec baseline: it gets the examples that Bagpipe gets, and its log ends with the time of an iteration.

Its environment is not ours: `TORCHREC_PYTHON` names its Python (artifact/torchrec_baseline/setup.sh makes it).
"""

import importlib.util
import itertools
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data.dataset import open_dataset
from bagpipe.experiment.measure import torchrec_timing
from bagpipe.experiment.suite import small_clicks
from bagpipe.oracle.plan.schedule import slice_bounds
from bagpipe.paper.log_format import read_log, timing
from bagpipe.tables import Table

BASELINE = Path(__file__).resolve().parents[2] / "artifact" / "torchrec_baseline"
SIZES = [50 + table for table in range(26)]
_spec = importlib.util.spec_from_file_location("baseline_data", BASELINE / "data.py")
data = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(data)


@pytest.fixture
def clicks(tmp_path):
    path = tmp_path / "clicks.jsonl"
    path.write_text("".join(small_clicks(200, SIZES)))
    return path


def test_every_rank_gets_what_bagpipes_trainer_gets(clicks, tmp_path):
    """The same dense features, ids and labels in the same order, rank by rank, also when the file begins again."""
    tables = tuple(Table(f"t{i}", size, 4, (f"C{i + 1}",)) for i, size in enumerate(SIZES))
    config = DataConfig(path=str(clicks), format="criteo-json")
    ours = open_dataset(config, EmbeddingConfig(tables=tables), seed=0, work_dir=tmp_path)
    batches = list(itertools.islice(ours.train_batches(40), 5))
    bounds = slice_bounds(40, 2)
    for rank in range(2):
        shares = data.read_batches(clicks, batch_size=20, rank=rank, world_size=2, count=7)
        assert len(shares) == 7
        for batch, (dense, ids, labels) in zip(batches, shares, strict=False):
            part = slice(bounds[rank], bounds[rank + 1])
            offsets = np.concatenate(([0], np.cumsum(SIZES)[:-1]))
            keys = batch.sparse[0].keys_N.reshape(40, 26)[part] - offsets
            assert np.array_equal(dense.numpy(), batch.dense_BF[part])
            assert np.array_equal(ids.numpy(), keys)
            assert np.array_equal(labels.numpy(), batch.labels_BL[part, 0])
        assert all(np.array_equal(a, b) for a, b in zip(shares[5], shares[0], strict=True))


@pytest.mark.skipif("TORCHREC_PYTHON" not in os.environ, reason="needs TorchRec's environment: TORCHREC_PYTHON")
def test_the_log_ends_with_the_time_of_an_iteration(clicks, tmp_path):
    """Two ranks train: the loss falls, and both parsers read the log's end."""
    (tmp_path / "sizes.txt").write_text("".join(f"{size}\n" for size in SIZES))
    command = [
        *(os.environ["TORCHREC_PYTHON"], "-m", "torch.distributed.run", "--nproc-per-node", "2", "train.py"),
        *("--dataset", str(clicks), "--emb-info-file", str(tmp_path / "sizes.txt"), "--emb-size", "8"),
        *("--batch-size", "50", "--iter", "60", "--device", "cpu", "--log-dir", str(tmp_path)),
        *("--arch-mlp-bot", "13-16-8", "--arch-mlp-top", "16-1", "--learning-rate", "1.0"),
    ]
    done = subprocess.run(command, cwd=BASELINE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [log] = tmp_path.glob("training_worker_0_*_torchrec.log")
    read = read_log(log)
    assert np.mean(read.losses[-10:]) < read.losses[0] - 0.02
    found = torchrec_timing(log.read_text())
    assert (found.steps, found.mean_ms > 0, found.deviation_ms is not None) == (50, True, True)
    assert timing(read, 10).mean_ms == pytest.approx(found.mean_ms, rel=1e-3)

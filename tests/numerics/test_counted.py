"""A dense feature with `count` trains the model that the same numbers in a column of the data train, to the bit."""

import math
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.testing.small_job import small_job
from bagpipe.testing.threads import ThreadedRun, run_in_threads

ROWS, TRAINED, BATCH, STEPS = 240, 192, 32, 12


def visits(path: Path) -> Path:
    """Which item a user visited, and the logarithm of its share of the first 192 rows, computed here."""
    rng = random.Random(3)
    items = [f"i{int(rng.paretovariate(0.8)) % 40}" for _ in range(ROWS)]
    seen = Counter(items[:TRAINED])
    shares = [np.float32(math.log(max(1, seen[item]) / TRAINED)) for item in items]
    users = [f"u{rng.randrange(30)}" for _ in items]
    labels = [int(rng.random() < 0.8) for _ in items]
    pq.write_table(pa.table({"y": labels, "user": users, "item": items, "by_hand": pa.array(shares)}), path)
    return path


def job_of(path: Path, dense: dict[str, Any], **spec: Any) -> Job:
    columns = {
        "labels": [{"name": "y"}],
        "dense": [dense],
        "sparse": [{"name": "user"}, {"name": "item"}],
        "ignore": ["*"],
    }
    towers = {"name": "two-tower", "itemFeatures": ["item"], "towerMlp": [4], "negatives": "in-batch", "logQ": True}
    data = {"path": str(path), "columns": columns, "testFraction": 0.2, "shuffle": "always"}
    return small_job(towers, data, **({"batchSize": BATCH, "steps": STEPS} | spec))


def outcome(run: ThreadedRun) -> tuple[str, Any]:
    newest = newest_complete(run.run_dir / "checkpoints")
    assert newest is not None and newest.name == f"step-{STEPS:08d}"
    return model_digest(newest), run.report["evaluation"]


def test_two_towers_corrected_by_a_counted_share_are_those_of_a_column_made_by_hand(tmp_path: Path) -> None:
    """`logQ` with `count: log-share`; also where the run was resumed and what was prepared is gone."""
    path = visits(tmp_path / "visits.parquet")
    by_hand = run_in_threads(job_of(path, {"name": "by_hand"}), tmp_path / "hand")
    counted = {"name": "share", "column": "item", "count": "log-share"}
    whole = run_in_threads(job_of(path, counted), tmp_path / "whole")
    assert whole.losses == by_hand.losses
    assert outcome(whole) == outcome(by_hand)
    run_in_threads(job_of(path, counted, steps=5), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "data")
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    resumed = run_in_threads(job_of(path, counted), tmp_path / "run", attempt=1, checkpoint=checkpoint)
    assert outcome(resumed) == outcome(by_hand)

"""Writes a finished job's main figures, small enough for a pod's termination message: the cluster's `summary.json`."""

import json
from pathlib import Path
from typing import Any

from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.lowlevel.strict_json import NOT_FINITE, encode

KEPT = ("steps", "skippedSteps", "loss", "examplesPerSecond", "cacheHitRate", "evaluation", "validation")


def write_summary(target: Path, job: Job, run_dir: Path, checkpoints: Path) -> None:
    """Write the main figures of `report.json`, and the digest where the checkpoint can be seen from here.

    On a cluster without a shared checkpoint directory each server has written its shard where it runs:
    no process sees the whole model, and the summary has no digest.
    """
    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {"name": job.metadata.name, **{key: report.get(key) for key in KEPT}}
    found |= {NOT_FINITE: report[NOT_FINITE]} if NOT_FINITE in report else {}
    checkpoint = newest_complete(checkpoints)
    if checkpoint is not None:
        found |= {"modelDigest": model_digest(checkpoint), "checkpoint": str(checkpoint)}
    target.write_text(encode(found), encoding="utf-8")

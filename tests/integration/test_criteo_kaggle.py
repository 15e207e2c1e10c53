"""The recipe for real click logs reaches its figures, whatever the cache and the servers do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "criteo-kaggle-137k.tsv.xz"
AUC, LOG_LOSS = 0.758, 0.491

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.exists(), reason=f"the Criteo sample is not here: {DATA}"),
]


def run(run_dir: Path, *settings: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bagpipe", "run", "examples/criteo-kaggle.yaml", "--run-dir", str(run_dir)]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def test_the_recipe_reaches_its_figures_with_and_without_a_cache(tmp_path: Path) -> None:
    """AUC and log loss on the last tenth; the same model to the bit without a cache and on three servers."""
    cached = run(tmp_path / "cached")
    assert cached["evaluation"]["auc"] >= AUC
    assert cached["evaluation"]["logLoss"] <= LOG_LOSS
    assert cached["cacheHitRate"] > 0.9
    uncached = run(tmp_path / "uncached", "spec.lookahead=0", "spec.servers.replicas=3")
    assert uncached["cacheHitRate"] == 0
    assert uncached["evaluation"] == cached["evaluation"]
    assert uncached["modelDigest"] == cached["modelDigest"]

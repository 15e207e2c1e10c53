"""Models beside DLRM reach their figures on real click logs, by the recipes in `examples/`.

Two of them here, to save time; all of them are `bagpipe run examples/criteo-kaggle-MODEL.yaml` (docs/models.md).
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "criteo-kaggle-137k.tsv.xz"
AUC, LOG_LOSS = 0.757, 0.491

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.exists(), reason=f"the Criteo sample is not here: {DATA}"),
]


@pytest.mark.parametrize("model", ["dcn", "wdl"])
def test_the_recipe_reaches_its_figures(model: str, tmp_path: Path) -> None:
    """AUC and log loss on the last tenth, after one pass over the rest."""
    recipe = f"examples/criteo-kaggle-{model}.yaml"
    command = [sys.executable, "-m", "bagpipe", "run", recipe, "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    evaluation = json.loads((tmp_path / "run" / "summary.json").read_text())["evaluation"]
    assert evaluation["auc"] >= AUC
    assert evaluation["logLoss"] <= LOG_LOSS

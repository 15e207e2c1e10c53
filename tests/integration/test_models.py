"""Models as jobs: the examples are jobs that fit their models, a model of one's own runs, evaluation is one model's."""

import json
from pathlib import Path
from typing import Any

from bagpipe.config.load import load_job
from bagpipe.config.model import MODEL_SETTINGS
from bagpipe.testing.warm_commands import run_warm

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

NORMALISED = """
metadata: {name: normalised}
spec:
  model: {name: deepfm, overMlp: [8, 8]}
  data: {format: synthetic, testFraction: 0.2, synthetic: {examples: 2000, tableSizes: [40, 900, 7]}}
  embedding: {dim: 5}
  batchSize: 50
  trainers: {replicas: 2, device: cpu}
"""


def bagpipe(*arguments: str, **environment: str) -> str:
    """Run the command; its standard output."""
    code, printed, told = run_warm(ROOT, *arguments, **environment)
    assert code == 0, printed + told
    return printed


def summary_of(run_dir: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def test_every_model_has_an_example() -> None:
    """The example jobs are accepted, and every shipped model is one's."""
    jobs = [load_job(path) for path in EXAMPLES]
    assert {job.spec.model.name for job in jobs if job.spec.model.entrypoint is None} == set(MODEL_SETTINGS)


def test_a_model_of_ones_own_trains(tmp_path: Path) -> None:
    """The example with its own model, in small batches, learns."""
    bagpipe(
        "run",
        "examples/own-model.yaml",
        *("--run-dir", str(tmp_path / "run"), "--set", "batchSize=128"),
        PYTHONPATH=str(ROOT / "examples"),
    )
    assert summary_of(tmp_path / "run")["evaluation"]["auc"] > 0.6


def test_all_trainers_evaluate_with_the_saved_statistics(tmp_path: Path) -> None:
    """Running means differ between trainers; what is evaluated at the end is what the checkpoint holds."""
    (tmp_path / "job.yaml").write_text(NORMALISED)
    bagpipe("run", str(tmp_path / "job.yaml"), "--run-dir", str(tmp_path / "run"))
    again = json.loads(bagpipe("evaluate", str(tmp_path / "run"), "--json"))
    assert again == summary_of(tmp_path / "run")["evaluation"]

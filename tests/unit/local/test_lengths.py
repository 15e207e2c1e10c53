"""A resumed run of another length keeps its schedule, or says before any role starts which number keeps it."""

from pathlib import Path

import pytest

from bagpipe.config.load import load_job
from bagpipe.errors import ConfigError
from bagpipe.local.rundir import RunDir
from bagpipe.testing.threads import run_in_threads

JOB = """
spec:
  data: {format: synthetic, synthetic: {examples: 60, tableSizes: [9], numDense: 2}}
  optimizer: {schedule: {name: cosine, warmupSteps: 1}}
  embedding: {dim: 4}
  batchSize: 20
  epochs: 1
  trainers: {device: cpu}
"""


def test_another_length_needs_the_number_of_the_checkpoint(tmp_path: Path) -> None:
    """Refused with the number to give; that number is taken, as is the same length in steps."""
    (tmp_path / "job.yaml").write_text(JOB)
    first = load_job(tmp_path / "job.yaml")
    with RunDir.create(tmp_path / "run") as directory:
        directory.begin(first)
    run_in_threads(first, tmp_path / "run")
    setting = "spec.optimizer.schedule.decaySteps"
    with RunDir.reopen(tmp_path / "run") as directory:
        directory.check_same_job(first)
        for longer in ("epochs=2", "steps=6"):
            changed = [longer] if longer == "epochs=2" else ["epochs=null", longer]
            with pytest.raises(ConfigError, match=rf"^{setting}: left out, .* give {setting}=2 "):
                directory.check_same_job(load_job(tmp_path / "job.yaml", changed))
            directory.check_same_job(load_job(tmp_path / "job.yaml", [*changed, f"{setting}=2"]))
        directory.check_same_job(load_job(tmp_path / "job.yaml", ["epochs=null", "steps=3"]))
        with pytest.raises(ConfigError, match=rf"^{setting}: differs from the run in "):
            directory.check_same_job(load_job(tmp_path / "job.yaml", [f"{setting}=5"]))

"""Where the checkpoints of a run lie, which its job says."""

from pathlib import Path

from bagpipe.config.document import CheckpointConfig
from bagpipe.config.load import load_job

JOB_FILE = "job.yaml"
"""The job of a run, in its directory."""


def checkpoints_of(run_dir: Path) -> Path:
    """Where the checkpoints of a run directory lie, even if its roles were started by hand.

    Raises:
        ConfigError: its job cannot be read.
    """
    if (run_dir / JOB_FILE).is_file():
        return load_job(run_dir / JOB_FILE).spec.checkpoint.folder(run_dir)
    return CheckpointConfig().folder(run_dir)

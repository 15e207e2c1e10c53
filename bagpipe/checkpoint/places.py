"""Where the checkpoints of a run lie, which its job says; and names of files in its directory."""

from pathlib import Path

from bagpipe.config.document import CheckpointConfig
from bagpipe.config.load import load_job

JOB_FILE = "job.yaml"
"""The job of a run, in its directory."""
ACCEPTED_FILE = "accepted-data.json"
"""In the run directory: the fingerprint of data that the user has accepted (`--new-data`)."""
WARM_START_REPORT = "warm-start.txt"
"""In the run directory: what its rows and weights began with."""


def checkpoints_of(run_dir: Path) -> Path:
    """Where the checkpoints of a run directory lie, even if its roles were started by hand.

    Raises:
        ConfigError: its job cannot be read.
    """
    if (run_dir / JOB_FILE).is_file():
        return load_job(run_dir / JOB_FILE).spec.checkpoint.folder(run_dir)
    return CheckpointConfig().folder(run_dir)


def reuse_prepared_data(checkpoint: Path, work_dir: Path) -> None:
    """Link the data that a checkpoint's run has prepared into another work folder, to which what is missing is written.

    Beside a folder of checkpoints elsewhere there may be a folder `data` too, with anybody's files.
    """
    prepared = checkpoint.absolute().parent.parent / "data"
    if prepared.is_dir():
        for pattern in ("prepared-*", "count-*.json"):  # Each bears a digest of its data in its name.
            for one in prepared.glob(pattern):
                (work_dir / one.name).symlink_to(one)

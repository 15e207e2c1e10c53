"""Evaluates a checkpoint: runs its own job once more, with no step left to train.

The run lives in a temporary directory; the checkpoint is only read.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bagpipe.checkpoint.dense_files import weights_in_use
from bagpipe.checkpoint.manifest import check_transform
from bagpipe.checkpoint.places import reuse_prepared_data
from bagpipe.checkpoint.store import open_checkpoint
from bagpipe.config.document import Job, JobSpec, Metadata
from bagpipe.config.load import absolute_paths, dump_job, parse_job
from bagpipe.config.parts import all_of
from bagpipe.errors import ConfigError, ExitCode, Stopped, UserCodeError, error_of
from bagpipe.local.beginning import check_header
from bagpipe.local.model_source import check_model_source
from bagpipe.local.progress import PlainView
from bagpipe.local.rundir import RunDir
from bagpipe.local.supervisor import Supervisor
from bagpipe.local.trained_rows import rows_trained_on


def evaluate_checkpoint(
    checkpoint: Path, overrides: Sequence[str], warn: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """AUC, log loss, calibration and number of examples on the test part of the job's data, or on all of other data.

    Args:
        warn: called with one line if rows are evaluated that were trained on.

    Raises:
        CheckpointError: the checkpoint cannot be read, or holds no model.
        ConfigError: the job, as overridden, has no test part.
        DataError: the data cannot be read, or lacks a column that the model was trained on.
        UserCodeError: the model gave no outputs, or its file is no Python.
        Stopped: this process was asked to stop (Ctrl-C, SIGTERM).
        BagpipeError: a role failed; of the class that its exit code stands for.
    """
    job = _job_of(checkpoint, overrides)
    weights_in_use(open_checkpoint(checkpoint))
    check_model_source(job.spec.model)
    check_header(job.spec.data, trained=True)
    if line := rows_trained_on(checkpoint, job.spec.data):
        warn(line)
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bagpipe-evaluate-") as folder, RunDir.create(Path(folder)) as directory:
        directory.begin(job)
        _reuse_prepared_data(checkpoint, directory)
        outcome = Supervisor(job, directory, PlainView(notes.append)).run(checkpoint.absolute())
        report = directory.report()
    if outcome.error:
        raise error_of(outcome.code)(outcome.error)
    if outcome.code == ExitCode.STOPPED:
        raise Stopped(f"{checkpoint}: the evaluation was asked to stop before its end, so that there are no figures")
    figures: dict[str, Any] | None = report and report.get("evaluation")
    if not figures:
        raise ConfigError(f"{checkpoint}: its data has no test part; give one with --set spec.data.testFraction=0.1")
    if (why := figures.get("failed")) is not None:
        raise UserCodeError(f"{checkpoint}: evaluation failed: {why}")
    return figures


def _job_of(checkpoint: Path, overrides: Sequence[str]) -> Job:
    """The checkpoint's job, ending where it already is."""
    manifest = open_checkpoint(checkpoint).manifest
    spec = msgspec.structs.replace(
        manifest.spec,
        steps=manifest.step,
        epochs=None,
        evaluate=True,
        checkpoint=msgspec.structs.replace(manifest.spec.checkpoint, path=None, best=None),
        evaluation=msgspec.structs.replace(manifest.spec.evaluation, every=0, early_stopping=None),
    )
    text = dump_job(Job(metadata=Metadata(name=manifest.job), spec=spec))
    job = absolute_paths(parse_job(text, f"job of {checkpoint}", overrides))
    check_transform(manifest.spec.data, job.spec.data)
    return msgspec.structs.replace(job, spec=_all_of_other_data(manifest.spec, job.spec, overrides))


def _all_of_other_data(trained: JobSpec, asked: JobSpec, overrides: Sequence[str]) -> JobSpec:
    """Evaluate all of the data if it is not the run's own, unless a part of it was asked for."""
    data = asked.data
    if data.path == trained.data.path or data.test != trained.data.test or data.format == "synthetic":
        return asked
    if any("testFraction" in override for override in overrides):
        return asked
    return msgspec.structs.replace(asked, data=msgspec.structs.replace(all_of(data, data.path), test=data.path))


def _reuse_prepared_data(checkpoint: Path, directory: RunDir) -> None:
    """Data that the run has prepared need not be prepared again; what is prepared here stays out of the run."""
    here = directory.path / "data"
    here.mkdir(exist_ok=True)
    reuse_prepared_data(checkpoint, here)

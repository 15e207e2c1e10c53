"""`bagpipe run` without its command line: prepare the run directory, supervise, sum up."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.places import JOB_FILE
from bagpipe.checkpoint.start import chosen_checkpoint
from bagpipe.checkpoint.store import newest_complete, open_checkpoint
from bagpipe.config.document import Job
from bagpipe.config.load import load_job, load_local_job
from bagpipe.config.paths import shown
from bagpipe.errors import BagpipeError, CheckpointError, ConfigError, ExitCode, PeerLost
from bagpipe.local.beginning import check_beginning
from bagpipe.local.commands import CommandBuilder
from bagpipe.local.model_source import check_model_source
from bagpipe.local.policy import HOPELESS
from bagpipe.local.progress import View
from bagpipe.local.rundir import RunDir
from bagpipe.local.supervisor import Outcome, Supervisor
from bagpipe.lowlevel.versions import versions
from bagpipe.lowlevel.wording import counted


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended; `summary` is None unless it was completed or stopped at a checkpoint."""

    run_dir: Path
    outcome: Outcome
    summary: dict[str, Any] | None


def start_run(
    job_file: Path, overrides: Sequence[str], run_dir: Path | None, view: View, *, build: CommandBuilder | None = None
) -> RunResult:
    """A fresh run of a job file.

    Raises:
        ConfigError: the job is wrong, or the run directory cannot be used.
    """
    job = load_local_job(job_file, overrides)
    opened = RunDir.create(run_dir) if run_dir is not None else RunDir.create_default(job.metadata.name, datetime.now())
    with opened as directory:
        return run_job(job, directory, view, build=build)


def run_job(job: Job, directory: RunDir, view: View, *, build: CommandBuilder | None = None) -> RunResult:
    """A fresh run of a job in an open directory, which is removed again if the job cannot begin at all.

    Raises:
        ConfigError, DataError, UserCodeError: as `check_beginning`, or another run uses the checkpoints' folder.
        StorageError: the run directory cannot be written.
    """
    try:
        check_beginning(job.spec)
        directory.begin(job)
    except BagpipeError:
        directory.discard()
        raise
    result = _supervise(job, directory, None, view, build)
    if result.outcome.code in HOPELESS and not _trained(directory, job) and not directory.has_traceback():
        directory.discard()
    return result


def resume_run(
    job_file: Path | None,
    overrides: Sequence[str],
    run_dir: Path | None,
    view: View,
    *,
    new_data: bool = False,
    chosen: Path | None = None,
    build: CommandBuilder | None = None,
) -> RunResult:
    """Continue a run from its newest complete checkpoint (from the beginning if it has none).

    Args:
        job_file: None takes the job that the directory remembers.
        new_data: train on the data as it is now, whatever the run was trained on before. Other data begins an epoch.
        chosen: the checkpoint to go on from; None: the newest undamaged one.

    Raises:
        ConfigError: there is nothing to resume, the job changed in a way that changes results, asks for fewer steps
            than are trained, or ends before it would train on new data.
        DataError: the data is not what the run was trained on.
    """
    if run_dir is None:
        raise ConfigError("--resume: which run? name its directory with --run-dir")
    with RunDir.reopen(run_dir) as directory:
        job = load_local_job(job_file or run_dir / JOB_FILE, overrides)
        directory.check_same_job(job)
        directory.own_checkpoints(job)
        if chosen is not None:
            checkpoint: Path | None = chosen_checkpoint(chosen, directory.checkpoints(job), note=view.note)
        else:
            checkpoint = directory.starting_checkpoint(job, view.note)
        if new_data:
            from bagpipe.checkpoint.kept_data import accept_data  # reading data is heavy to import

            new_data = accept_data(job.spec, directory.path, checkpoint)
        summary = finished(job, directory, checkpoint)
        if summary is not None and not new_data:
            view.note(f"nothing left to train: the run in {run_dir} is finished at step {summary['steps']}")
            return RunResult(directory.path, Outcome(ExitCode.DONE, 0, 0.0), {**summary, "attempts": 0})
        check_model_source(job.spec.model)
        if checkpoint is not None and not new_data:
            from bagpipe.checkpoint.kept_data import check_same_data  # as above

            check_same_data(job.spec, directory.path, checkpoint)
        directory.begin(job)
        return _supervise(job, directory, checkpoint, view, build)


def finished(job: Job, directory: RunDir, checkpoint: Path | None) -> dict[str, Any] | None:
    """The summary of a run that has nothing left to do; None where there is something.

    Raises:
        ConfigError: the job asks for fewer steps than are trained already.
    """
    if checkpoint is None:
        return None
    trained = open_checkpoint(checkpoint).manifest.step
    if job.spec.steps is not None and job.spec.steps < trained:
        raise ConfigError(
            f"spec.steps: {job.spec.steps}, but the run in {directory.path} has trained {trained} steps already, so "
            f"nothing is left to train; set more than {trained}, or score what there is with `bagpipe evaluate`"
        )
    summary = directory.summary()
    same = load_job(directory.job_file) == job
    done = summary is not None and not summary.get("stopped") and summary.get("steps") == trained
    return summary if same and done else None


def _supervise(
    job: Job, directory: RunDir, checkpoint: Path | None, view: View, build: CommandBuilder | None
) -> RunResult:
    where = f" from {checkpoint.name}" if checkpoint else ""
    spec = job.spec
    roles = f"{counted(spec.servers.replicas, 'server')}, {counted(spec.trainers.replicas, 'trainer')}"
    view.note(f"{job.metadata.name}: {roles}{where}, in {shown(directory.path)}")
    outcome = Supervisor(job, directory, view, build=build).run(checkpoint)
    report = directory.report()
    if outcome.code not in (ExitCode.DONE, ExitCode.STOPPED) or report is None:
        return RunResult(directory.path, outcome, None)
    summary = summarise(job, directory, report, outcome)
    directory.write_summary(summary)
    return RunResult(directory.path, outcome, summary)


def sum_up_loop(job: Job, directory: RunDir, seconds: float) -> None:
    """Write the summary of a run whose trainer was a loop of the user's own.

    Raises:
        PeerLost: the oracle did not report.
        CheckpointError: the run ended without the checkpoint that it should have.
    """
    report = directory.report()
    if report is None:
        raise PeerLost(f"{directory.path}: the oracle left no report; look at its log")
    summary = summarise(job, directory, report, Outcome(ExitCode.DONE, 1, seconds))
    # A loop that left early has passed over planned steps: the checkpoint knows how many were trained.
    summary["steps"] = open_checkpoint(Path(summary["checkpoint"])).manifest.step
    directory.write_summary(summary)


def summarise(job: Job, directory: RunDir, report: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    """The oracle's report with the name, digest and checkpoint of the run, its attempts, duration and versions.

    Raises:
        CheckpointError: the run ended without the checkpoint that it should have.
    """
    checkpoint = newest_complete(directory.checkpoints(job))
    if checkpoint is None:
        raise CheckpointError(f"{directory.path}: the run ended, but left no complete checkpoint; look at its logs")
    return {
        "name": job.metadata.name,
        **report,
        "modelDigest": model_digest(checkpoint),
        "checkpoint": str(checkpoint),
        "attempts": outcome.attempts,
        "seconds": round(outcome.seconds, 3),
        "versions": versions(),
    }


def _trained(directory: RunDir, job: Job) -> bool:
    """Whether the run got as far as a step or a checkpoint."""
    metrics = directory.metrics
    steps = metrics.exists() and '"step"' in metrics.read_text(encoding="utf-8")
    return steps or newest_complete(directory.checkpoints(job)) is not None

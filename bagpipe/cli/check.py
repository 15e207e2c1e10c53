"""`bagpipe run --check` and `bagpipe job check`: check a job without starting anything."""

import logging
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from bagpipe.client.checked import check_pods, notes
from bagpipe.client.installation import read_installation
from bagpipe.config.document import DataConfig, Job
from bagpipe.config.load import JobFile, load_local_job
from bagpipe.config.paths import shown
from bagpipe.data.files import find_files
from bagpipe.errors import ConfigError
from bagpipe.local.beginning import check_beginning, check_document
from bagpipe.local.ports import loopback, try_port
from bagpipe.local.rundir import default_path, holds_something
from bagpipe.lowlevel.wording import counted


def check_run(
    job_file: Path, overrides: Sequence[str], run_dir: Path | None, *, with_data: bool = True
) -> Iterator[str]:
    """What would run, line by line; nothing is started and nothing is written.

    Args:
        with_data: also look for the data's files and at their columns.

    Raises:
        ConfigError: the job or the model is wrong, or the run directory or a port cannot be used.
        DataError: there is no data at the job's path.
    """
    job = load_local_job(job_file, overrides)
    place = run_dir or default_path(job.metadata.name, datetime.now())
    _check_place(place)
    _check_ports(job)
    data = _data(job.spec.data) if with_data else "not looked at"
    (check_beginning if with_data else check_document)(job.spec)
    yield from _in_words(job, _model(job), data)
    yield f"  run directory: {shown(place)}"
    yield "nothing was started: this was a check"


def check_submission(file: JobFile, values: Path | None = None) -> Iterator[str]:
    """What a cluster would run, line by line; nothing is sent, and no data is looked at.

    Args:
        values: values file of the installation that would run it, where that is known.

    Raises:
        ConfigError: the job is wrong, or Kubernetes would refuse its pods or never start them.
        UserCodeError: the model's file is no Python.
    """
    model = file.job.spec.model
    check_document(file.job.spec, elsewhere=True)
    check_pods(file, read_installation(values))
    yield from _in_words(file.job, model.entrypoint or f"model.name {model.name}", "not looked at")
    yield from (f"  note: {note}" for note in notes(file))
    yield "nothing was sent: this was a check"


def _in_words(job: Job, model: str, data: str) -> Iterator[str]:
    spec = job.spec
    servers, trainers = counted(spec.servers.replicas, "server"), counted(spec.trainers.replicas, "trainer")
    yield f"{job.metadata.name}: the oracle, {servers} and {trainers}"
    yield f"  model: {model}"
    yield f"  data: {data}"
    length = counted(spec.steps, "step") if spec.steps else counted(spec.epochs or 1, "epoch")
    if spec.steps and spec.epochs:
        length += f" or {counted(spec.epochs, 'epoch')}, whichever ends first"
    yield f"  length: {length}, in batches of {counted(spec.batch_size, 'example')}"


def _data(data: DataConfig) -> str:
    if data.format == "synthetic":
        return "synthetic"
    files = find_files(data.path)
    return f"{counted(len(files), 'file')}, the first {shown(files[0].name)}"


def _model(job: Job) -> str:
    """The setting by which the model was found; it is built too, as far as that is possible before there is data."""
    from bagpipe.models.base import find_model
    from bagpipe.models.early import early_model
    from bagpipe.trainer.user_code import log, naming_user_code

    log.addHandler(logging.NullHandler())  # Where no role has a log, Python would print the traceback on the terminal.
    with naming_user_code([]):
        early_model(job.spec)
        return find_model(job.spec.model)[0]


def _check_place(place: Path) -> None:
    """Check the run directory as a fresh run would, without making it."""
    if place.is_dir():
        if holds_something(place):
            raise ConfigError(
                f"--run-dir {shown(place)}: not empty; continue that run with --resume, or choose another directory"
            )
        return
    if os.path.lexists(place):
        raise ConfigError(f"--run-dir {shown(place)}: not a folder; choose another")
    parent = next(p for p in place.absolute().parents if os.path.lexists(p))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(f"--run-dir {shown(place)}: {shown(parent)} is no folder that can be written; choose another")


def _check_ports(job: Job) -> None:
    """Ports that the job names must be free here, now."""
    for name, role, count in (
        ("oracle", job.spec.oracle, 1),
        ("servers", job.spec.servers, job.spec.servers.replicas),
        ("trainers", job.spec.trainers, job.spec.trainers.replicas),
    ):
        for port in range(role.port, role.port + count) if role.port else ():
            try:
                try_port(port)
            except OSError as error:
                raise ConfigError(
                    f"spec.{name}.port: {loopback()}:{port} cannot be used: {error.strerror}; choose another port"
                ) from None

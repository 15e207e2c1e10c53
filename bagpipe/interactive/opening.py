"""Opens the directory and the job of a session: of a fresh run, or of a run that it goes on with.

From here on the session owns the directory. After an error it releases it, and removes that of a run that could not
begin.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from bagpipe.config.document import Job
from bagpipe.config.load import absolute_paths, load_local_job
from bagpipe.interactive.document import as_path, compose, frames_in
from bagpipe.interactive.frames import naming_frames
from bagpipe.interactive.user_model import NamedModel, importable
from bagpipe.local.rundir import JOB_FILE, RunDir
from bagpipe.local.user_modules import offer_user_modules
from bagpipe.models.base import check_model
from bagpipe.trainer.user_code import naming_user_code


def opened(path: Path | None, name: str, named: NamedModel, job: Callable[[RunDir], Job]) -> tuple[RunDir, Job]:
    """The directory and the job of a fresh run.

    Args:
        path: None: `runs/<name>-<time>`.
        job: makes the job, once there is a directory for the rows that it was given.

    Raises:
        ConfigError, DataError, UserCodeError: the directory, the columns, the data or the model are wrong.
    """
    directory = RunDir.create(path) if path is not None else RunDir.create_default(name, datetime.now())
    with _closed_after_a_mistake(directory):
        made = job(directory)
        named.place(directory.path)
        _check_model(made, directory)
    return directory, made


def reopened(path: Path, overrides: Sequence[str]) -> tuple[RunDir, Job]:
    """The directory and the job of the run in `path`.

    Raises:
        ConfigError: no run was started there, or a setting changes the result.
    """
    directory = RunDir.reopen(path)
    with _closed_after_a_mistake(directory):
        job = load_local_job(path / JOB_FILE, overrides)
        directory.check_same_job(job)
    return directory, job


def composed(
    name: str,
    named: NamedModel,
    directory: RunDir,
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Job:
    """The job that arguments of `bagpipe.local` describe; rows are written into the directory. `tell`: as `compose`."""
    data, test = (as_path(given[what], directory, what) for what in ("data", "test"))
    with naming_frames(frames_in(directory.path)):
        return absolute_paths(compose(name, named, data, test, given["columns"], given["label"], settings, tell).job)


@contextmanager
def _closed_after_a_mistake(directory: RunDir) -> Iterator[None]:
    """The directory stays open, unless the body fails: then it is released, so that another session may use it."""
    with ExitStack() as stack:
        stack.push(directory)
        stack.callback(directory.discard)
        yield
        stack.pop_all()


def _check_model(job: Job, directory: RunDir) -> None:
    """Refuse a model of the job that could not be built, before a role starts."""
    with importable(directory.path):
        offer_user_modules()
        with naming_user_code([]):
            check_model(job.spec.model)

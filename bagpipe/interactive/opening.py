"""Opens the directory and the job of a session: of a fresh run, or of a run that it goes on with.

From here on the session owns the directory. After an error it releases it, and removes that of a run that could not
begin.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from bagpipe.checkpoint.kept_data import accept_data, check_same_data
from bagpipe.checkpoint.places import JOB_FILE
from bagpipe.config.document import Job
from bagpipe.config.load import absolute_paths, dump_job, load_local_job, parse_job
from bagpipe.errors import ConfigError
from bagpipe.interactive.document import as_path, compose, frames_in, later_rows
from bagpipe.interactive.frames import naming_frames
from bagpipe.interactive.run import overrides_of
from bagpipe.interactive.settings import settled, spec_of
from bagpipe.interactive.user_model import NamedModel, importable
from bagpipe.local.run import finished
from bagpipe.local.rundir import RunDir
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
    here = settled(Path())
    directory = RunDir.create(here / path) if path is not None else RunDir.create_default(name, datetime.now(), here)
    with _closed_after_a_mistake(directory):
        made = job(directory)
        named.place(directory.path)
        _check_model(made, directory)
    return directory, made


def reopened(
    path: Path, overrides: Sequence[str], named: NamedModel, job_file: Path | None = None
) -> tuple[RunDir, Job]:
    """The directory and the job of the run in `path`.

    Args:
        named: modules of this program's functions, which settings name.
        job_file: None: the job that the directory remembers.

    Raises:
        ConfigError: no run was started there, or a setting changes the result.
    """
    path = settled(path)
    directory = RunDir.reopen(path)
    with _closed_after_a_mistake(directory):
        job = load_local_job(job_file or path / JOB_FILE, overrides)
        directory.check_same_job(job)
        named.place(path)
    return directory, job


def later_data(given: Mapping[str, Any], *, job: bool, resume: bool) -> Any:
    """The rows among what `bagpipe.local` was given that a resumed run goes on with; None: none.

    Args:
        given: data, test, columns and label, by name.
        job: whether a job file was given.

    Raises:
        ConfigError: the job says what the data is, so the others have no place.
    """
    rows = given["data"] if resume and not job and not isinstance(given["data"], Mapping) else None
    if (job or resume) and any(one is not None and one is not rows for one in given.values()):
        raise ConfigError(
            "local: the job says what the data is; leave out data, test, columns and label (with resume=True data "
            "may be other rows of the same columns)"
        )
    return rows


def going_on(directory: RunDir, job: Job, checkpoint: Path | None, rows: Any) -> Job:
    """The job of a run that goes on from `checkpoint`: on these rows, or on those that it was trained on.

    Nothing of the run has changed where this raises.

    Args:
        rows: a path, or rows, which are written into the directory; None: what the job names.

    Raises:
        ConfigError: the run is finished, or no epoch is left in which other rows could be trained on.
        DataError: the data that the job names is no longer what the run was trained on.
        StorageError: the rows cannot be written.
    """
    if rows is None:
        _check_unfinished(directory, job, checkpoint)
        if checkpoint is not None:
            check_same_data(job.spec, directory.path, checkpoint)
        return job
    with later_rows(directory.path, rows) as path:
        overrides = overrides_of(spec_of({"path": path}))
        changed = absolute_paths(parse_job(dump_job(job), str(directory.job_file), overrides))
        if not accept_data(changed.spec, directory.path, checkpoint):
            _check_unfinished(directory, changed, checkpoint)
    return changed


def _check_unfinished(directory: RunDir, job: Job, checkpoint: Path | None) -> None:
    """Refuse a run that has nothing left to do: its loop would have no batch, and its summary would be lost."""
    summary = finished(job, directory, checkpoint)
    if summary is not None:
        raise ConfigError(
            f"{directory.path}: the run is finished at step {summary['steps']}, so nothing is left to train; give "
            "epochs or steps, with those that are done, or other data; bagpipe.Run has its figures and its model"
        )


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

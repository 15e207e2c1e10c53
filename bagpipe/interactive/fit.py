"""`bagpipe.fit`: train a model on rows or files from a Python program, in the same way as `bagpipe run`.

A frame is written into the run directory once; the job is an ordinary document, which lies there too; the roles are
child processes of this one. So a run that was begun here can be resumed, evaluated and exported by the command line.
"""

import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bagpipe.config.document import Job
from bagpipe.config.load import absolute_paths
from bagpipe.errors import ConfigError
from bagpipe.interactive.document import as_path, compose, frames_in, model_of
from bagpipe.interactive.frames import naming_frames
from bagpipe.interactive.progress import choose_view, teller
from bagpipe.interactive.run import Run, ended
from bagpipe.interactive.settings import functions_named, path_of
from bagpipe.interactive.user_model import importable
from bagpipe.local.progress import View
from bagpipe.local.run import run_job
from bagpipe.local.rundir import RunDir

if TYPE_CHECKING:
    from torch import nn


def fit(
    model: "str | type[nn.Module] | Any | None" = None,
    *,
    data: Any,
    test: Any = None,
    columns: Any = None,
    label: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    trainers: int = 1,
    name: str = "fit",
    run_dir: str | Path | None = None,
    on: Literal["here", "cluster"] = "here",
    namespace: str | None = None,
    context: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train a model, and return its run.

    Ctrl-C (in a notebook: interrupt) stops at a checkpoint and returns the run, which says so; a second one kills it.

    Args:
        model: a model's name (`dlrm`), an entrypoint (`package.module:Class`), a class or function, also one that was
            defined in this notebook or script, or a dict of `spec.model`. None: what `bagpipe init` suggests.
        data: a path or URL, a list of them, rows (`bagpipe.interactive.frames` lists what has rows), or a dict of
            `spec.data`.
        test: data for evaluation, all of it, given as `data` is; or a share of `data`, `0.2`, its last part. None: the
            setting `test_fraction` says which part.
        columns: labels and features (`data.columns`), for instance
            `{"labels": ["click"], "dense": ["price"], "sparse": ["user", "item"]}`. None: the columns and all other
            settings that are not given here are those that `bagpipe init` suggests for this data.
        label: with `columns=None`, the column to predict; None: it is guessed.
        model_args: keyword arguments of the model's constructor.
        epochs: passes over the training part.
        trainers: number of trainers, each a process.
        name: of the job.
        run_dir: where the run keeps everything; None: `runs/<name>-<time>`.
        on: "here", with the roles as child processes; "cluster", as a job of the cluster that kubectl would talk to.
        namespace, context: on a cluster, as `kubectl` takes them.
        progress: show how the run goes.
        **settings: any setting of a job by its Python name, such as `batch_size=512`, `embedding={"dim": 16}` or
            `test_fraction=0.1`; see docs/settings.md. Where a setting takes a function's import path
            (`evaluation={"metrics": [...]}`, `lr_lambda`), the function itself may be given.

    Raises:
        ConfigError: a setting, the model or the columns are wrong.
        DataError: the data cannot be read, or does not have the columns.
        PeerLost, StorageError: the run failed for a reason that may pass; `Run(run_dir).resume()` goes on with it.
    """
    settings, functions = functions_named(settings)
    named = model_of(model, model_args or {}).beside(functions)
    asked = {**settings, "epochs": epochs, "trainers": trainers}
    if on == "cluster":
        from bagpipe.interactive.cluster import submit

        document = compose(name, named, data, test, columns, label, asked, teller(progress=progress))
        return submit(document, data, test, named, namespace=namespace, context=context)
    if str(on) != "here" or namespace or context:
        raise ConfigError(f"fit: on={on!r}: expected 'here' or 'cluster'; namespace and context belong to a cluster")
    _check_thread()
    where = None if run_dir is None else path_of(run_dir, "run_dir")
    opened = RunDir.create(where) if where is not None else RunDir.create_default(name, datetime.now())
    with opened as directory, naming_frames(frames_in(directory.path)):
        try:
            data, test = (as_path(rows, directory, what) for rows, what in ((data, "data"), (test, "test")))
            tell = teller(progress=progress)
            job = absolute_paths(compose(name, named, data, test, columns, label, asked, tell).job)
            named.place(directory.path)
        except BaseException:
            directory.discard()
            raise
        return _run(job, directory, choose_view(progress=progress), progress=progress)


def _run(job: Job, directory: RunDir, view: View, *, progress: bool) -> Run:
    try:
        with importable(directory.path):
            result = run_job(job, directory, view)
    finally:
        view.close()
    return ended(result, progress=progress)


def _check_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError(
            "fit: call it from the main thread: the roles are children of the thread that starts them, to which Ctrl-C "
            "comes"
        )

"""`bagpipe.fit`: train a model on rows or files from a Python program, in the same way as `bagpipe run`.

A frame is written into the run directory once; the job is an ordinary document, which lies there too; the roles are
child processes of this one. So a run that was begun here can be resumed, evaluated and exported by the command line.
"""

import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bagpipe.config import yaml_lines
from bagpipe.config.document import Job
from bagpipe.config.load import JobFile, absolute_paths, job_file_from
from bagpipe.data.suggest import suggest_job
from bagpipe.errors import ConfigError
from bagpipe.interactive.frames import is_path, write_frame
from bagpipe.interactive.progress import choose_view
from bagpipe.interactive.run import Run, ended
from bagpipe.interactive.settings import columns_section, over, spec_of
from bagpipe.interactive.user_model import NamedModel, importable, name_model
from bagpipe.local.progress import View
from bagpipe.local.run import run_job
from bagpipe.local.rundir import RunDir

if TYPE_CHECKING:
    from torch import nn

INPUT = "input"
"""Folder of a run directory that holds the rows it was given; `input-test` those for tests."""
SOURCE = "bagpipe.fit"


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
        test: data for evaluation, all of it, given as `data` is; None: the setting `test_fraction` says which part.
        columns: what the columns are (`data.columns`), for instance
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
            `test_fraction=0.1`; see docs/settings.md.

    Raises:
        ConfigError: a setting, the model or the columns will not do.
        DataError: the data cannot be read, or has none of what the columns say.
        PeerLost, StorageError: the run failed for a reason that may pass; `Run(run_dir).resume()` goes on with it.
    """
    named = _model(model, model_args or {})
    asked = {**settings, "epochs": epochs, "trainers": trainers}
    if on == "cluster":
        from bagpipe.interactive.cluster import submit

        document = _document(name, named, data, test, columns, label, asked)
        return submit(document, data, test, named, namespace=namespace, context=context)
    if str(on) != "here" or namespace or context:
        raise ConfigError(f"fit: on={on!r}: expected 'here' or 'cluster'; namespace and context belong to a cluster")
    _check_thread()
    where = None if run_dir is None else Path(run_dir)
    opened = RunDir.create(where) if where is not None else RunDir.create_default(name, datetime.now())
    with opened as directory:
        try:
            data, test = (_as_path(rows, directory, what) for rows, what in ((data, "data"), (test, "test")))
            job = absolute_paths(_document(name, named, data, test, columns, label, asked).job)
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


def _model(model: Any, arguments: Mapping[str, Any]) -> NamedModel:
    if model is None:
        if arguments:
            raise ConfigError("model_args: which model takes them? give model as well")
        return NamedModel({})
    if isinstance(model, Mapping):
        section = spec_of({"model": model})["model"]
        return NamedModel({**section, **({"args": dict(arguments)} if arguments else {})})
    return name_model(model, arguments)


def _as_path(rows: Any, directory: RunDir, what: str) -> Any:
    """Rows as the folder of the run directory into which they were written; anything else as it is."""
    if rows is None or isinstance(rows, Mapping) or is_path(rows):
        return rows
    folder = directory.path / (INPUT if what == "data" else f"{INPUT}-{what}")
    return write_frame(rows, folder, what).folder


def _document(
    name: str, named: NamedModel, data: Any, test: Any, columns: Any, label: str | None, settings: Mapping[str, Any]
) -> JobFile:
    """The job, checked, with paths as they were given."""
    spec = spec_of({**settings, "data": data if isinstance(data, Mapping) else {}})
    spec = over({"data": {**_given("path", data), **_given("test", test)}}, spec)
    if named.section:
        spec["model"] = dict(named.section)
    if columns is not None:
        spec = over(spec, {"data": {"columns": columns_section(columns)}})
    elif not isinstance(data, Mapping):
        spec = _suggested(data, label, spec, named=bool(named.section), test=test is not None)
    if label is not None and (columns is not None or isinstance(data, Mapping)):
        raise ConfigError("label: with columns, the label is the one that they name; leave it out")
    return job_file_from({"metadata": {"name": name}, "spec": spec}, SOURCE)


def _given(setting: str, data: Any) -> dict[str, Any]:
    if data is None or isinstance(data, Mapping):
        return {}
    return {setting: [str(one) for one in data] if isinstance(data, list | tuple) else str(data)}


def _suggested(data: Any, label: str | None, spec: Mapping[str, Any], *, named: bool, test: bool) -> dict[str, Any]:
    """The settings that `bagpipe init` suggests for this data, under those that were given."""
    paths = data if isinstance(data, list | tuple) else [data]
    text = suggest_job(str(paths[0]), label=label).text
    found: dict[str, Any] = yaml_lines.parse(text, SOURCE).value["spec"]
    found.pop("trainers", None)  # The device is whatever there is here.
    if named:
        found.pop("model", None)
    if test:
        found["data"] = {k: v for k, v in found["data"].items() if k not in ("testFraction", "splitBy")}
    made: dict[str, Any] = over(found, spec)
    if "steps" in spec and "epochs" not in spec:
        made.pop("epochs", None)
    return made

"""Makes a job from Python arguments: the rows become a path, the columns and settings a document."""

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bagpipe.config import yaml_lines
from bagpipe.config.load import JobFile, job_file_from
from bagpipe.data.suggest import suggest_job
from bagpipe.errors import BagpipeError, ConfigError
from bagpipe.interactive.frames import is_path, naming_frames, refuse_parts, warn_of_index, write_frame
from bagpipe.interactive.settings import columns_section, over, plain, spec_of
from bagpipe.interactive.user_model import NamedModel, name_model
from bagpipe.local.rundir import RunDir

INPUT = "input"
"""Folder of a run directory that holds the rows it was given; `input-test` those for tests."""
SOURCE = "the job of this program"
"""The job's name in messages, where a file's path would stand."""


def model_of(model: Any, arguments: Mapping[str, Any]) -> NamedModel:
    """The `model` section from `model` and `model_args`; empty where neither is given.

    Raises:
        ConfigError: as `name_model`.
    """
    if model is None:
        if arguments:
            raise ConfigError("model_args: which model takes them? give model as well")
        return NamedModel({})
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"model_args: expected a dict of the constructor's arguments, found {arguments!r:.60}")
    given = plain(arguments, "model_args")
    if isinstance(model, Mapping):
        own = model.get("entrypoint")
        named = name_model(own, {}) if callable(own) else NamedModel({})
        section = spec_of({"model": {**model, **named.section}})["model"]
        return NamedModel({**section, **({"args": given} if given else {})}, named.modules)
    return name_model(model, given)


def is_share(test: Any) -> bool:
    """Whether what is given as test data is a share of the data, `0.2`."""
    return isinstance(test, int | float) and not isinstance(test, bool)


def as_path(rows: Any, directory: RunDir, what: str) -> Any:
    """Write rows into a folder of the run directory, and return the folder; a path is returned as it is.

    Raises:
        DataError, StorageError: as `write_frame`.
    """
    refuse_parts(rows, what)
    if rows is None or isinstance(rows, Mapping) or is_path(rows) or (what == "test" and is_share(rows)):
        return rows
    warn_of_index(rows, what)
    folder = directory.path / (INPUT if what == "data" else f"{INPUT}-{what}")
    return write_frame(rows, folder, what).folder


@contextmanager
def later_rows(directory: Path, rows: Any) -> Iterator[Any]:
    """Rows for a run that goes on, as a path: written into its directory, and removed again if the body refuses them.

    Raises:
        DataError, StorageError: as `write_frame`.
    """
    if rows is None or is_path(rows):
        yield rows
        return
    warn_of_index(rows, "data")
    taken = (directory / f"{INPUT}-{number}" for number in itertools.count(2))
    folder = next(path for path in taken if not path.exists())
    try:
        written = write_frame(rows, folder).folder
        with naming_frames({written: "the frame"}):
            yield str(written)
    except BagpipeError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def frames_in(directory: Path) -> dict[Path, str]:
    """Names for messages of the rows that `as_path` writes, by their folder."""
    return {directory / f"{INPUT}-test": "the test frame", directory / INPUT: "the frame"}


def compose(
    name: str,
    named: NamedModel,
    data: Any,
    test: Any,
    columns: Any,
    label: str | None,
    settings: Mapping[str, Any],
    tell: Callable[[str], None] = lambda note: None,
) -> JobFile:
    """The job, checked, with paths as they were given.

    Args:
        tell: called with a line for each guess about the data that a user should know of.

    Raises:
        ConfigError: a setting, the columns or the label are wrong.
        DataError: the data cannot be read.
    """
    if label is not None and not isinstance(label, str):
        raise ConfigError(
            f"label: expected the name of one column, found {label!r:.60}; name several in columns={{'labels': [...]}}"
        )
    if is_share(test):
        if "test_fraction" in settings:
            raise ConfigError(
                f"test: {test:g} is the share that test_fraction={settings['test_fraction']!r} is; give one"
            )
        settings, test = {**settings, "test_fraction": test}, None
    spec = spec_of({**settings, "data": data if isinstance(data, Mapping) else {}})
    spec = over({"data": {**_given("path", data), **_given("test", test)}}, spec)
    if named.section:
        spec["model"] = dict(named.section)
    if columns is not None:
        spec = over(spec, {"data": {"columns": columns_section(columns)}})
    elif data is None:
        raise ConfigError("data: missing; give rows, a path, or a dict of spec.data")
    elif not isinstance(data, Mapping):
        spec = _suggested(data, label, spec, named=bool(named.section), test=test is not None, tell=tell)
    if label is not None and (columns is not None or isinstance(data, Mapping)):
        raise ConfigError("label: with columns, the label is the one that they name; leave it out")
    return job_file_from({"metadata": {"name": name}, "spec": spec}, SOURCE)


def _given(setting: str, data: Any) -> dict[str, Any]:
    if data is None or isinstance(data, Mapping):
        return {}
    return {setting: [str(one) for one in data] if isinstance(data, list | tuple) else str(data)}


def _suggested(
    data: Any, label: str | None, spec: Mapping[str, Any], *, named: bool, test: bool, tell: Callable[[str], None]
) -> dict[str, Any]:
    """The settings that `bagpipe init` suggests for this data, replaced by those that were given."""
    paths = data if isinstance(data, list | tuple) else [data]
    suggestion = suggest_job(str(paths[0]), label=label, python=True)
    parts_given = test or {"test", "testFraction", "splitBy"} & set(spec.get("data", {}))
    for note in suggestion.notes:
        if not (parts_given and note in suggestion.split_notes):
            tell(note)
    found: dict[str, Any] = yaml_lines.parse(suggestion.text, SOURCE).value["spec"]
    found.pop("trainers", None)  # The device is whatever there is here.
    if named:
        found.pop("model", None)
    if test:
        found["data"] = {k: v for k, v in found["data"].items() if k not in ("testFraction", "splitBy")}
    made: dict[str, Any] = over(found, spec)
    if "steps" in spec and "epochs" not in spec:
        made.pop("epochs", None)
    return made

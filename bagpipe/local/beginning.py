"""Checks a job by its file and the header of its data, before any role starts.

The roles find the same mistakes, but only after they have prepared the data. Nothing here reads more of the data than
the beginning of the first file of each part, and nothing reads data behind a URL.
"""

from collections.abc import Iterator

from bagpipe.config.document import DataConfig, JobSpec
from bagpipe.config.parts import paths_in
from bagpipe.config.paths import any_url
from bagpipe.config.recipe import Schedule
from bagpipe.data.column_cells import label_source
from bagpipe.data.column_files import table_format, table_schema
from bagpipe.data.columns import all_columns, check_columns, kinds_in, wanted_columns
from bagpipe.data.files import find_files
from bagpipe.data.formats import check_prepared, is_prepared, settings_for_raw
from bagpipe.errors import ConfigError
from bagpipe.local.model_source import check_model_source
from bagpipe.metrics.validations import check_watched_figures
from bagpipe.oracle.sizing.steps import settle_schedules


def check_document(spec: JobSpec, *, elsewhere: bool = False) -> None:
    """Refuse a job whose document alone shows that its run would fail; reads no data.

    Args:
        elsewhere: the job runs on another machine, which may have modules that this one has not.

    Raises:
        ConfigError: the model cannot be built, a schedule does not fit the job's steps, or a figure is one of no
            evaluation.
        UserCodeError: the model's file is no Python.
    """
    check_model_source(spec.model, elsewhere=elsewhere)
    check_schedules(spec)
    if spec.data.columns is not None:
        check_watched_figures(spec, [label.name for label in spec.data.columns.labels])


def check_beginning(spec: JobSpec) -> None:
    """Refuse a job whose document or data shows that its run would fail.

    Raises:
        ConfigError: as `check_document` says, or a column is not in the data.
        DataError: a file of the data is not there or cannot be read.
        UserCodeError: the model's file is no Python.
    """
    check_document(spec)
    check_header(spec.data)


def check_schedules(spec: JobSpec) -> None:
    """Refuse schedules that leave no step after the warm-up, or end before the job does, where it tells its steps.

    Raises:
        ConfigError: names the setting.
    """
    if spec.steps is None:
        return
    settle_schedules(spec, spec.steps)
    for where, schedule in _schedules(spec):
        total = schedule.args.get("total_steps")
        # The class is asked for the rates of the steps 0 to steps - 1, and has rates for steps up to its own total.
        if schedule.name == "OneCycleLR" and isinstance(total, int) and spec.steps - 1 > total:
            raise ConfigError(
                f"{where}.args: OneCycleLR ends after total_steps {total}, but the job has {spec.steps} steps; "
                f"set total_steps: {spec.steps}"
            )


def _schedules(spec: JobSpec) -> Iterator[tuple[str, Schedule]]:
    yield "spec.optimizer.schedule", spec.optimizer.schedule
    yield "spec.embedding.optimizer.schedule", spec.embedding.optimizer.schedule
    for number, override in enumerate(spec.embedding.overrides):
        if override.optimizer.schedule is not None:
            yield f"spec.embedding.overrides[{number}].optimizer.schedule", override.optimizer.schedule


def check_header(data: DataConfig, *, trained: bool = False) -> None:
    """Refuse columns that the first file of a part does not have, or has of a type that they cannot be.

    Args:
        trained: a model was trained on these columns, so a missing column is a mistake of the data, not of the job.

    Raises:
        ConfigError: names the column, the file and the nearest column that is there; or the data is prepared, and the
            job says how raw data is read.
        DataError: a path does not exist, or its first file is no table; where a model was trained, also the former.
    """
    if data.format == "synthetic":
        return
    if not trained:
        check_reading(data)
    if data.columns is None:
        return
    for paths in (data.path, paths_in(data.validation), paths_in(data.test)):
        if not paths or any_url(paths):
            continue
        first = next((file for file in find_files(paths) if file.size), None)
        if first is None or is_prepared(first):
            continue
        schema = table_schema(first, table_format(first, data.format), data.columns.header)
        by_time = [data.columns.time] if data.split_by == "time" and data.columns.time else []
        names = [*wanted_columns(data.columns, labelled=True), *by_time]
        labels = [label_source(label) for label in data.columns.labels]
        check_columns(first.name, schema, names, all_columns(data.columns), trained=trained, labels=labels)
        if not trained:
            kinds_in(first.name, data.columns, schema, ids=data.encoding == "ids")


def check_reading(data: DataConfig) -> None:
    """Refuse settings for raw data over prepared data. Data of its own for tests is read as the training data is.

    Raises:
        ConfigError: names the settings, and what takes them back.
        DataError: a path does not exist.
    """
    if not settings_for_raw(data) or not data.path or any_url(data.path):
        return
    first = next((file for file in find_files(data.path) if file.size), None)
    if first is not None and is_prepared(first):
        check_prepared(data)

"""Scores of raw rows by a checkpoint or by an export, whichever a folder is."""

import os
from collections.abc import Sequence
from pathlib import Path

from bagpipe.config.paths import is_url
from bagpipe.data.files import find_files
from bagpipe.errors import BagpipeError, ConfigError, DataError
from bagpipe.export.write import is_export, load_export
from bagpipe.trainer import predict as by_checkpoint
from bagpipe.trainer.predict import Predicted, write_scores


def predict(where: Path, path: str, out: Path, *, keep: Sequence[str] = (), file_format: str = "auto") -> Predicted:
    """As `bagpipe.trainer.predict.predict`; `where` may be an export too, which reads local files only.

    Raises:
        ConfigError: `out` is one of the files that are read.
        ConfigError, DataError: as for a checkpoint; also where a format is stated for an export, which knows its own,
            or its data is behind a URL.
    """
    if not is_url(path) and any(os.path.realpath(file.name) == os.path.realpath(out) for file in find_files(path)):
        raise ConfigError(f"{out}: holds the rows that are to be scored; choose another name")
    if not is_export(where):
        return by_checkpoint.predict(where, path, out, keep=keep, file_format=file_format)
    if file_format != "auto":
        raise ConfigError(f"--format: {where} is an export, which reads what its model was trained on; leave it out")
    if is_url(path):
        raise ConfigError(f"{path}: an export reads files of this machine only; fetch the data, or give the run")
    model = load_export(where)
    try:
        rows = write_scores(model.score_file(path, keep), out)
    except BagpipeError:
        raise
    except Exception as error:  # The export's code is its own package, and so are its errors; a fault is raised on.
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        raise (ConfigError if code == ConfigError.exit_code else DataError)(str(error)) from None
    return Predicted(rows, 0, tuple(f"score_{name}" for name in model.labels))

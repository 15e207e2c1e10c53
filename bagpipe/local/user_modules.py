"""Finds the user's own models, figures and rates: beside the job file and in the current folder, after all others.

The job file of a role lies in its run directory, so modules beside it are found too. A run directory notes the folders
of the command that began it, so that a later command finds the run's modules from any current folder.

Python puts the current folder before its own modules when it runs `-m bagpipe`; a `queue.py` that happens to lie there
would then replace the standard one in every role. So the roles start without it (`-P`), and these folders come last.
"""

import json
import os
import sys
from pathlib import Path

from bagpipe.config.document import JobSpec
from bagpipe.config.metrics import parse_metric
from bagpipe.lowlevel.atomic_files import write_whole
from bagpipe.lowlevel.process_life import current_folder
from bagpipe.lowlevel.strict_json import encode

FOLDERS = "BAGPIPE_MODULE_FOLDERS"
"""Environment variable by which `bagpipe run` tells its roles where the job file lies."""
NOTED = "module-folders.json"
"""In a run directory: where the command that began the run found modules of the user's."""
OWN_FACTOR = "lr_lambda"
"""The argument of a schedule, also of one among several, that names a function of the user's."""


def offer_beside(job_file: Path) -> None:
    """Let this process and its roles find modules that lie beside `job_file`, and where its run once found them."""
    folder = job_file.absolute().parent
    os.environ[FOLDERS] = os.pathsep.join(dict.fromkeys([str(folder), *noted_folders(folder)]))
    offer_user_modules()


def offer_user_modules(*more: Path) -> None:
    """Make the told folders, `more` and the current one importable, last."""
    for folder in (*told_folders(), *map(str, more), current_folder()):
        if folder is not None and folder not in sys.path:
            sys.path.append(folder)


def told_folders() -> list[str]:
    """The folders that the process which started this one has named."""
    return [folder for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]


def names_modules(spec: JobSpec) -> bool:
    """Whether the job names a module: of a model, a figure or a schedule of the user's own."""
    rows, dense = spec.embedding, spec.optimizer
    schedules = [dense.schedule, rows.optimizer.schedule, *(one.optimizer.schedule for one in rows.overrides)]
    return (
        spec.model.entrypoint is not None
        or any(parse_metric(name).own for name in spec.evaluation.metrics)
        or any(schedule is not None and OWN_FACTOR in encode(schedule.args) for schedule in schedules)
    )


def note_folders(run_dir: Path) -> None:
    """Note in the run directory where modules are found now.

    Raises:
        StorageError: it cannot be written.
    """
    folders = [folder for folder in dict.fromkeys([*told_folders(), current_folder()]) if folder is not None]
    write_whole(run_dir / NOTED, encode(folders).encode())


def noted_folders(run_dir: Path) -> list[str]:
    """The folders that `note_folders` wrote; empty if it wrote none."""
    try:
        found = json.loads((run_dir / NOTED).read_bytes())
    except (OSError, ValueError):
        return []
    return [folder for folder in found if isinstance(folder, str)] if isinstance(found, list) else []

"""Where models of your own are found: in the folder of the job file and in the current one, after everything installed.

The job file of a role lies in its run directory, so what was written there beside it is found too.

Python puts the current folder before its own modules when it runs `-m bagpipe`; a `queue.py` that happens to lie there
would then stand for the standard one in every role. So the roles start without it (`-P`), and these folders come last.
"""

import os
import sys
from pathlib import Path

FOLDERS = "BAGPIPE_MODULE_FOLDERS"
"""Environment variable by which `bagpipe run` tells its roles where the job file lies."""


def offer_beside(job_file: Path) -> None:
    """Let the roles of this process find modules that lie beside `job_file`."""
    os.environ[FOLDERS] = str(job_file.absolute().parent)
    offer_user_modules()


def offer_user_modules(*more: Path) -> None:
    """Make the told folders, `more` and the current one importable, last."""
    told = os.environ.get(FOLDERS, "").split(os.pathsep)
    current = os.getcwd()
    for folder in (*filter(None, told), *map(str, more), current):
        if folder not in sys.path:
            sys.path.append(folder)

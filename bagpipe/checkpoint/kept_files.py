"""The files that a folder of checkpoints keeps of the data, and each checkpoint's links to them."""

import os
import shutil
from pathlib import Path

from bagpipe.data.transform_names import INFO_FILE, VOCABULARY_FILE
from bagpipe.lowlevel import crash_points

FOLDER = "transform"
FINGERPRINT_FILE = "fingerprint.json"
FILES = (FINGERPRINT_FILE, INFO_FILE, VOCABULARY_FILE)


def link_kept(root: Path, directory: Path) -> list[str]:
    """Put what `root` keeps into the checkpoint `directory`, by links where the file system has them.

    What else lies in the folder of that name is the user's own, and no part of any checkpoint.

    Returns the names of the files in `directory`; none where nothing was kept.

    Raises:
        OSError: the disk is full or failed.
    """
    kept = [path for name in FILES if (path := root / FOLDER / name).is_file()]
    if not kept:
        return []
    (directory / FOLDER).mkdir(exist_ok=True)
    names = []
    for path in kept:
        target = directory / FOLDER / path.name
        crash_points.passed("link of a kept file")
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:  # No links here (some network file systems): a copy.
            shutil.copyfile(path, target)
        names.append(f"{FOLDER}/{path.name}")
    return names

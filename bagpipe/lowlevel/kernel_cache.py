"""Compiled kernels that came with an image, handed to this process before it would compile its own.

numba keeps what it compiled in `$NUMBA_CACHE_DIR` and insists on writing there, which an image's own
files do not allow. So an image brings its kernels in `$BAGPIPE_KERNELS` and each container copies them
once, a few megabytes; without them every role compiles for up to half a minute at its first step.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

SOURCE, TARGET = "BAGPIPE_KERNELS", "NUMBA_CACHE_DIR"


def unpack_kernels(environment: Mapping[str, str] = os.environ) -> None:
    """Copy `$BAGPIPE_KERNELS` to `$NUMBA_CACHE_DIR` if that does not exist yet; a disk that refuses costs only time."""
    source, target = environment.get(SOURCE), environment.get(TARGET)
    if not source or not target or Path(target).exists():
        return
    try:
        # Under another name first: a second process of the container must not see half of it.
        part = Path(f"{target}.{os.getpid()}")
        shutil.copytree(source, part)
        part.rename(target)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)

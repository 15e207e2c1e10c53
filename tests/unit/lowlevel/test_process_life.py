"""A process ends at once, and nothing that it said or had begun is lost; while modules load, nothing is collected."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bagpipe.lowlevel.process_life import loading

CODE = """
import sys, threading, time
from bagpipe.lowlevel.process_life import leave

class Costly:
    def __del__(self):
        print("taken apart")

costly = Costly()
costly.itself = costly
print("said", end="")
begun = threading.Event()
threading.Thread(target=lambda: begun.wait(60) and print(" and done", end="")).start()
threading.Thread(target=begun.set).start()
leave(int(sys.argv[1]))
"""


def ended(code: int, **to: object) -> "subprocess.CompletedProcess[str]":
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-c", CODE, str(code)], env=buffered, text=True, check=False, **to)


def test_a_process_leaves_with_everything_said_and_nothing_taken_apart() -> None:
    """Buffered output arrives, threads end first, the code is the one given, and no object is destroyed."""
    left = ended(65, capture_output=True)
    assert (left.returncode, left.stdout, left.stderr) == (65, "said and done", "")


@pytest.mark.parametrize(("code", "expected"), [(0, 75), (78, 78)])
def test_output_that_cannot_be_written_is_no_success(code: int, expected: int) -> None:
    """On a full disk the command says so, and only success becomes a failure of the disk."""
    with Path("/dev/full").open("w") as full:
        left = ended(code, stdout=full, stderr=subprocess.PIPE)
    assert left.returncode == expected
    assert left.stderr == "error: standard output cannot be written: No space left on device\n"


def test_nothing_is_collected_while_modules_load() -> None:
    """It is on again afterwards, also where an import failed, and stays off where it was off before."""
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), loading():
        import bagpipe.nothing  # noqa: F401
    assert gc.isenabled()
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()

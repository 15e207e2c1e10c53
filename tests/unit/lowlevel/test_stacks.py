"""A start that takes too long leaves every thread's stack in the log."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bagpipe.config.document import Job
from bagpipe.lowlevel import stacks
from bagpipe.testing.threads import run_in_threads

STUCK = """
import threading
from bagpipe.lowlevel import stacks

def another_that_waits():
    lock.acquire()

lock = threading.Lock()
lock.acquire()
threading.Thread(target=another_that_waits, daemon=True).start()
stacks.watch_start(0.1)
lock.acquire()
"""
CRASH = """
import os, signal
from bagpipe.lowlevel import stacks
stacks.tell_of_crashes()
os.kill(os.getpid(), signal.SIGSEGV)
"""
SPEC = {
    "data": {"format": "synthetic", "synthetic": {"examples": 40, "tableSizes": [7]}},
    "batchSize": 20,
    "trainers": {"device": "cpu"},
}


def test_every_threads_stack_is_told_in_time() -> None:
    """Of a process whose threads wait for a lock for ever: while it hangs, not at its end."""
    with subprocess.Popen([sys.executable, "-c", STUCK], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = []
        while not told or "in <module>" not in told[-1]:
            told.append(process.stderr.readline())
            assert told[-1], told
        assert process.poll() is None, "it hangs"
        process.kill()
    assert "Timeout" in told[0] and any("in another_that_waits" in line for line in told)


def test_a_crash_leaves_the_stack() -> None:
    """Of a signal that Python has no say in."""
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, check=False)
    assert "Segmentation fault" in done.stderr and 'File "<string>", line 5' in done.stderr


def test_a_trainer_is_watched_up_to_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time begins anew once every role is there, and the watch ends with the first step; later steps know none."""
    told: list[object] = []
    monkeypatch.setattr(stacks.faulthandler, "dump_traceback_later", lambda seconds, file: told.append(seconds))
    monkeypatch.setattr(stacks.faulthandler, "cancel_dump_traceback_later", lambda: told.append("over"))
    stacks.watch_start(600.0)
    run_in_threads(msgspec.convert({"spec": SPEC}, Job), tmp_path / "run")
    assert told == [540.0, 540.0, "over"]

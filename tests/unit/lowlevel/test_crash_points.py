"""Crash points are counted, kill the right process once, and do nothing unless they are switched on."""

import os
import subprocess
import sys
from pathlib import Path

from bagpipe.lowlevel.crash_points import KILLED, KILLED_THEN, VARIABLE

PROGRAM = """
from bagpipe.lowlevel import crash_points
crash_points.arm("server 1")
for number in range(4):
    crash_points.passed(f"store {number}")
    print(number, flush=True)
"""


def run(setting: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {VARIABLE: setting},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.split()


def test_points_are_counted_by_name(tmp_path: Path) -> None:
    """With a folder alone every point is written down, and nothing is killed."""
    assert run(str(tmp_path)) == (0, ["0", "1", "2", "3"])
    assert (tmp_path / "server 1").read_text().split("\n")[:-1] == [f"store {number}" for number in range(4)]


def test_the_named_process_dies_before_its_point_once(tmp_path: Path) -> None:
    """SIGKILL comes before what the point is named after, and the next process lives; paths may have spaces."""
    folder = tmp_path / "a b"
    folder.mkdir()
    assert run(f"{folder} server 1 #3") == (-9, ["0", "1"])
    assert (folder / KILLED).read_text().startswith("store 2 ")
    assert run(f"{folder} server 1 #3") == (0, ["0", "1", "2", "3"])


def test_points_may_be_counted_by_their_name(tmp_path: Path) -> None:
    """Then those of other names do not count: the number is the same however many messages come between."""
    assert run(f"{tmp_path} server 1 store 2 #1") == (-9, ["0", "1"])
    assert run(f"{tmp_path} server 1 store 2 #2") == (0, ["0", "1", "2", "3"])


def test_a_second_death_follows_the_first(tmp_path: Path) -> None:
    """The role behind ` then` dies at that point since the first death; it may be the first one's successor."""
    setting = f"{tmp_path} server 1 #3 then server 1 #2"
    assert run(setting) == (-9, ["0", "1"])
    assert run(setting) == (-9, ["0"])
    assert (tmp_path / KILLED_THEN).read_text().startswith("store 1 ")
    assert run(setting) == (0, ["0", "1", "2", "3"])


def test_a_second_death_waits_for_the_first(tmp_path: Path) -> None:
    """Points that a role passed before the other one's death do not count."""
    assert run(f"{tmp_path} oracle #1 then server 1 #1") == (0, ["0", "1", "2", "3"])
    (tmp_path / KILLED).touch()
    assert run(f"{tmp_path} oracle #1 then server 1 #1") == (-9, [])


def test_other_roles_and_no_setting_pass(tmp_path: Path) -> None:
    """Only the role that is named dies, and without a setting nothing happens."""
    assert run(f"{tmp_path} server 0 #1")[0] == 0
    assert run("") == (0, ["0", "1", "2", "3"])

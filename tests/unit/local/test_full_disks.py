"""A run on a disk that has no room: it ends once, with the place, and goes on only where there is more room."""

from pathlib import Path

import pytest
from fake_roles import Runner, job_with, started

FULL_DISK = "/x/rows: no room for 32 KiB of more rows (No space left on device); free space"


@pytest.mark.parametrize("who", ["server 0", "trainer 0"])
def test_a_disk_that_stays_full_is_not_tried_again(
    supervise: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Neither the role alone nor a new attempt finds more room; the line has the place, what is free and the remedy."""
    monkeypatch.setattr("bagpipe.local.room.free_bytes", lambda folder: 36 << 10)
    follows = "ready()\nfail('trainer 0: its connection is gone', 75)"
    outcome, view = supervise({who: f"ready()\nfail({FULL_DISK!r}, 75)", "oracle": follows}, job_with(backoff=3))
    assert (outcome.code, outcome.attempts, view.notes) == (75, 1, [])
    assert started(tmp_path, who) == 1 and started(tmp_path, who, attempt=1) == 0
    assert outcome.error == (
        f"{who} ended with exit code 75 and {tmp_path / 'run'} has 36 KiB of room left, no more than this attempt "
        f"began with: {FULL_DISK}"
    )


def test_a_disk_that_has_more_room_is_tried_again(
    supervise: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has filled it is gone: the run goes on, within backoffLimit as ever."""
    monkeypatch.setattr("bagpipe.local.room.free_bytes", lambda folder: len(list(tmp_path.glob("trainer 0.*"))))
    outcome, view = supervise({"trainer 0": f"ready()\nfail({FULL_DISK!r}, 75)"}, job_with(backoff=2))
    assert (outcome.code, outcome.attempts, len(view.notes)) == (75, 3, 2)
    assert outcome.error.endswith(f"backoffLimit allows 2 new attempts: {FULL_DISK}")


def test_a_disk_so_full_that_no_log_says_so(supervise: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role that ends with 75 and without a word, on a disk without room, has ended for want of it."""
    monkeypatch.setattr("bagpipe.local.room.free_bytes", lambda folder: 4096)
    outcome, _ = supervise({"trainer 0": "ready()\nsys.exit(75)"}, job_with(backoff=3))
    assert (outcome.code, outcome.attempts) == (75, 1)
    assert "has 4 KiB of room left" in outcome.error


def test_what_went_well_is_never_the_reason(supervise: Runner, tmp_path: Path) -> None:
    """A log that takes no further line ends in progress; where the oracle's names no reason either, none is made up."""
    progress = "2026-11-30 09:01:47,942 trainer 0 INFO bagpipe.trainer.checkpointer: checkpoint of step 10"
    ends = f"ready()\nprint({progress!r}, flush=True)\nsys.exit(78)"
    outcome, view = supervise({"trainer 0": ends, "oracle": "ready()\nsys.exit(0)"}, job_with(backoff=3))
    assert (outcome.code, outcome.attempts) == (78, 1)
    assert outcome.error.startswith("trainer 0 ended with exit code 78: its log does not say why (log: ")
    assert view.notes == [f"  trainer 0 | {progress}"]


def test_a_role_whose_log_takes_no_line_is_explained_by_the_oracles(supervise: Runner) -> None:
    """Where no file of a role may grow, its log may not either; it has told the oracle why it ends, which says so."""
    why = (
        "trainer 0: dense.safetensors: cannot be written: File too large; raise the limit of a file's size (ulimit -f)"
    )
    until = "import time\nwhile not list(box.glob('{}.0.*')): time.sleep(0.01)\n"
    silent = until.format("oracle") + "ready()\nsys.exit(78)"
    told = "ready()\n" + until.format("trainer 0") + f"fail({why!r}, 78)"
    outcome, view = supervise({"trainer 0": silent, "oracle": told}, job_with(backoff=3))
    assert (outcome.code, outcome.attempts, outcome.error) == (78, 1, why)
    assert view.notes == []

"""What the roles' commands refuse before they join a run."""

import os
from pathlib import Path

import pytest

from bagpipe.cli.main import run_command

JOB = "metadata: {name: j}\nspec: {data: {format: synthetic}, checkpoint: {path: %s}}\n"
ROLES = {"server": ["server", "--shard", "0"], "trainer": ["trainer", "--rank", "0"]}


@pytest.mark.parametrize("role", ROLES)
def test_a_folder_that_cannot_be_written_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    """Not at the first checkpoint, hours later: a volume whose folder belongs to another user, as NFS's often does."""
    job, claim = tmp_path / "job.yaml", tmp_path / "claim"
    claim.mkdir()
    job.write_text(JOB % (claim / "made" / "later"))
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: Path(path) != claim and allowed(path, mode, **more))
    where = ["--job", str(job), "--run-dir", str(tmp_path / "run"), "--oracle", "tcp://127.0.0.1:9"]
    assert run_command([*ROLES[role], *where]) == 78
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"spec.checkpoint.path: {claim / 'made' / 'later'}: user {os.getuid()}" in told
    assert f"cannot write in {claim}; give" in told

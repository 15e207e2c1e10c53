"""Storage that fails a run: checkpoints that are damaged, missing or of another job, and disks that fill."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bagpipe.cli.main import run_command
from bagpipe.testing.command import Ended, bagpipe

RUN = """
apiVersion: bagpipe.dev/v1alpha1
kind: BagpipeJob
spec:
  model: {name: dlrm, bottomMlp: [4], overMlp: [4]}
  data: {format: synthetic, synthetic: {examples: 4000, tableSizes: [3000, 20000], numDense: 2}}
  embedding: {dim: 64}
  batchSize: 1000
  steps: 4
  checkpoint: {every: 2}
  runPolicy: {backoffLimit: 0}
  servers: {storage: memory}
  trainers: {device: cpu}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "job.yaml").write_text(RUN)
    ended = bagpipe("run", str(folder / "job.yaml"), "--run-dir", str(folder / "run"))
    assert ended.code == 0, ended
    return folder / "run"


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoiled."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def shard_file(run: Path) -> Path:
    return next(newest(run).glob("shard-*/*.safetensors"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


SPOILED: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None], str]] = {
    "truncated rows": (shard_file, truncate, "truncated"),
    "flipped bit in the rows": (shard_file, flip, "checksum"),
    "missing rows": (shard_file, Path.unlink, "incomplete"),
    "truncated dense weights": (lambda run: newest(run) / "dense.safetensors", truncate, "truncated"),
    "half a manifest": (lambda run: newest(run) / "manifest.json", truncate, "manifest"),
}


@pytest.mark.parametrize(("which", "spoil", "reason"), SPOILED.values(), ids=SPOILED.keys())
def test_an_unreadable_checkpoint_is_refused_by_name(
    copied: Path,
    capsys: pytest.CaptureFixture[str],
    which: Callable[[Path], Path],
    spoil: Callable[[Path], None],
    reason: str,
) -> None:
    """`checkpoint verify`, and a resumed run with `strict`, name the damaged file, exit 65, and train nothing."""
    path = which(copied)
    spoil(path)
    before = (copied / "metrics.jsonl").read_text().count('"step"')
    code = run_command(["checkpoint", "verify", str(copied)])
    verified = Ended(code, "", capsys.readouterr().err)
    strict = bagpipe("run", "--resume", "--run-dir", str(copied), "--set", "steps=6", "--set", "checkpoint.strict=true")
    for ended in (verified, strict):
        line = ended.one_line()
        assert ended.code == 65, ended
        assert path.name in line
        assert reason in line
    assert (copied / "metrics.jsonl").read_text().count('"step"') == before


def test_a_changed_setting_is_refused_on_resume(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A resumed run would not end as the interrupted one: the setting is named."""
    code = run_command(["run", "--resume", "--run-dir", str(copied), "--set", "embedding.dim=32"])
    assert code == 78
    assert "spec.embedding.dim" in Ended(code, "", capsys.readouterr().err).one_line()


@pytest.mark.parametrize("command", [["checkpoint", "ls"], ["checkpoint", "verify"], ["evaluate"], ["export"]])
def test_a_folder_without_checkpoints_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Commands that read a checkpoint say where they looked."""
    code = run_command([*command, str(tmp_path), *([str(tmp_path / "out")] if command == ["export"] else [])])
    assert code == 65
    assert str(tmp_path) in Ended(code, "", capsys.readouterr().err).one_line()
    assert not (tmp_path / "out").exists()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _four_mebibytes() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))


def test_a_checkpoint_larger_than_a_file_may_be_leaves_none(folder: Path) -> None:
    """The run ends with 78, after one attempt of the three allowed, and says which file and which limit; what was
    written of the checkpoint is not one.
    """
    (folder / "job.yaml").write_text(RUN.replace("backoffLimit: 0", "backoffLimit: 2"))
    ended = bagpipe("run", "job.yaml", "--run-dir", "out", "--set", "embedding.dim=512", limit=_four_mebibytes)
    line = ended.one_line()
    assert ended.code == 78, ended
    assert "checkpoints/step-" in line and "raise the limit of a file's size (ulimit -f), 4,096 KiB here" in line
    assert not list((folder / "out").rglob("manifest.json"))
    assert not (folder / "out" / "summary.json").exists()


WIDE = ("--set", "embedding.dim=256")


@pytest.fixture
def small_disk(tmp_path: Path) -> list[str]:
    """The beginning of a command that runs with 8 MiB of disk at `small`, in a mount namespace of its own."""
    (tmp_path / "small").mkdir()
    script = f"mount -t tmpfs -o size=8m none {tmp_path / 'small'}"
    if subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    return ["unshare", "-m", "sh", "-c", f'{script} && "$@"; code=$?; find {tmp_path / "small"} >&3; exit $code', "sh"]


def test_a_full_disk_under_the_tables_is_told(folder: Path, small_disk: list[str]) -> None:
    """Rows that no longer fit on the disk end the run with 75 and a remedy: no signal, no further attempt."""
    (folder / "job.yaml").write_text(RUN.replace("memory", "file").replace("backoffLimit: 0", "backoffLimit: 3"))
    with (folder / "left").open("w") as left:
        done = subprocess.run(
            # So wide that the first rows do not fit: nothing else can be what fills the disk.
            [*small_disk, sys.executable, "-m", "bagpipe", "run", "job.yaml", "--run-dir", "small/out", *WIDE],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: os.dup2(left.fileno(), 3),
            pass_fds=(3,),
        )
    line = Ended(done.returncode, done.stdout, done.stderr).one_line()
    assert done.returncode == 75, done
    assert "no room for" in line and "KiB free" in line and "no more than this attempt began with" in line
    assert "starts again" not in done.stdout
    assert "manifest.json" not in (folder / "left").read_text()

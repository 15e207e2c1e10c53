"""Killed at any step and resumed, a run ends bit-identical to an uninterrupted one (X3).

Real processes: the supervisor and everything it started get SIGKILL, or one role does, or the run is
asked to stop; whatever happened, the digest of the model at the end is the same. One trial is started as users
start it, the others as forks that have everything loaded (`warm_commands.py`).
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bagpipe.testing.warm_commands import WarmCommand, run_warm, warm_starter

JOB = """
apiVersion: bagpipe.dev/v1alpha1
kind: BagpipeJob
metadata: {name: resume}
spec:
  model: {name: dlrm, bottomMlp: [16], overMlp: [16]}
  data:
    format: synthetic
    testFraction: 0.1
    shuffle: after-first
    synthetic: {examples: 2000, tableSizes: [50, 4000, 7, 300], multiHot: 2}
  embedding: {dim: 8, optimizer: {name: adagrad, lr: 0.05}}
  optimizer: {name: adam, lr: 0.01}
  batchSize: 64
  epochs: 2
  lookahead: 16
  seed: 3
  logEvery: 1
  checkpoint: {every: 8, keep: 2}
  servers: {replicas: 2}
  trainers: {replicas: 2, device: cpu}
"""
STEPS = 58  # ceil(1800 / 64) * 2
SLOW = {"BAGPIPE_DELAY_SECONDS": "0.03"}
"""Holds messages back so that there is time to kill at a chosen step."""


Command = subprocess.Popen[bytes] | WarmCommand


def bagpipe(*arguments: str, warm: bool = True, **extra: str) -> Command:
    """The command line; nobody reads what it prints.

    Args:
        warm: as a fork, else as a user starts it.
    """
    if warm:
        return warm_starter().start(arguments, environment=extra)
    command = [sys.executable, "-m", "bagpipe.cli.main", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | extra
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=environment)


def finish(process: Command, code: int = 0) -> None:
    assert process.wait() == code


def steps_done(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return max((r["step"] for r in records if "loss" in r), default=0)


def wait_for_step(process: Command, run_dir: Path, step: int) -> None:
    while steps_done(run_dir) < step:
        assert process.poll() is None, f"it ended with {process.returncode}"
        process_wait(process, 0.02)


def process_wait(process: Command, seconds: float) -> None:
    """Wait for the process or for so long, whichever is first."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def role_of(pid: int) -> str:
    """A fork has the role's name for its own."""
    words = [Path(f"/proc/{pid}/comm").read_text().strip(), *Path(f"/proc/{pid}/cmdline").read_text().split("\0")]
    return next((w for w in words if w in ("oracle", "server", "trainer")), "?")


def gone(pids: list[int]) -> bool:
    """Whether no such process runs, waiting a little for the kernel."""
    deadline = time.monotonic() + 60
    never = subprocess.Popen(["sleep", "100"])
    try:
        while any(Path(f"/proc/{p}").exists() and "Z" not in stat_of(p) for p in pids):
            if time.monotonic() > deadline:
                return False
            process_wait(never, 0.05)
        return True
    finally:
        never.kill()
        never.wait()


def stat_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resume") / "job.yaml"
    path.write_text(JOB)
    return path


@pytest.fixture(scope="module")
def uninterrupted(job: Path) -> dict[str, object]:
    """The summary of a run that nobody disturbed."""
    finish(bagpipe("run", str(job), "--run-dir", str(job.parent / "whole")))
    summary: dict[str, object] = json.loads((job.parent / "whole" / "summary.json").read_text())
    assert summary["steps"] == STEPS
    return summary


def same(summary_of: Path, expected: dict[str, object]) -> None:
    summary = json.loads((summary_of / "summary.json").read_text())
    assert summary["modelDigest"] == expected["modelDigest"]
    assert summary["loss"] == expected["loss"]
    assert summary["evaluation"] == expected["evaluation"]


@pytest.mark.parametrize("trial", range(2))
def test_sigkill_to_all(job: Path, uninterrupted: dict[str, object], tmp_path: Path, trial: int) -> None:
    """The supervisor is killed at a random step, its roles die with it, and the resumed run ends the same."""
    run_dir = tmp_path / "run"
    step = random.Random(trial).randrange(3, 45)
    process = bagpipe("run", str(job), "--run-dir", str(run_dir), warm=trial > 0, **SLOW)
    wait_for_step(process, run_dir, step)
    roles = children(process.pid)
    assert sorted(map(role_of, roles)) == ["oracle", "server", "server", "trainer", "trainer"]
    process.kill()
    process.wait()
    assert gone(roles)
    finish(bagpipe("run", "--resume", "--run-dir", str(run_dir)))
    same(run_dir, uninterrupted)


@pytest.mark.parametrize("role", ["server", "trainer", "oracle"])
def test_one_role_dies(job: Path, uninterrupted: dict[str, object], tmp_path: Path, role: str) -> None:
    """A killed role is replaced without anybody's help, and the run ends the same.

    Servers go on with their files and the oracle replays its plans; only a trainer takes rows along
    that are nowhere else, so only then does everybody go back to the last checkpoint.
    """
    run_dir = tmp_path / "run"
    process = bagpipe("run", str(job), "--run-dir", str(run_dir), **SLOW)
    wait_for_step(process, run_dir, 20)
    victim = next(p for p in children(process.pid) if role_of(p) == role)
    os.kill(victim, signal.SIGKILL)
    finish(process)
    same(run_dir, uninterrupted)
    assert json.loads((run_dir / "summary.json").read_text())["attempts"] == (2 if role == "trainer" else 1)


def test_an_oracle_killed_in_the_evaluation_costs_no_attempt(
    job: Path, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    """The scores that had come in are kept, so another oracle goes on with the same evaluation to the same figures."""
    run_dir = tmp_path / "run"
    options = ("--set", "data.testFraction=0.5", "--set", "epochs=1")
    finish(bagpipe("run", str(job), "--run-dir", str(run_dir), *options))
    whole = json.loads((run_dir / "summary.json").read_text())
    run_dir = tmp_path / "again"
    process = bagpipe("run", str(job), "--run-dir", str(run_dir), *options, **SLOW)
    scores = run_dir / "scores-0.msgpack"
    while not scores.exists() or not scores.stat().st_size:
        assert process.poll() is None
        process_wait(process, 0.01)
    os.kill(next(p for p in children(process.pid) if role_of(p) == "oracle"), signal.SIGKILL)
    finish(process)
    same(run_dir, whole)
    assert json.loads((run_dir / "summary.json").read_text())["attempts"] == 1
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [r["event"] for r in records if "event" in r].count("evaluating") == 2
    steps = [r["step"] for r in records if "loss" in r]
    assert steps == list(range(1, len(steps) + 1))


def test_nothing_is_left_to_train(job: Path, uninterrupted: dict[str, object]) -> None:
    """A finished run says so and stands as it is; fewer steps than are trained are refused in one line."""
    run_dir = job.parent / "whole"
    before = {path: path.read_bytes() for path in run_dir.iterdir() if path.is_file()}
    again = ("run", "--resume", "--run-dir", str(run_dir))
    code, printed, _ = run_warm(job.parent, *again)
    assert code == 0 and f"nothing left to train: the run in {run_dir} is finished at step {STEPS}" in printed
    assert "examples/s" not in printed
    code, _, told = run_warm(job.parent, *again, "--set", "steps=4")
    assert code == 78
    assert told.startswith(f"error: spec.steps: 4, but the run in {run_dir} has trained {STEPS} steps already")
    assert len(told.splitlines()) == 1
    assert {path: path.read_bytes() for path in run_dir.iterdir() if path.is_file()} == before


def test_asked_to_stop(job: Path, uninterrupted: dict[str, object], tmp_path: Path) -> None:
    """SIGTERM ends a run at a checkpoint with exit code 143; resumed on another number of servers, it ends the same."""
    run_dir = tmp_path / "run"
    process = bagpipe("run", str(job), "--run-dir", str(run_dir), **SLOW)
    wait_for_step(process, run_dir, 13)
    roles = children(process.pid)
    process.send_signal(signal.SIGTERM)
    finish(process, code=143)
    assert gone(roles)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert 13 <= summary["steps"] < STEPS
    finish(bagpipe("run", "--resume", "--run-dir", str(run_dir), "--set", "servers.replicas=3"))
    same(run_dir, uninterrupted)

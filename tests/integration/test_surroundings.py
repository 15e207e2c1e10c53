"""The machine around a run: no home, no name, no IPv4, no descriptors, a clock that jumps, a disk that is read-only.

What needs a mount or a network of its own runs in a namespace of its own, which nothing outside sees.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bagpipe.checkpoint.digest import model_digest
from bagpipe.config.load import load_job
from bagpipe.local.ports import loopback
from bagpipe.oracle.service.main import run_oracle
from bagpipe.testing.threads import ThreadedRun, run_in_threads

JOB = """
spec:
  model: {name: dlrm, bottomMlp: [8], overMlp: [8]}
  data: {format: synthetic, testFraction: 0.1, synthetic: {examples: 600, tableSizes: [50, 400, 7]}}
  embedding: {dim: 8}
  batchSize: 32
  steps: 6
  checkpoint: {every: 4}
  servers: {replicas: 1}
  trainers: {replicas: 1, device: cpu}
"""
PACKAGE = Path(__file__).parents[2]
PATHS = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{PACKAGE}", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def digest_of(run: ThreadedRun) -> str:
    return model_digest(run.run_dir / "checkpoints" / "step-00000006")


def in_namespaces(kinds: str, script: str, *command: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in namespaces of its own, after a script that changes them; skip where that is not allowed."""
    if subprocess.run(["unshare", *kinds.split(), "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces need root")
    whole = ["unshare", *kinds.split(), "sh", "-c", f'set -e; {script}; exec "$@"', "sh", *command]
    return subprocess.run(whole, cwd=cwd, text=True, check=False, capture_output=True)


COMPILES = """
import os, numpy as np
from bagpipe.cli.main import run_command
assert run_command(["version"]) == 0
from bagpipe.net.pack_integers import pack
pack(np.arange(9, dtype=np.int32))
cache = os.environ["NUMBA_CACHE_DIR"]
print(os.getuid(), cache, sum(len(files) for _, _, files in os.walk(cache)))
"""


def test_an_unknown_user_without_a_home_compiles_from_a_read_only_installation(tmp_path: Path) -> None:
    """Kernels are kept in a temporary folder of that user's own, and nothing is written into the working directory."""
    (work := tmp_path / "work").mkdir()
    (temporary := tmp_path / "temporary").mkdir()
    read_only = f"mount --bind {PACKAGE} {PACKAGE}; mount -o remount,bind,ro {PACKAGE}"
    environment = ["env", "-i", f"TMPDIR={temporary}", *(f"{name}={value}" for name, value in PATHS.items())]
    user = ["unshare", "-U", "--map-user=12345", "--map-group=12345"]
    done = in_namespaces("-m", read_only, *environment, *user, sys.executable, "-c", COMPILES, cwd=work)
    assert done.returncode == 0, done.stderr
    uid, cache, files = done.stdout.splitlines()[-1].split()
    assert (uid, cache) == ("12345", str(temporary / "bagpipe-kernels-12345")) and int(files) > 0
    assert list(work.iterdir()) == []


def test_a_host_without_ipv4_and_a_process_without_descriptors(job: Path) -> None:
    """Roles listen on ::1, nobody reads or hears the run, and the model is that of any other run."""
    expected = digest_of(run_in_threads(load_job(job), job.parent / "threads"))
    no_ipv4 = "ip link set lo up; ip addr del 127.0.0.1/8 dev lo"
    closed = ["sh", "-c", 'exec <&- >&- 2>&-; exec "$@"', "sh"]
    command = [sys.executable, "-m", "bagpipe", "run", str(job), "--run-dir", "run"]
    done = in_namespaces("-n", no_ipv4, *closed, *command, cwd=job.parent)
    run = job.parent / "run"
    logs = "".join(path.read_text() for path in run.glob("logs/*.log"))
    assert done.returncode == 0, logs
    assert json.loads((run / "summary.json").read_text())["modelDigest"] == expected
    left = {path.name for path in run.iterdir()} | {path.name for path in (run / "checkpoints").iterdir()}
    assert left <= {"attempt", "checkpoints", "data", "job.yaml", "logs", "metrics.jsonl", "report.json", "servers",
                    "summary.json", "last-loss.json", "step-00000004", "step-00000006", "transform"}  # fmt: skip


def test_a_disk_that_cannot_be_written_is_one_line(job: Path) -> None:
    """As the place of a run, before any process is started; exit code 78."""
    (disk := job.parent / "disk").mkdir()
    read_only = f"mount -t tmpfs -o ro none {disk}"
    command = [sys.executable, "-m", "bagpipe", "run", str(job), "--run-dir", str(disk / "run")]
    done = in_namespaces("-m", read_only, *command, cwd=job.parent)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == f"error: --run-dir {disk}/run: cannot be used: Read-only file system; choose another\n"


def test_metrics_that_cannot_be_opened_end_the_oracle(job: Path) -> None:
    """A folder of that name: the error has the path, which its one line is made of."""
    (metrics := job.parent / "run" / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as raised:
        run_oracle(
            load_job(job),
            bind=f"tcp://{loopback()}:0",
            run_dir=metrics.parent,
            attempt=0,
            checkpoint=None,
            stop=lambda: False,
        )
    assert raised.value.filename == str(metrics)


def test_a_clock_that_jumps_changes_nothing(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days back and forth at every look at it: no deadline fires, and the model is the same."""
    expected = digest_of(run_in_threads(load_job(job), job.parent / "still"))
    jumps, now = random.Random(1), time.time
    monkeypatch.setattr(time, "time", lambda: now() + jumps.uniform(-1e6, 1e6))
    assert digest_of(run_in_threads(load_job(job), job.parent / "jumping")) == expected

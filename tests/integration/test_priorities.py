"""On one machine trainers go first: what works ahead of them yields the processors."""

import os
import subprocess
import sys
import time
from pathlib import Path

from bagpipe.local.role_process import NICENESS

SMALL = "{name: dlrm, bottomMlp: [8], overMlp: [8]}"
SETTINGS = [f"model={SMALL}", "steps=100000", "logEvery=1", "trainers.replicas=2", "servers.replicas=2"]


def test_oracle_and_servers_yield_to_trainers(tmp_path):
    """The processes of a running job: oracle and servers are nicer than trainers, by a process's own numbers."""
    demo = Path(__file__).parents[2] / "examples" / "demo.yaml"
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-m", "bagpipe", "run", str(demo), "--run-dir", str(tmp_path / "run"), *sets]
    with (tmp_path / "out").open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as running:
        try:
            metrics = tmp_path / "run" / "metrics.jsonl"
            while not (metrics.exists() and '"loss"' in metrics.read_text()):
                assert running.poll() is None, (tmp_path / "out").read_text()
                time.sleep(0.1)
            children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
            niceness = sorted((role_of(pid), os.getpriority(os.PRIO_PROCESS, int(pid))) for pid in children)
        finally:
            running.terminate()
            running.wait()
    here = os.getpriority(os.PRIO_PROCESS, 0)
    expected = max(here, NICENESS)
    assert niceness == [
        *[("oracle", expected), ("server", expected), ("server", expected)],
        *[("trainer", here), ("trainer", here)],
    ]


def role_of(pid: str) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return next(word for word in words if word in ("oracle", "server", "trainer"))

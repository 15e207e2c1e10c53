"""`bagpipe experiment six-models --local` with real processes: one table, and nothing left when interrupted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

SMALL = ["batchSize=64", "embedding.dim=4", "model.bottomMlp=[8]", "model.overMlp=[8]"]
SETS = [word for value in SMALL for word in ("--set", value)]


def command(out: Path, *more: str) -> list[str]:
    start = [sys.executable, "-m", "bagpipe", "experiment", "six-models", "--local", "--models", "dlrm"]
    return [*start, "--no-warm", "--name", "here", "--out", str(out), *SETS, *more]


def processes_with(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it ended meanwhile
            continue
        if text in line:
            found.append(line)
    return found


def test_a_table_of_real_runs(tmp_path):
    """With the cache and without: two rows with their times, the same loss to the bit, logs, and no heavy files."""
    out = tmp_path / "out"
    line = command(out, "--set", "steps=16", "--condition", "loopback")
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert [(r["system"], r["timing"]["steps"], r["timing"]["skipped"]) for r in rows] == [
        ("cached", 6, 10),
        ("uncached", 6, 10),
    ]
    assert all(r["timing"]["mean_ms"] > 0 for r in rows)
    assert rows[0]["timing"]["loss"] == rows[1]["timing"]["loss"]
    assert rows[0]["timing"]["hit_rate"] > 0.3 > rows[1]["timing"]["hit_rate"]
    assert "loopback" in done.stdout
    run_dir = out / "here-dlrm-cached"
    assert (run_dir / "logs" / "trainer-1.log").is_file()
    assert not (run_dir / "checkpoints").exists()


def test_an_interrupt_ends_every_process(tmp_path):
    """Ctrl-C in the middle of a job: its processes end, the table is there, the exit code says interrupted."""
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(
        command(out, "--set", "steps=100000"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment,
    )  # fmt: skip
    said = []
    with running:
        for line in running.stdout:
            said.append(line)
            if line.startswith("step "):
                running.send_signal(signal.SIGINT)
                break
        said += running.stdout
        code = running.wait()
    assert code == 130, "".join(said)
    assert (out / "table.md").is_file()
    assert "stopped while here-dlrm-cached was running" in "".join(said)
    assert processes_with(str(out)) == []
    assert not (out / "here-dlrm-cached" / "checkpoints").exists()

"""`bagpipe experiment six-models` against the cluster: one table of six real jobs, and nothing left of them."""

import json
import os
import signal
import subprocess
import sys

import pytest
import yaml

from bagpipe.experiment.suite import MODELS, small_sequences

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS, SKIPPED = 16, 4
SEQUENCES = 2000
"""Examples of Caser: they travel in a ConfigMap, which holds 1 MiB."""


@pytest.fixture
def job_files(kube, pinned, tmp_path):
    """The small suite's own job files, shortened; Caser's data lies in a ConfigMap of the namespace."""
    folder = tmp_path / "jobs"
    subprocess.run(_command("--scale", "small", "--write-jobs", str(folder)), check=True, timeout=60)
    for model in MODELS:
        file = folder / f"{model}.yaml"
        body = yaml.safe_load(file.read_text())
        body["spec"] |= {"steps": STEPS, "batchSize": 64, "allRoles": {"terminationGracePeriodSeconds": 10, **pinned}}
        if model == "caser":
            body["spec"]["data"]["path"] = "/data/caser.jsonl"
            body["spec"]["oracle"] = {
                "volumes": [{"name": "data", "configMap": {"name": "sequences"}}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        file.write_text(yaml.safe_dump(body))
    data = {"caser.jsonl": "".join(small_sequences(SEQUENCES))}
    kube.run("create", "-f", "-", stdin=yaml.safe_dump(_config_map("sequences", data)))
    return folder


def test_six_models_on_the_cluster(kube, job_files, tmp_path):
    """Twelve jobs one after another: six models, each the same loss with and without its cache; all deleted."""
    out = tmp_path / "out"
    line = _command("--jobs", str(job_files), "--no-warm", "--skip", str(SKIPPED), "--out", str(out))
    done = subprocess.run(
        [*line, "--namespace", kube.namespace], capture_output=True, text=True, timeout=1100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert [(r["model"], r["system"]) for r in rows] == [(m, s) for m in MODELS for s in ("cached", "uncached")]
    assert all(r["timing"]["steps"] == STEPS - SKIPPED and r["timing"]["mean_ms"] > 0 for r in rows)
    losses = [r["timing"]["loss"] for r in rows]
    assert losses[::2] == losses[1::2]
    assert (out / "table.md").is_file() and (out / "table.svg").is_file()
    assert all(len(list(folder.glob("logs/*.log"))) == 4 for folder in out.iterdir() if folder.is_dir())
    assert kube.get("bpj")["items"] == []


def test_interrupted_on_the_cluster(kube, job_files, tmp_path):
    """SIGTERM in the middle of a job: the log so far, a table, exit code 130, and no job left on the cluster."""
    body = yaml.safe_load((job_files / "wdl.yaml").read_text())
    body["spec"] |= {"steps": 100_000}
    (job_files / "wdl.yaml").write_text(yaml.safe_dump(body))
    out = tmp_path / "out"
    line = _command("--jobs", str(job_files), "--models", "wdl,dcn", "--no-warm", "--name", "cut", "--out", str(out))
    with subprocess.Popen(
        [*line, "--namespace", kube.namespace], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        name = "cut-wdl-cached"
        kube.until("a step", lambda: kube.status(name).get("progress", {}).get("step", 0) >= 1, 120)
        running.send_signal(signal.SIGTERM)
        said, _ = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert "stopped by SIGTERM" in said
    assert (out / "table.md").is_file() and (out / name / "logs" / "oracle-0.log").stat().st_size > 0
    assert not (out / "cut-dcn-cached").exists()
    assert kube.get("bpj")["items"] == []


def _command(*more: str) -> list[str]:
    python = os.environ.get("BAGPIPE_E2E_PYTHON", sys.executable)
    return [python, "-m", "bagpipe", "experiment", "six-models", *more]


def _config_map(name: str, data: dict[str, str]) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}

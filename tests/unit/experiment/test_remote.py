"""The six jobs on a cluster, through the real client over HTTP to an API server of a few paths (`api_server.py`)."""

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from bagpipe.cli.main import run_command
from bagpipe.client import jobs as cluster
from bagpipe.experiment.suite import LABEL, MODELS

_spec = importlib.util.spec_from_file_location("experiment_api_server", Path(__file__).with_name("api_server.py"))
api_server = sys.modules.setdefault(_spec.name, importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(api_server)

LOG = "starting\n" + "".join(json.dumps({"time": i / 20, "step": i + 1}) + "\n" for i in range(30))


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A cluster that runs every job well."""
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.001)
    with api_server.ApiServer(LOG) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        yield server


def six_models(out, *more) -> int:
    return run_command(["experiment", "six-models", "--scale", "small", "--name", "lab", "--out", str(out), *more])


def test_six_jobs_one_after_another(lab, tmp_path, capsys):
    """Each is submitted when the one before is gone, every process's log is collected, one table comes of it."""
    most = [0]
    lab.on_look = lambda name: most.__setitem__(0, max(most[0], len(lab.jobs)))
    assert six_models(tmp_path / "out") == 0
    names = [body["metadata"]["name"] for body in lab.created]
    assert names[0] == "lab-dlrm-warm"
    assert names[-12:] == [f"lab-{m}-{v}" for m in MODELS for v in ("cached", "uncached")]
    assert lab.deleted == names
    assert lab.jobs == {}
    assert most == [1]
    assert {body["metadata"]["labels"][LABEL] for body in lab.created} == {"lab"}
    logs = {p.name for p in (tmp_path / "out" / "lab-caser-cached" / "logs").iterdir()}
    assert logs == {"oracle-0.log", "server-0.log", "trainer-0.log", "trainer-1.log"}
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert [round(r["timing"]["mean_ms"], 3) for r in rows] == [50.0] * 12
    assert "| Caser | no cache | 50.0 |" in capsys.readouterr().out


def test_an_interrupt_leaves_nothing_on_the_cluster(lab, tmp_path):
    """SIGTERM while the second job runs: its logs are kept, it is deleted, what was measured is in the table.

    So it is when a second signal comes while its logs are being collected.
    """
    signals = [signal.SIGINT, signal.SIGTERM]
    lab.on_look = lambda name: name.endswith("uncached") and signals and os.kill(os.getpid(), signals.pop())
    assert six_models(tmp_path / "out", "--no-warm") == 130
    assert signals == []
    assert lab.jobs == {}
    assert len(lab.created) == 2
    assert (tmp_path / "out" / "lab-dlrm-uncached" / "logs" / "oracle-0.log").read_text() == LOG
    assert len(json.loads((tmp_path / "out" / "table.json").read_text())["rows"]) == 1


def test_a_job_without_an_answer_is_found_by_its_label(lab, tmp_path):
    """A job that was made although its submission was cut off is deleted too; others' jobs stay."""
    lost = {"metadata": {"name": "lost", "namespace": "lab", "labels": {LABEL: "lab"}}, "spec": {}, "looks": 0}
    other = {"metadata": {"name": "other", "namespace": "lab", "labels": {LABEL: "theirs"}}, "spec": {}, "looks": 0}
    lab.jobs |= {"lost": lost, "other": other}
    assert six_models(tmp_path / "out", "--models", "dlrm", "--no-warm") == 0
    assert list(lab.jobs) == ["other"]


def test_a_failed_job_fails_the_command(lab, tmp_path, capsys):
    """The table says why; the jobs are gone all the same."""
    lab.phases = ["Failed"]
    assert six_models(tmp_path / "out", "--models", "dlrm", "--no-warm") == 70
    assert lab.jobs == {}
    assert "failed: job lab-dlrm-cached failed: Because: why" in capsys.readouterr().out


def test_jobs_may_be_kept(lab, tmp_path):
    """`--keep` leaves them on the cluster."""
    assert six_models(tmp_path / "out", "--models", "dlrm", "--variants", "cached", "--no-warm", "--keep") == 0
    assert list(lab.jobs) == ["lab-dlrm-cached"]

"""The real library on the cluster: what `kubectl apply` trains is to the bit what `bagpipe run` trains here."""

import hashlib
import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(580)]

IMAGE = "bagpipe-trainer:0.1.0"


def test_same_model_as_here(kube, real_job, complete, expected, pinned):
    """Losses, evaluation and digest equal the local run's; `bagpipe export` of the claim writes the same tensors.

    The job's connections are encrypted with keys of its own, the default on a cluster.
    """
    kube.apply(real_job())
    status = complete()
    assert status.get("attempt", 0) == 0
    uid = kube.get("bpj", "j")["metadata"]["uid"]
    assert kube.get("secret", f"j-curve-{uid[:8]}")["immutable"] is True
    here = Path(expected["export"])
    hashes = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in here.glob("*.safetensors")}
    assert sorted(hashes) == ["dense.safetensors", "rows.safetensors", "tables.safetensors"]
    assert _exported(kube, status["summary"]["checkpoint"], pinned).items() >= hashes.items()


def _exported(kube, checkpoint, pinned):
    """Name and SHA-256 of the files that `bagpipe export` writes in a pod of its own."""
    container = {
        "name": "x",
        "image": IMAGE,
        "command": [
            "sh",
            "-c",
            f"bagpipe export {checkpoint} /tmp/model >&2 && cd /tmp/model && sha256sum *.safetensors",
        ],
        "volumeMounts": [{"name": "c", "mountPath": "/checkpoints"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "c", "persistentVolumeClaim": {"claimName": "j-checkpoints"}}],
        "containers": [container],
        **pinned,
    }
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec})
    kube.until("the export", lambda: kube.get("pod", "x")["status"]["phase"] in ("Succeeded", "Failed"), 90)
    text = kube.run("logs", "x")
    assert kube.get("pod", "x")["status"]["phase"] == "Succeeded", text
    lines = [line.split() for line in text.splitlines() if line.count(" ") >= 2 and len(line.split()[0]) == 64]
    return {name: digest for digest, name in lines}


def test_loss_curve_is_the_local_one(kube, real_job, complete, expected):
    """Every loss that the cluster's oracle logs is the local run's at that step, to the last digit."""
    kube.apply(real_job())
    complete()
    oracle = kube.pods("j", "oracle")[0]["metadata"]["name"]
    there = _losses(kube.run("logs", oracle))
    here = _losses((Path(expected["export"]).parent / "run" / "metrics.jsonl").read_text())
    assert len(here) >= 30 and there == here


def _losses(text):
    records = (json.loads(line) for line in text.splitlines() if line.startswith("{"))
    return {r["step"]: r["loss"] for r in records if "loss" in r and "step" in r}


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"model": {"entrypoint": "nowhere.models:Model"}}, "BadConfig", "nowhere"),
        ({"data": {"path": "/nowhere/train.txt", "format": "criteo-tsv"}}, "BadData", "/nowhere/train.txt"),
    ],
)
def test_what_the_library_refuses_fails_at_once(kube, real_job, change, reason, words):
    """Exit 78 or 65 of the real library: Failed without a retry, with its words in the status."""
    body = real_job(**change)
    kube.apply(body)
    status = kube.wait("j", "Failed", 120)
    condition = kube.condition("j", "Failed")
    assert condition["reason"] == reason and words in condition["message"] + status["lastFailure"]["lastWords"]
    assert status.get("attempt", 0) == 0 and status["restarts"] <= 1
    kube.until("nothing runs any more", lambda: not kube.running("j"), 60)

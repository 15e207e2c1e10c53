"""The real library on the cluster: what `kubectl apply` trains is to the bit what `bagpipe run` trains here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(580)]

SAMPLES = Path(__file__).parent.parent.parent / "manifests" / "samples"


def long_sample() -> dict:
    """The checkpointed sample, long enough to be disturbed."""
    body = yaml.safe_load((SAMPLES / "checkpointed.yaml").read_text())
    body["spec"] |= {"steps": int(os.environ.get("BAGPIPE_E2E_STEPS", "2000")), "logEvery": 50}
    body["spec"]["checkpoint"] |= {"every": 200}
    body["spec"]["runPolicy"] |= {"nodeLostSeconds": 5}
    body["spec"]["allRoles"] = {"terminationGracePeriodSeconds": 20}
    return body


def trained_here(body: dict, directory: Path) -> dict:
    """`bagpipe run` of the same document on this machine."""
    file = directory / "job.yaml"
    file.write_text(yaml.safe_dump(body))
    python = os.environ.get("BAGPIPE_E2E_PYTHON", sys.executable)
    command = [python, "-m", "bagpipe", "run", str(file), "--run-dir", str(directory / "run")]
    command += ["--set", f"spec.checkpoint.path={directory / 'checkpoints'}"]
    subprocess.run(command, check=True, timeout=500, capture_output=True)
    return json.loads((directory / "run" / "summary.json").read_text())


@pytest.fixture(scope="session")
def expected(tmp_path_factory) -> dict:
    return trained_here(long_sample(), tmp_path_factory.mktemp("here"))


def check(kube, expected, seconds=400):
    status = kube.wait("checkpointed", "Complete", seconds)
    assert status["summary"]["modelDigest"] == expected["modelDigest"]
    assert status["summary"]["loss"] == expected["loss"]
    assert status["summary"]["evaluation"] == expected["evaluation"]
    return status


def at_step(kube, step):
    kube.until(f"step {step}", lambda: kube.status("checkpointed").get("progress", {}).get("step", 0) >= step, 200)


def test_same_model_as_here(kube, expected):
    """Loss, evaluation and digest equal the local run's; the checkpoint can be exported."""
    kube.apply(long_sample())
    status = check(kube, expected)
    assert status.get("attempt", 0) == 0
    mount = {"name": "c", "mountPath": "/checkpoints"}
    overrides = {
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "c", "persistentVolumeClaim": {"claimName": "checkpointed-checkpoints"}}],
            "containers": [
                {
                    "name": "x",
                    "image": os.environ.get("BAGPIPE_E2E_TRAINER", "bagpipe-trainer:0.1.0"),
                    "args": ["checkpoint", "show", status["summary"]["checkpoint"]],
                    "volumeMounts": [mount],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        }
    }
    kube.run("run", "x", "--image=x", "--restart=Never", f"--overrides={json.dumps(overrides)}")
    kube.until("the checkpoint is read", lambda: kube.get("pod", "x")["status"]["phase"] in ("Succeeded", "Failed"), 90)
    text = kube.run("logs", "x")
    assert kube.get("pod", "x")["status"]["phase"] == "Succeeded", text
    assert "2000" in text or str(status["summary"]["steps"]) in text


@pytest.mark.parametrize("role", ["trainer", "server", "oracle"])
def test_deleted_pod_changes_nothing_in_the_result(kube, expected, role):
    """A pod of any role deleted in the middle of training: the same model, to the bit."""
    kube.apply(long_sample())
    at_step(kube, 300)
    kube.run("delete", "pod", kube.running("checkpointed", role)[0]["metadata"]["name"], "--wait=false")
    status = check(kube, expected)
    assert status["restarts"] == 0


def test_killed_process_changes_nothing_in_the_result(kube, expected, kit):
    """SIGKILL for a trainer's process in the middle of training: the same model, to the bit."""
    kube.apply(long_sample())
    at_step(kube, 300)
    pod = kube.running("checkpointed", "trainer")[0]
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    kit("shell", pod["spec"]["nodeName"], "ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", container)
    status = check(kube, expected)
    assert status["restarts"] == 1 and status["lastFailure"]["exitCode"] == 137


def test_suspended_and_resumed_changes_nothing_in_the_result(kube, expected):
    """Suspended in the middle and resumed from its checkpoint: the same model, to the bit."""
    kube.apply(long_sample())
    at_step(kube, 300)
    kube.run("patch", "bpj", "checkpointed", "--type=merge", "-p", '{"spec":{"runPolicy":{"suspend":true}}}')
    kube.wait("checkpointed", "Suspended")
    assert kube.pods("checkpointed") == []
    kube.run("patch", "bpj", "checkpointed", "--type=merge", "-p", '{"spec":{"runPolicy":{"suspend":false}}}')
    status = check(kube, expected)
    assert status["restarts"] == 0

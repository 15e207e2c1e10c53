"""End-to-end tests: any cluster that `$KUBECONFIG` names, with the chart installed and the images loaded.

`make e2e` brings a cluster up and sets the environment:
    BAGPIPE_E2E_STANDIN   image of tests/e2e/standin (stands in for the roles where the operator alone is tested)
    BAGPIPE_E2E_SERVER, BAGPIPE_E2E_TRAINER   the real images
    BAGPIPE_E2E_KIT       the plain cluster's script, for tests that stop nodes and the API server
Without a cluster these tests are skipped; under CI=true that is a failure.
"""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

Raw = dict[str, Any]
SYSTEM = "bagpipe-system"


class Kube:
    """kubectl in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def run(self, *args: str, stdin: str | None = None, check: bool = True, namespace: str | None = None) -> str:
        command = ["kubectl", "--namespace", namespace or self.namespace, *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *args: str, namespace: str | None = None) -> Any:
        return json.loads(self.run("get", *args, "-o", "json", namespace=namespace))

    def apply(self, body: Raw) -> None:
        self.run("apply", "-f", "-", stdin=yaml.safe_dump(body))

    def refused(self, body: Raw) -> str:
        """What the API server says to a document that it must not take."""
        command = ["kubectl", "--namespace", self.namespace, "apply", "-f", "-"]
        done = subprocess.run(
            command, input=yaml.safe_dump(body), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode, "it was taken"
        return done.stderr

    def status(self, name: str) -> Raw:
        return dict(self.get("bpj", name).get("status") or {})

    def condition(self, name: str, kind: str) -> Raw:
        found = [c for c in self.status(name).get("conditions", []) if c["type"] == kind]
        return found[0] if found else {}

    def pods(self, name: str, role: str | None = None) -> list[Raw]:
        selector = f"bagpipe.dev/job={name}" + (f",bagpipe.dev/role={role}" if role else "")
        return list(self.get("pods", "-l", selector)["items"])

    def running(self, name: str, role: str | None = None) -> list[Raw]:
        return [
            p
            for p in self.pods(name, role)
            if p["status"]["phase"] == "Running" and "deletionTimestamp" not in p["metadata"]
        ]

    def until(self, what: str, probe: Callable[[], Any], seconds: float = 60) -> Any:
        """Polls until `probe` gives something; an error of its own is retried, as the API server may be away."""
        end, last = time.monotonic() + seconds, None
        while time.monotonic() < end:
            try:
                last = probe()
                if last:
                    return last
            except AssertionError as error:
                last = error
            time.sleep(0.3)
        jobs = self.run("get", "bpj,pods", "-o", "wide", check=False)
        raise AssertionError(f"not within {seconds} s: {what}; last: {last}\n{jobs}")

    def wait(self, name: str, kind: str, seconds: float = 90) -> Raw:
        """Until the condition is true; at once an error if the job ended otherwise."""

        def probe() -> Raw | None:
            status = self.status(name)
            true = {c["type"]: c for c in status.get("conditions", []) if c["status"] == "True"}
            if kind not in true and true.keys() & {"Failed", "Complete"}:
                pytest.fail(f"{name} ended otherwise: {json.dumps(status, indent=1)}")
            return status if kind in true else None

        return dict(self.until(f"{name} {kind}", probe, seconds))


def standin(name: str, **spec: Any) -> Raw:
    """A job of stand-ins: 2 servers, 2 trainers, `steps` of 0.2 s, checkpoints on a shared claim."""
    steps = spec.pop("steps", 30)
    env = {
        "STANDIN_SERVERS": spec.get("servers", {}).get("replicas", 2),
        "STANDIN_TRAINERS": spec.get("trainers", {}).get("replicas", 2),
        "STANDIN_STEPS": steps,
        **spec.pop("env", {}),
    }
    roles = {
        "image": os.environ.get("BAGPIPE_E2E_STANDIN", "bagpipe-standin:3"),
        "terminationGracePeriodSeconds": 5,
        "env": [{"name": k, "value": str(v)} for k, v in env.items()],
        **spec.pop("allRoles", {}),
    }
    body: Raw = {
        "data": {"format": "synthetic"},
        "allRoles": roles,
        "checkpoint": {"volumeClaim": {"size": "1Gi", "storageClassName": "shared", "accessMode": "ReadWriteMany"}},
        "servers": {"replicas": 2},
        "trainers": {"replicas": 2},
        "runPolicy": {"nodeLostSeconds": 5},
        **spec,
    }
    return {"apiVersion": "bagpipe.dev/v1alpha1", "kind": "BagpipeJob", "metadata": {"name": name}, "spec": body}


@pytest.fixture(scope="session", autouse=True)
def _cluster() -> None:
    done = (
        subprocess.run(["kubectl", "get", "crd", "bagpipejobs.bagpipe.dev"], capture_output=True, check=False)
        if _kubectl()
        else None
    )
    if done is not None and done.returncode == 0:
        return
    if os.environ.get("CI") == "true":
        pytest.fail("no cluster with the chart installed: run `make e2e`")
    pytest.skip("no cluster with the chart installed: run `make e2e`")


def _kubectl() -> bool:
    return bool(os.environ.get("KUBECONFIG"))


@pytest.fixture
def kube() -> Iterator[Kube]:
    """A namespace of the test's own, which enforces the restricted Pod Security profile."""
    result = Kube(f"e2e-{uuid.uuid4().hex[:6]}")
    result.run("create", "namespace", result.namespace)
    result.run("label", "namespace", result.namespace, "pod-security.kubernetes.io/enforce=restricted")
    yield result
    result.run("delete", "namespace", result.namespace, "--wait=false")


@pytest.fixture
def job() -> Callable[..., Raw]:
    return standin


@pytest.fixture
def kit() -> Callable[..., str]:
    """The plain cluster's script: stops nodes and processes."""
    script = os.environ.get("BAGPIPE_E2E_KIT")
    if not script:
        pytest.skip("needs the plain cluster's script (BAGPIPE_E2E_KIT): a kubeconfig alone stops no node")

    def run(*args: str) -> str:
        done = subprocess.run([script, *args], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run

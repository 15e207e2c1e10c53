"""A real cluster as the end-to-end tests handle it: kubectl, the operator's pods, machines that can be stopped."""

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

Raw = dict[str, Any]
SYSTEM = "bagpipe-system"
MANIFESTS = "/etc/kubernetes/manifests"


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


class Watcher(threading.Thread):
    """Looks for two living trainers of one rank, all the time."""

    def __init__(self, kube: Kube, name: str) -> None:
        super().__init__(daemon=True)
        self.kube, self.name, self.over = kube, name, threading.Event()
        self.seen: list[list[str]] = []

    def run(self) -> None:
        while not self.over.wait(0.3):
            try:
                pods = self.kube.pods(self.name, "trainer")
            except (AssertionError, subprocess.TimeoutExpired):  # The API server may be away.
                continue
            ranks: dict[str, list[str]] = {}
            for pod in pods:
                if pod["status"]["phase"] in ("Succeeded", "Failed"):
                    continue
                rank = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
                ranks.setdefault(rank, []).append(pod["metadata"]["name"])
            self.seen += [names for names in ranks.values() if len(names) > 1]


class Machines:
    """The cluster's machines, where we may stop them: the plain cluster's script, or kind's containers."""

    def __init__(self, how: str) -> None:
        self.how, _, self.script = how.partition(" ")

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def _plain(self, *args: str) -> str:
        return self._run(self.script, *args)

    def stop_node(self, node: str) -> None:
        self._plain("stop-node", node) if self.how == "kit" else self._run("docker", "kill", node)

    def start_node(self, node: str) -> None:
        self._plain("start-node", node) if self.how == "kit" else self._run("docker", "start", node)

    def stop_api_server(self) -> None:
        self._plain("stop", "kube-apiserver") if self.how == "kit" else self._manifest(MANIFESTS, "/")

    def start_api_server(self) -> None:
        self._plain("start", "kube-apiserver") if self.how == "kit" else self._manifest(
            "/", "/etc/kubernetes/manifests"
        )

    def _manifest(self, here: str, there: str) -> None:
        """A static pod lives as long as its file lies in the kubelet's folder."""
        found = self._run(
            "docker", "ps", "--filter", "label=io.x-k8s.kind.role=control-plane", "--format", "{{.Names}}"
        )
        name = "kube-apiserver.yaml"
        self._run("docker", "exec", found.split()[0], "mv", f"{here}/{name}", f"{there}/{name}")

    def kill_container(self, pod: Raw) -> None:
        """SIGKILL for the pod's main process."""
        container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        kill = ("ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", container)
        node = pod["spec"]["nodeName"]
        self._plain("shell", node, *kill) if self.how == "kit" else self._run("docker", "exec", node, *kill)


class Operators:
    """The operator's pods, found by their labels."""

    namespace, label = SYSTEM, "app.kubernetes.io/name=bagpipe-operator"

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def pods(self) -> list[Raw]:
        listed = self._kube.get("pods", "-l", self.label, namespace=SYSTEM)["items"]
        return [p for p in listed if "deletionTimestamp" not in p["metadata"]]

    def leader(self) -> str | None:
        """Name of the pod that holds the lease."""
        held = self._kube.get("lease", "bagpipe-operator", namespace="kube-system")["spec"].get("holderIdentity", "")
        return next((n for n in (p["metadata"]["name"] for p in self.pods()) if held.startswith(n)), None)

    def read(self, code: str) -> str:
        """What a line of Python prints in the leader's container."""
        leader = self._kube.until("a leader", self.leader)
        return self._kube.run("exec", leader, "--", "python3", "-c", code, namespace=SYSTEM)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """No operator at all, for a while."""
        self._scale(0)
        try:
            self._kube.until("the operator is down", lambda: not self._all())
            yield
        finally:
            self._scale(2)

    def _all(self) -> list[Raw]:
        """Also those on their way out, whose process may run; not those that a node evicted, which stay as records."""
        listed = self._kube.get("pods", "-l", self.label, namespace=SYSTEM)["items"]
        return [p for p in listed if p["status"]["phase"] not in ("Succeeded", "Failed")]

    def _scale(self, replicas: int) -> None:
        name = self._kube.get("deployments", namespace=SYSTEM)["items"][0]["metadata"]["name"]
        self._kube.run("scale", "deployment", name, f"--replicas={replicas}", namespace=SYSTEM)

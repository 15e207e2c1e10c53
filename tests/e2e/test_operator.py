"""The operator itself dies, is away, is many; its jobs do not mind. Strangers reach nothing. Numbers."""

import json
import os
import random
import subprocess
import time

import pytest
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SYSTEM = "bagpipe-system"
STRANGER = """
import socket
def reached(target):
    with socket.socket() as s:
        s.settimeout(2)
        return s.connect_ex(target) == 0
found = [t for t in TARGETS if reached(t)]
print("reached", found)
sys.exit(1 if found else 0)
"""
LABEL = "app.kubernetes.io/name=bagpipe-operator"


def operators(kube):
    pods = kube.get("pods", "-l", LABEL, namespace=SYSTEM)["items"]
    return [p for p in pods if "deletionTimestamp" not in p["metadata"]]


def leader(kube):
    held = kube.get("leases", namespace=SYSTEM)["items"][0]["spec"].get("holderIdentity", "")
    return next((name for name in (p["metadata"]["name"] for p in operators(kube)) if held.startswith(name)), None)


def scale_operator(kube, replicas):
    name = kube.get("deployments", namespace=SYSTEM)["items"][0]["metadata"]["name"]
    kube.run("scale", "deployment", name, f"--replicas={replicas}", namespace=SYSTEM)
    if replicas == 0:
        kube.until("the operator is down", lambda: not kube.get("pods", "-l", LABEL, namespace=SYSTEM)["items"])


def test_leader_killed_again_and_again(kube, job):
    """The leader is killed at random moments of a job's life; the job ends as if nothing had been."""
    kube.apply(job("j", steps=60))
    for _ in range(4):
        name = kube.until("a leader", lambda: leader(kube))
        kube.run("delete", "pod", name, "--grace-period=0", "--force", namespace=SYSTEM)
        time.sleep(random.uniform(0.5, 5))
    status = kube.wait("j", "Complete", 150)
    assert status.get("attempt", 0) == 0 and status["restarts"] == 0 and status["disruptions"] == 0


def test_what_happens_while_the_operator_is_down_is_made_up_for(kube, job):
    """A trainer is deleted with the operator down: when it is back, the job goes on from its checkpoint."""
    kube.apply(job("j", steps=60))
    kube.wait("j", "Running")
    scale_operator(kube, 0)
    try:
        kube.run("delete", "pod", kube.running("j", "trainer")[0]["metadata"]["name"], "--wait=true")
        time.sleep(3)
    finally:
        scale_operator(kube, 2)
    status = kube.wait("j", "Complete", 150)
    assert status["attempt"] == 1 and status["disruptions"] == 1


def test_deleted_with_the_operator_down(kube, job):
    """A job deleted with the operator down leaves nothing behind."""
    kube.apply(job("j", steps=1000))
    kube.wait("j", "Running")
    scale_operator(kube, 0)
    try:
        kube.run("delete", "bpj", "j", "--wait=true", "--timeout=20s")
        kinds = "pods,jobs,statefulsets,services,networkpolicies,poddisruptionbudgets,persistentvolumeclaims"
        kube.until("nothing is left", lambda: not kube.get(kinds)["items"], 60)
        names = [c["metadata"]["name"] for c in kube.get("configmaps")["items"]]
        assert names == ["kube-root-ca.crt"]
    finally:
        scale_operator(kube, 2)


def test_only_trainers_go_to_gpu_nodes(kube, job, kit):
    """Trainers that ask for a V100 land on the (faked) V100 node with its taint; nothing else does."""
    nodes = [
        n["metadata"]["name"]
        for n in kube.get("nodes")["items"]
        if "control-plane" not in str(n["metadata"].get("labels"))
    ]
    kit("fake-gpus", nodes[0], "4", "--taint")
    try:
        image = job("j")["spec"]["allRoles"]["image"]
        kube.apply(job("j", trainers={"replicas": 2, "gpuProfile": "v100", "image": image}))
        kube.wait("j", "Running")
        for role in ("oracle", "server", "trainer"):
            places = {p["spec"]["nodeName"] for p in kube.pods("j", role)}
            assert (places == {nodes[0]}) if role == "trainer" else (nodes[0] not in places)
        kube.wait("j", "Complete")
    finally:
        kit("fake-gpus", nodes[0], "0")


def test_strangers_reach_no_port(kube, job):
    """A pod that is not the job's reaches no port of it nor of the operator; the job itself lacks nothing."""
    kube.apply(job("j", steps=200))
    kube.wait("j", "Running")
    ports = {"oracle": 7700, "server": 7701, "trainer": 7702}
    targets = [(p["status"]["podIP"], ports[p["metadata"]["labels"]["bagpipe.dev/role"]]) for p in kube.running("j")]
    targets += [(p["status"]["podIP"], 8080) for p in operators(kube)]
    code = f"import sys\nTARGETS = {targets!r}\n{STRANGER}"
    image = job("j")["spec"]["allRoles"]["image"]
    container = {
        "name": "s",
        "image": image,
        "command": ["python3", "-c", code],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger"}, "spec": spec})
    phase = kube.until(
        "it has tried",
        lambda: {"Succeeded": "ok", "Failed": "reached"}.get(kube.get("pod", "stranger")["status"]["phase"]),
        60,
    )
    assert phase == "ok", kube.run("logs", "stranger")
    kube.wait("j", "Complete", 120)


def test_apply_to_pods_in_a_second(kube, job):
    """From `kubectl apply` to all pods created: at most a second (the API server's clock has no finer unit)."""
    kube.apply(job("j"))
    kube.until("five pods", lambda: len(kube.pods("j")) == 5, 20)
    fine = kube.run("get", "bpj", "j", "-o", "jsonpath={.metadata.creationTimestamp}")
    latest = max(p["metadata"]["creationTimestamp"] for p in kube.pods("j"))
    seconds = lambda text: time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))  # noqa: E731
    assert seconds(latest) - seconds(fine) <= 1


@pytest.mark.slow
def test_a_thousand_jobs(kube, job):
    """1,000 suspended jobs settle within 30 s of the last one's creation, in 150 MB, and then cause no write at all."""
    count = 1000
    items = [job(f"j{i}", runPolicy={"suspend": True}) for i in range(count)]
    text = "\n---\n".join(json.dumps(item) for item in items)
    subprocess.run(
        ["kubectl", "-n", kube.namespace, "create", "-f", "-"],
        input=text,
        text=True,
        check=True,
        capture_output=True,
        timeout=280,
    )
    end = time.monotonic()

    def settled():
        out = kube.run("get", "bpj", "-o", "jsonpath={range .items[*]}{.status.phase}{'\\n'}{end}")
        return out.split().count("Suspended") == count

    kube.until("all are settled", settled, 30)
    print(f"{count} jobs settled {time.monotonic() - end:.1f} s after the last was created")
    before = writes(kube)
    time.sleep(20)
    assert writes(kube) == before
    memory = peak_memory(kube)
    print(f"operator's peak memory {memory / 2**20:.0f} MiB")
    assert memory < 150 * 2**20


def scrape(kube):
    text = kube.run("get", "--raw", f"/api/v1/namespaces/{SYSTEM}/pods/{leader(kube)}:8080/proxy/metrics", check=False)
    return text or kube.run(
        "exec",
        leader(kube),
        "--",
        "python3",
        "-c",
        "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/metrics').read().decode())",
        namespace=SYSTEM,
    )


def writes(kube):
    """Requests of the leader that changed jobs; its lease is a PUT and does not count."""
    lines = [line for line in scrape(kube).splitlines() if line.startswith("bagpipe_operator_api_requests_total")]
    return sorted(line for line in lines if 'method="GET"' not in line and 'method="PUT"' not in line)


def peak_memory(kube):
    out = kube.run(
        "exec", leader(kube), "--", "python3", "-c", "print(open('/proc/1/status').read())", namespace=SYSTEM
    )
    return int(next(line for line in out.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def test_samples_are_taken(kube):
    """The API server takes every sample."""
    from pathlib import Path

    for sample in sorted((Path(__file__).parent.parent.parent / "manifests" / "samples").glob("*.yaml")):
        kube.run("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(yaml.safe_load(sample.read_text())))


def test_bagpipe_job(kube, job, tmp_path):
    """`bagpipe job submit --wait`, `list`, `get`, `logs`, `delete` do what they say."""
    python = os.environ.get("BAGPIPE_E2E_PYTHON")
    if not python:
        pytest.skip("BAGPIPE_E2E_PYTHON names no interpreter that has bagpipe[cluster]")

    def bagpipe(*args):
        command = [python, "-m", "bagpipe", "job", *args, "--namespace", kube.namespace]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job("c", steps=10)))
    done = bagpipe("submit", str(file), "--wait")
    assert done.returncode == 0 and "modelDigest: steps-10" in done.stdout, done.stderr
    assert "Complete" in bagpipe("list").stdout
    assert "goes on at step" in bagpipe("logs", "c", "--role", "trainer", "--rank", "1", "--follow").stdout
    assert bagpipe("delete", "c").returncode == 0
    kube.until("it is gone", lambda: bagpipe("get", "c").returncode == 78)

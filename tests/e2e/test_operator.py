"""The operator itself: deletions it does not see, strangers, GPU nodes, permissions, numbers."""

import datetime as dt
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SYSTEM = "bagpipe-system"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:bagpipe"
PORTS = {"oracle": 7700, "server": 7701, "trainer": 7702}
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


def test_deleted_with_the_operator_down(kube, job, operators):
    """A job deleted with the operator down leaves nothing behind."""
    kube.apply(job("j", steps=1000))
    kube.wait("j", "Running")
    with operators.down():
        kube.run("delete", "bpj", "j", "--wait=true", "--timeout=20s")
        kinds = "pods,jobs,statefulsets,services,secrets,networkpolicies,poddisruptionbudgets,persistentvolumeclaims"
        kube.until("nothing is left", lambda: not kube.get(kinds)["items"], 60)
        names = [c["metadata"]["name"] for c in kube.get("configmaps")["items"]]
        assert names == ["kube-root-ca.crt"]


def test_finished_job_cleans_up_after_itself(kube, job):
    """`cleanPodPolicy: All` removes what the job was made of; after its time to live the job is gone too."""
    kube.apply(job("j", steps=3, runPolicy={"cleanPodPolicy": "All", "ttlSecondsAfterFinished": 30}))
    kube.wait("j", "Complete")
    kinds = "pods,jobs,statefulsets,services,networkpolicies,poddisruptionbudgets"
    kube.until("its objects are gone", lambda: not kube.get(kinds)["items"], 30)
    kube.until("it is gone itself", lambda: not kube.get("bpj")["items"], 60)


def test_only_trainers_go_to_gpu_nodes(kube, job, pinned):
    """Trainers that ask for a V100 land on the (faked) V100 node with its taint; nothing else does."""
    taken = set(pinned.get("nodeSelector", {}).values())
    nodes = [
        n["metadata"]["name"]
        for n in kube.get("nodes")["items"]
        if "control-plane" not in str(n["metadata"].get("labels")) and n["metadata"]["name"] not in taken
    ]
    with_gpus(kube, nodes[0], 4)
    try:
        body = job("j", trainers={"replicas": 2, "gpuProfile": "v100", "image": "bagpipe-standin:4"})
        body["spec"].pop("checkpoint")  # Its volume may be tied to another node.
        body["spec"]["allRoles"].pop("nodeSelector", None)
        kube.apply(body)
        kube.wait("j", "Running")
        for role in PORTS:
            places = {p["spec"]["nodeName"] for p in kube.pods("j", role)}
            assert (places == {nodes[0]}) if role == "trainer" else (nodes[0] not in places)
        kube.wait("j", "Complete")
    finally:
        with_gpus(kube, nodes[0], 0)


def with_gpus(kube, node, count):
    """As a device plugin and GPU feature discovery would have it, on a node without either."""
    product = f"={'Tesla-V100-SXM2-16GB'}" if count else "-"
    value = str(count) if count else None
    amounts = {"nvidia.com/gpu": value}
    patch = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
    kube.run("patch", "node", node, "--subresource=status", "--type=merge", "-p", patch)
    kube.run("label", "node", node, "--overwrite", f"nvidia.com/gpu.product{product}")
    taint = "nvidia.com/gpu=present:NoSchedule" if count else "nvidia.com/gpu-"
    kube.run("taint", "node", node, taint, *(["--overwrite"] if count else []))


def test_strangers_reach_no_port(kube, job, operators):
    """A pod that is not the job's reaches no port of it nor of the operator; the job itself lacks nothing."""
    kube.apply(job("j", steps=150))
    kube.wait("j", "Running")
    targets = [(p["status"]["podIP"], PORTS[p["metadata"]["labels"]["bagpipe.dev/role"]]) for p in kube.running("j")]
    targets += [(p["status"]["podIP"], 8080) for p in operators.pods()]
    assert tried(kube, "stranger", targets) == "Succeeded", kube.run("logs", "stranger")
    kube.wait("j", "Complete", 120)


def tried(kube, name, targets):
    """How a pod ends that tries to connect to each target: Succeeded if it reached none."""
    container = {
        "name": "s",
        "image": "bagpipe-standin:4",
        "command": ["python3", "-c", f"import sys\nTARGETS = {targets!r}\n{STRANGER}"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    ended = lambda: kube.get("pod", name)["status"]["phase"]  # noqa: E731
    return kube.until("it has tried", lambda: ended() in ("Succeeded", "Failed") and ended(), 60)


def test_apply_to_pods_in_a_second(kube, job, audit):
    """From the request of `kubectl apply` to the answer for the fifth pod: at most a second, three times."""
    for name in ("a", "b", "c"):
        since = time.time()
        kube.apply(job(name))
        kube.until("five pods", lambda name=name: len(kube.pods(name)) == 5, 20)
        entries = [e for e in audit(since) if e["objectRef"].get("namespace") == kube.namespace]
        asked = [e for e in entries if e["objectRef"]["resource"] == "bagpipejobs" and e["verb"] in ("create", "patch")]
        begun = min(e["requestReceivedTimestamp"] for e in asked if e["user"].get("username") != ACCOUNT)
        made = [e for e in entries if e["objectRef"]["resource"] == "pods" and e["verb"] == "create"]
        pods = [e for e in made if not e["objectRef"].get("subresource") and e["responseStatus"]["code"] == 201]
        assert len(pods) == 5
        seconds = moment(max(e["stageTimestamp"] for e in pods)) - moment(begun)
        print(f"apply to all five pods created: {seconds:.2f} s")
        kube.run("delete", "bpj", name, "--wait=true")
        assert seconds <= 1


def moment(text):
    return dt.datetime.fromisoformat(text).timestamp()


@pytest.mark.slow
def test_a_thousand_jobs(kube, job, operators, audit):
    """1,000 suspended jobs settle within 30 s of the last one's creation, in 150 MB, and then cause no write at all."""
    count = 1000
    items = [job(f"j{i}", runPolicy={"suspend": True}) for i in range(count)]
    text = "\n---\n".join(json.dumps(item) for item in items)
    command = ["kubectl", "-n", kube.namespace, "create", "-f", "-"]
    subprocess.run(command, input=text, text=True, check=True, capture_output=True, timeout=280)
    end = time.monotonic()

    def settled():
        out = kube.run("get", "bpj", "-o", "jsonpath={range .items[*]}{.status.phase}{'\\n'}{end}")
        return out.split().count("Suspended") == count

    kube.until("all are settled", settled, 30)
    print(f"{count} jobs settled {time.monotonic() - end:.1f} s after the last was created")
    kube.until("the last event is posted", lambda: not _writes(audit, time.time() - 3), 30)
    since = time.time()
    time.sleep(20)
    assert _writes(audit, since) == []
    status = operators.read("print(open('/proc/1/status').read())")
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    print(f"operator's peak memory {peak / 2**20:.0f} MiB")
    assert peak < 150e6


def _writes(audit, since):
    """What the operator changed, its lease aside."""
    mine = (e for e in audit(since) if e["user"].get("username") == ACCOUNT)
    changed = (e for e in mine if e["verb"] not in ("get", "list", "watch"))
    return [e["requestURI"] for e in changed if e["objectRef"]["resource"] != "leases"]


def test_samples_are_taken(kube):
    """The API server takes every sample."""
    for sample in sorted((Path(__file__).parents[2] / "manifests" / "samples").rglob("*.yaml")):
        kube.run("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(yaml.safe_load(sample.read_text())))


def test_scaled(kube, job):
    """`kubectl scale` restarts the trainers from their checkpoint under the new number."""
    kube.apply(job("j", steps=60))
    kube.wait("j", "Running")
    kube.until("a few steps", lambda: kube.status("j").get("progress", {}).get("step", 0) >= 5)
    kube.run("scale", "bpj", "j", "--replicas=1")
    kube.until("new attempt", lambda: kube.status("j")["attempt"] == 1)
    kube.wait("j", "Running")
    assert len(kube.running("j", "trainer")) == 1
    assert kube.wait("j", "Complete", 120)["summary"]["modelDigest"] == "steps-60"


@pytest.mark.parametrize(
    ("child", "change"),
    [
        ("networkpolicy/j-peers", {"spec": {"ingress": [{}]}}),
        ("poddisruptionbudget/j-servers", {"spec": {"maxUnavailable": 2}}),
        ("persistentvolumeclaim/j-checkpoints", {"metadata": {"labels": {"bagpipe.dev/job": "another"}}}),
    ],
)
def test_a_changed_child_is_put_back(kube, job, child, change):
    """What somebody changes in an object of a running job is as it was again, and the job runs on."""
    kube.apply(job("j", steps=100))
    kube.wait("j", "Running")

    def ours():
        live = kube.get(child)
        return live["spec"], live["metadata"]["labels"]

    before = ours()
    kube.run("patch", child, "--type", "merge", "-p", json.dumps(change))
    kube.until("it is put back", lambda: ours() == before, 60)
    assert kube.status("j")["attempt"] == 0


def test_bagpipe_job(kube, job, tmp_path):
    """`bagpipe job submit --wait`, `list`, `get`, `logs`, `delete` do what they say."""
    python = os.environ["BAGPIPE_E2E_PYTHON"]

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


def test_two_installations(kube, job):
    """A second installation of a class waits and says so; with a class of its own it runs the jobs of that class."""
    chart = str(Path(__file__).parents[2] / "charts" / "bagpipe")
    values = ["--set", "crds.enabled=false,aggregatedRoles=false,replicas=1"]

    def helm(*args):
        subprocess.run(["helm", *args, "--namespace", kube.namespace], check=True, capture_output=True, timeout=120)

    def second():
        pods = kube.get("pods", "-l", "app.kubernetes.io/instance=second")["items"]
        return [c["ready"] for p in pods for c in p["status"].get("containerStatuses", ())]

    helm("install", "second", chart, *values)
    try:
        about = lambda: [(e["reason"], e["message"]) for e in kube.get("events")["items"]]  # noqa: E731
        said = kube.until("it says why it waits", lambda: dict(about()).get("OtherInstallation"), 60)
        assert f"run by the installation {SYSTEM}/bagpipe; {kube.namespace}/second waits" in said
        assert second() == [False]
        kube.apply(job("b", steps=5, runPolicy={"operatorClass": "b"}))
        helm("upgrade", "second", chart, "--reuse-values", "--set", "operatorClass=b")
        assert kube.wait("b", "Complete", 150)["summary"]["modelDigest"] == "steps-5"
        kube.until("one that is ready", lambda: second() == [True], 60)
    finally:
        helm("uninstall", "second", "--wait")
        kube.run("delete", "lease", "bagpipe-operator-b", "--ignore-not-found", namespace="kube-system")


def test_a_queue_where_kueue_is_off(kube, job):
    """An installation without Kueue runs a job that names a queue, and says once that the queue counts for nothing."""
    chart = str(Path(__file__).parents[2] / "charts" / "bagpipe")
    values = "crds.enabled=false,aggregatedRoles=false,replicas=1,kueue.enabled=false,operatorClass=unqueued"

    def helm(*args):
        subprocess.run(["helm", *args, "--namespace", kube.namespace], check=True, capture_output=True, timeout=120)

    def ignored():
        listed = kube.get("events")["items"]
        return [e for e in listed if (e["involvedObject"]["name"], e["reason"]) == ("q", "QueueIgnored")]

    helm("install", "unqueued", chart, "--set", values)
    try:
        kube.apply(job("q", steps=5, runPolicy={"operatorClass": "unqueued", "queueName": "training"}))
        assert kube.wait("q", "Complete", 150)["summary"]["modelDigest"] == "steps-5"
        reserved = kube.condition("q", "QuotaReserved")
        assert (reserved["status"], reserved["reason"]) == ("False", "QueueIgnored")
        assert "'training'" in reserved["message"]
        kube.until("an event QueueIgnored", ignored, 10)
        assert len(ignored()) == 1 and ignored()[0]["message"] == reserved["message"]
    finally:
        kube.run("delete", "bpj", "q", "--ignore-not-found", "--wait=true", "--timeout=60s")
        helm("uninstall", "unqueued", "--wait")
        kube.run("delete", "lease", "bagpipe-operator-unqueued", "--ignore-not-found", namespace="kube-system")


@pytest.mark.last
def test_permissions_are_exactly_what_was_used(kube, audit):
    """After everything else: the verbs granted are the verbs that the API server's audit log shows, both ways.

    `bagpipejobs/finalizers` is never called: admission asks for it when an owner reference blocks deletion.
    Kueue's kinds count once Kueue is there.
    """
    used = set()
    for entry in audit():
        if entry["user"].get("username") == ACCOUNT and entry["objectRef"]["resource"] != "selfsubjectaccessreviews":
            what = entry["objectRef"]
            # Refused ones count too: an API server that has just started refuses everybody until it has read its roles.
            resource = "/".join(filter(None, (what["resource"], what.get("subresource"))))
            used.add((what.get("apiGroup", ""), resource, entry["verb"]))
            if entry["verb"] == "patch" and entry["responseStatus"]["code"] == 201:  # An apply that made it.
                used.add((what.get("apiGroup", ""), resource, "create"))
    granted = _granted(kube) - {("bagpipe.dev", "bagpipejobs/finalizers", "update")}
    assert {"granted, never used": granted - used, "used, not granted": used - granted} == {
        "granted, never used": set(),
        "used, not granted": set(),
    }


def _granted(kube):
    """Every verb of the roles that are bound to the operator's account."""
    roles = kube.get("clusterroles", "-l", "app.kubernetes.io/part-of=bagpipe")["items"]
    roles += kube.get("roles", "-l", "app.kubernetes.io/part-of=bagpipe", "--all-namespaces")["items"]
    rules = [
        r
        for role in roles
        if not role["metadata"]["name"].endswith(("-kueue", "-view", "-edit"))
        for r in role["rules"]
    ]
    return {(g, resource, v) for r in rules for g in r["apiGroups"] for resource in r["resources"] for v in r["verbs"]}

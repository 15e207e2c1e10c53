"""Every sample runs as it is to its end, on the real images, in a namespace that enforces restricted Pod Security.

Elsewhere: `queued` with Kueue in test_kueue.py; `gpu-v100` needs a GPU and is taken by the API server only.
"""

from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
STORE = "bagpipe-store:1"
ROLES = ("oracle", "server", "trainer")
PUT = """
import boto3, random
random.seed(1)
rows = ["user,item,price,clicked"]
for _ in range(5000):
    item = random.randrange(50)
    rows.append(f"u{random.randrange(200)},i{item},{item % 7}.5,{int(random.random() < item / 50)}")
keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
s3 = boto3.client("s3", endpoint_url="http://127.0.0.1:9000", **keys)
s3.create_bucket(Bucket="clicks")
s3.put_object(Bucket="clicks", Key="2026/clicks.csv", Body="\\n".join(rows).encode())
"""
"""Run beside the store: makes a file of 5,000 rows there."""


def applied(kube, name):
    """`kubectl apply -f` of the sample; its job."""
    path = SAMPLES / name if (SAMPLES / name).is_dir() else SAMPLES / f"{name}.yaml"
    kube.run("apply", "-f", str(path))
    return yaml.safe_load((path / "job.yaml" if path.is_dir() else path).read_text())


@pytest.mark.parametrize("name", ["minimal", "own-model", "isolated"])
def test_generated_data(kube, name):
    """Samples on generated data: Complete, with as many steps as the job says."""
    job = applied(kube, name)
    summary = kube.wait(name, "Complete", 240)["summary"]
    assert summary["steps"] == job["spec"].get("steps", summary["steps"]) > 0


def test_own_data(kube):
    """A CSV file that an init container put on a claim: what it holds has been learned."""
    applied(kube, "own-data")
    evaluation = kube.wait("own-data", "Complete", 240)["summary"]["evaluation"]
    assert evaluation["examples"] == 500 and evaluation["auc"] > 0.7


@pytest.fixture
def store(kube):
    """An object store in the namespace, which forgets everything with it; returns what runs Python beside it."""
    labels = {"app": "store"}
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    probe = {"httpGet": {"path": "/moto-api/", "port": 9000}}
    container = {"name": "store", "image": STORE, "securityContext": restricted, "readinessProbe": probe}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "store", "labels": labels}}
    kube.apply({**pod, "spec": {"containers": [container]}})
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "store"}}
    kube.apply({**service, "spec": {"selector": labels, "ports": [{"port": 9000}]}})
    kube.run("wait", "pod/store", "--for=condition=Ready", "--timeout=100s")
    return lambda code: kube.run("exec", "store", "--", "python3", "-c", code)


def test_object_store(kube, store):
    """A CSV file in an object store is read with keys that the oracle alone has, and has been learned."""
    store(PUT)
    applied(kube, "object-store")
    kube.until("pods of all roles", lambda: all(kube.pods("object-store", role) for role in ROLES), 120)
    keys = {role: kube.pods("object-store", role)[0]["spec"]["containers"][0].get("envFrom") for role in ROLES}
    assert keys == {"oracle": [{"secretRef": {"name": "object-store"}}], "server": None, "trainer": None}
    evaluation = kube.wait("object-store", "Complete", 240)["summary"]["evaluation"]
    assert evaluation["examples"] == 500 and evaluation["auc"] > 0.7


def test_a_secret_in_the_environment(kube):
    """The trainers of the isolated job see the secret, and nobody else does."""
    applied(kube, "isolated")
    kube.wait("isolated", "Running", 120)

    def names(role):
        (container, *_) = kube.pods("isolated", role)[0]["spec"]["containers"]
        return [source["secretRef"]["name"] for source in container.get("envFrom", [])]

    assert names("trainer") == ["tracking"] and names("oracle") == names("server") == []


def test_suspended(kube):
    """The held sample makes no pod until it is let go, by the command in its first line; then it completes."""
    applied(kube, "suspended")
    kube.wait("held", "Suspended", 60)
    assert kube.pods("held") == []
    kube.run("patch", "bpj", "held", "--type", "merge", "-p", '{"spec":{"runPolicy":{"suspend":false}}}')
    assert kube.wait("held", "Complete", 240)["summary"]["steps"] == 20


@pytest.fixture
def spot_node(kube):
    """A node that bears the label and the taint of spot capacity until the end of the test."""
    nodes = kube.get("nodes")["items"]
    name = next(n["metadata"]["name"] for n in nodes if not n["spec"].get("taints"))
    kube.run("label", "node", name, "example.com/capacity=spot")
    kube.run("taint", "node", name, "example.com/spot=true:NoSchedule")
    yield name
    kube.run("taint", "node", name, "example.com/spot-")
    kube.run("label", "node", name, "example.com/capacity-")


def test_spot(kube, spot_node):
    """Only trainers go to spot nodes; one that is taken back is a disruption, and training goes on."""
    applied(kube, "spot")
    kube.until("a checkpoint", lambda: kube.status("spot").get("progress", {}).get("step", 0) >= 60, 240)
    assert {pod["spec"]["nodeName"] for pod in kube.pods("spot", "trainer")} == {spot_node}
    others = kube.pods("spot", "oracle") + kube.pods("spot", "server")
    assert spot_node not in {pod["spec"]["nodeName"] for pod in others}
    taken = kube.pods("spot", "trainer")[0]["metadata"]["name"]
    kube.run("delete", "pod", taken, "--grace-period=1")
    status = kube.wait("spot", "Complete", 600)
    assert (status["summary"]["steps"], status["disruptions"], status["restarts"]) == (300, 1, 0)

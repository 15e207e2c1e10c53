"""`manifests/eks/`: the jobs are the experiment's, the clusters are well formed and have what the jobs ask for."""

from pathlib import Path

import pytest
import yaml

from bagpipe.client.podcheck.profiles import PROFILES
from bagpipe.config.load import load_job
from bagpipe.experiment import suite

ROOT = Path(__file__).resolve().parents[3]
EKS = ROOT / "manifests" / "eks"
GPUS = {"p3.2xlarge": "v100", "g6.2xlarge": "l4"}
CLUSTERS = ["cluster-v100.yaml", "cluster-g6.yaml"]


def node_groups(file: str) -> dict[str, dict]:
    cluster = yaml.safe_load((EKS / file).read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("eksctl.io/v1alpha5", "ClusterConfig")
    assert {"name", "region", "version"} <= set(cluster["metadata"])
    return {group["instanceType"]: group for group in cluster["managedNodeGroups"]}


@pytest.mark.parametrize("model", suite.MODELS)
def test_each_job_file_is_the_experiments(model):
    """Each passes the project's own schema and is what `bagpipe experiment six-models` submits by itself."""
    path = EKS / "jobs" / f"{model}.yaml"
    assert load_job(path).spec.model.name == model
    assert yaml.safe_load(path.read_text()) == suite.job_document(model, "paper")


def test_there_are_six_jobs():
    """No more and no fewer files."""
    assert sorted(p.stem for p in (EKS / "jobs").iterdir()) == sorted(suite.MODELS)


def test_the_papers_cluster():
    """8 x p3.2xlarge and 2 x c5.18xlarge, as in the paper."""
    sizes = {kind: group["desiredCapacity"] for kind, group in node_groups("cluster-v100.yaml").items()}
    assert sizes == {"p3.2xlarge": 8, "c5.18xlarge": 2}


@pytest.mark.parametrize("file", CLUSTERS)
def test_nodes_are_well_formed(file):
    """Capacities lie within their bounds, all nodes in one zone of the region, disks are gp3."""
    region = yaml.safe_load((EKS / file).read_text())["metadata"]["region"]
    groups = node_groups(file).values()
    zones = {zone for group in groups for zone in group["availabilityZones"]}
    assert len(zones) == 1
    assert zones.pop().startswith(region)
    for group in groups:
        assert 0 <= group["minSize"] <= group["desiredCapacity"] <= group["maxSize"]
        assert group["volumeType"] == "gp3"


@pytest.mark.parametrize("file", CLUSTERS)
def test_trainers_find_their_nodes_and_nobody_else_does(file):
    """The operator's profile selects the GPU nodes by their label and tolerates their taint; other nodes have none."""
    groups = node_groups(file)
    [kind] = groups.keys() & GPUS.keys()
    profile = PROFILES[GPUS[kind]]
    group = groups[kind]
    assert profile["nodeSelector"].items() <= group["labels"].items()
    for taint in group["taints"]:
        assert any(
            t["key"] == taint["key"] and t["operator"] == "Exists" and t["effect"] == taint["effect"]
            for t in profile["tolerations"]
        )
    assert group["taints"]
    assert not any("taints" in other for name, other in groups.items() if name != kind)


@pytest.mark.parametrize("model", suite.MODELS)
def test_jobs_fit_the_papers_cluster(model):
    """As many trainers as GPU nodes, a profile that the operator has, and the claim that storage.yaml makes."""
    spec = load_job(EKS / "jobs" / f"{model}.yaml").spec
    assert spec.trainers.replicas * PROFILES[spec.trainers.gpu_profile]["gpus"] == 8
    claims = {v["persistentVolumeClaim"]["claimName"] for v in spec.oracle.volumes}
    made = [d for d in yaml.safe_load_all((EKS / "storage.yaml").read_text()) if d["kind"] == "PersistentVolumeClaim"]
    assert claims == {d["metadata"]["name"] for d in made}
    assert spec.data.path.startswith(spec.oracle.volume_mounts[0]["mountPath"] + "/")


def test_claims_name_classes_that_are_made():
    """Every storage class that is asked for is defined beside it."""
    documents = list(yaml.safe_load_all((EKS / "storage.yaml").read_text()))
    classes = {d["metadata"]["name"]: d for d in documents if d["kind"] == "StorageClass"}
    asked = {d["spec"]["storageClassName"] for d in documents if d["kind"] == "PersistentVolumeClaim"}
    assert asked <= set(classes)
    assert {c["provisioner"] for c in classes.values()} == {"ebs.csi.aws.com", "efs.csi.aws.com"}

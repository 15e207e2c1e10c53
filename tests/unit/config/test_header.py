"""A job as kubectl prints it is the job that was submitted."""

import pytest
import yaml

from bagpipe.config.load import load_job, parse_job, read_job_file
from bagpipe.errors import ConfigError

JOB = {
    "apiVersion": "bagpipe.dev/v1alpha1",
    "kind": "BagpipeJob",
    "metadata": {
        "name": "j",
        "namespace": "team-a",
        "labels": {"a": "b"},
        "uid": "0c1d",
        "resourceVersion": "12",
        "generation": 3,
        "creationTimestamp": "2026-11-28T18:00:00Z",
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "x"},
    },
    "spec": {"data": {"format": "synthetic"}, "optimizer": {"lr": 0.5}},
    "status": {"phase": "Running", "conditions": []},
}


def test_an_object_of_the_cluster(tmp_path) -> None:
    """`kubectl get -o yaml`: what the cluster wrote is left out, what the user wrote stays."""
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(JOB))
    file = read_job_file(path)
    assert (file.job.metadata.name, file.job.metadata.namespace, file.job.spec.optimizer.lr) == ("j", "team-a", 0.5)
    metadata = {"name": "j", "namespace": "team-a", "labels": {"a": "b"}, "annotations": {"mine": "x"}}
    assert file.document == {key: JOB[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": metadata}


def test_a_list_of_one(tmp_path) -> None:
    """A `List` of one job is that job, and its mistakes are found on their own lines."""
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [JOB], "metadata": {}}))
    assert load_job(path).metadata.name == "j"
    path.write_text("kind: List\nitems:\n- spec:\n    data: {format: synthetic}\n    stepz: 3\n")
    with pytest.raises(ConfigError, match=r"job.yaml:5: spec\.stepz: unknown setting; did you mean steps\?"):
        load_job(path)


@pytest.mark.parametrize("items", [[], [JOB, JOB], [3], None, "x"], ids=["none", "two", "no job", "null", "text"])
def test_a_list_of_another_number(items) -> None:
    """Several jobs are no job: the remedy is named."""
    with pytest.raises(ConfigError, match=r"^x:\d+: items: expected one BagpipeJob, found .*; name one job"):
        parse_job(yaml.safe_dump({"kind": "List", "items": items}), "x")


def test_overrides_go_into_the_document(tmp_path) -> None:
    """What is submitted is what the user wrote with every override applied, and nothing that was left out."""
    path = tmp_path / "job.yaml"
    path.write_text("spec:\n  data: {format: synthetic}\n  optimizer: {lr: 1e-3}\n")
    file = read_job_file(path, ["steps=5"])
    spec = {"data": {"format": "synthetic"}, "optimizer": {"lr": 1e-3}, "steps": 5}
    assert file.document == {"apiVersion": "bagpipe.dev/v1alpha1", "kind": "BagpipeJob", "spec": spec}

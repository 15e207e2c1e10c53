"""What users may say about pods as settings of their own, what children inherit, and whether anything is kept."""

import pytest

ALL = {
    "envFrom": [{"configMapRef": {"name": "shared"}}],
    "imagePullSecrets": [{"name": "registry"}],
    "hostAliases": [{"ip": "10.0.0.9", "hostnames": ["db"]}],
    "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
    "securityContext": {"fsGroup": 7, "supplementalGroups": [8]},
    "initContainers": [{"name": "copy", "image": "x"}],
}


def spec_of(w, role):
    owner = {
        "server": ("StatefulSet", "j-servers"),
        "trainer": ("Job", "j-trainers-0"),
        "oracle": ("Job", "j-oracle-0"),
    }
    return w.objects[owner[role]]["spec"]["template"]["spec"]


def test_settings_reach_every_pod(world):
    """What `allRoles` says is in the pods of every role, in Kubernetes' own fields."""
    w = world({"allRoles": ALL}, settings={"imagePullSecrets": ["ours"]}).settle()
    for role in ("oracle", "server", "trainer"):
        spec = spec_of(w, role)
        assert spec["containers"][0]["envFrom"] == ALL["envFrom"]
        assert [s["name"] for s in spec["imagePullSecrets"]] == ["ours", "registry"]
        assert spec["hostAliases"] == ALL["hostAliases"] and spec["dnsConfig"] == ALL["dnsConfig"]


def test_a_roles_own_come_on_top(world):
    """A role's variables come after those of all roles, its named things replace theirs."""
    trainers = {
        "replicas": 2,
        "envFrom": [{"secretRef": {"name": "own"}}],
        "initContainers": [{"name": "copy", "image": "y"}],
    }
    spec = spec_of(world({"allRoles": ALL, "trainers": trainers}).settle(), "trainer")
    assert [next(iter(e.values()))["name"] for e in spec["containers"][0]["envFrom"]] == ["shared", "own"]
    assert [(c["name"], c["image"]) for c in spec["initContainers"]] == [("copy", "y")]


def test_the_restricted_profile_stays(world):
    """A security context is laid over the restricted one; init containers are restricted unless they say otherwise."""
    spec = spec_of(world({"allRoles": ALL}).settle(), "trainer")
    context = spec["securityContext"]
    assert (context["fsGroup"], context["supplementalGroups"], context["runAsNonRoot"]) == (7, [8], True)
    assert spec["initContainers"][0]["securityContext"] == spec["containers"][0]["securityContext"]


def test_an_init_container_is_not_the_main_one(world):
    """The main container's name is the operator's: its exit code decides."""
    w = world({"oracle": {"initContainers": [{"name": "bagpipe", "image": "x"}]}}).settle()
    assert "spec.oracle.initContainers: 'bagpipe' belongs to the operator" in w.condition("Failed")["message"]


def test_children_inherit_what_is_named(world):
    """Named labels and those of a named prefix are on every child and pod; those that we or Kueue act on never are."""
    labels = {
        "team": "ads",
        "cost.example.com/center": "7",
        "other": "x",
        "kueue.x-k8s.io/queue-name": "q",
        "bagpipe.dev/role": "y",
    }
    keys = ["team", "cost.example.com/*", "kueue.x-k8s.io/*", "bagpipe.dev/*", "absent"]
    w = world({"runPolicy": {"inherit": keys}, "checkpoint": {"volumeClaim": {}}}, labels=labels).run()
    kinds = {kind for kind, _ in w.objects}
    assert {"ConfigMap", "Service", "PersistentVolumeClaim", "StatefulSet", "Job", "Pod"} <= kinds
    for raw in w.objects.values():
        found = raw["metadata"]["labels"]
        assert (found["team"], found["cost.example.com/center"]) == ("ads", "7")
        assert (
            "other" not in found and "kueue.x-k8s.io/queue-name" not in found and found.get("bagpipe.dev/role") != "y"
        )


def test_a_label_that_changes_later_is_carried_out(world):
    """A job's changed label is put on the objects that can be changed; pods that run are left alone."""
    w = world({"runPolicy": {"inherit": ["team"]}}, labels={"team": "ads"}).run()
    w.labels["team"] = "web"
    w.settle()
    assert w.objects["Service", "j-oracle"]["metadata"]["labels"]["team"] == "web"
    assert {p["metadata"]["labels"]["team"] for p in w.live_pods()} == {"ads"} and w.is_true("Running")


MOUNTS = [{"name": "shared", "mountPath": "/data"}]
CLAIM = {"name": "shared", "persistentVolumeClaim": {"claimName": "mine"}}


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ({}, False),
        ({"checkpoint": {"volumeClaim": {"size": "1Gi"}}}, True),
        ({"checkpoint": {"volumeClaim": {}}}, True),
        ({"checkpoint": {"path": "/somewhere"}}, False),
        (
            {
                "checkpoint": {"path": "/data/c"},
                "allRoles": {"volumes": [CLAIM], "volumeMounts": MOUNTS},
            },
            True,
        ),
        (
            {
                "checkpoint": {"path": "/database"},
                "allRoles": {"volumes": [CLAIM], "volumeMounts": MOUNTS},
            },
            False,
        ),
        (
            {
                "checkpoint": {"path": "/data"},
                "allRoles": {"volumes": [{"name": "shared", "emptyDir": {}}], "volumeMounts": MOUNTS},
            },
            False,
        ),
        (
            {"checkpoint": {"path": "/data"}, "trainers": {"volumes": [CLAIM], "volumeMounts": MOUNTS}},
            False,
        ),
    ],
)
def test_nothing_kept_is_said(world, spec, kept):
    """Where no volume outlives the pods the job says so, with a warning, while it starts."""
    w = world(spec).settle()
    said = w.condition("ModelKept")
    assert (said is None) is kept and (("Warning", "NothingOutlivesPods") in w.events) is not kept
    if not kept:
        assert said["status"] == "False" and "checkpoint" in said["message"]


def test_a_volume_that_the_installation_gives_keeps_the_model(world):
    """Volumes of `jobs.defaults` are in the pods as a job's own are: what is mounted there outlives them."""
    given = {
        "volumes": [{"name": "lasting", "nfs": {"server": "s", "path": "/"}}],
        "volumeMounts": [{"name": "lasting", "mountPath": "/models"}],
    }
    w = world({"checkpoint": {"path": "/models/a"}}, settings={"jobDefaults": {"allRoles": given}}).run()
    assert w.condition("ModelKept") is None


def test_the_first_sample_keeps_its_model(world):
    """The sample that a newcomer tries first, `minimal.yaml`, keeps its model."""
    from pathlib import Path

    import yaml

    file = Path(__file__).parents[2] / "manifests" / "samples" / "minimal.yaml"
    assert world(yaml.safe_load(file.read_text())["spec"]).run().condition("ModelKept") is None


def test_an_empty_claim_is_a_claim(world):
    """A claim whose settings are all left out is one with the defaults, for checkpoints and for servers."""
    w = world({"checkpoint": {"volumeClaim": {}}, "servers": {"replicas": 2, "volumeClaim": {}}}).settle()
    sizes = [
        w.objects["PersistentVolumeClaim", "j-checkpoints"]["spec"],
        w.objects["StatefulSet", "j-servers"]["spec"]["volumeClaimTemplates"][0]["spec"],
    ]
    assert [s["resources"]["requests"]["storage"] for s in sizes] == ["10Gi", "10Gi"]


def test_pods_in_their_nodes_network_find_their_peers(world):
    """Such a pod resolves names as its node does, unless it is told to ask the cluster; what a user says stands."""
    w = world(
        {
            "allRoles": {"podTemplate": {"spec": {"hostNetwork": True}}},
            "oracle": {"dnsConfig": {"nameservers": ["10.0.0.2"]}, "podTemplate": {"spec": {"dnsPolicy": "None"}}},
        }
    )
    w.settle()
    found = {role: spec_of(w, role)["dnsPolicy"] for role in ("oracle", "server", "trainer")}
    assert found == {"oracle": "None", "server": "ClusterFirstWithHostNet", "trainer": "ClusterFirstWithHostNet"}

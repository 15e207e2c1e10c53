"""What an installation lets its jobs ask for holds for every field of a job, and for nothing of the operator's own."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_operator import logs, main
from bagpipe_operator.api import SpecError
from bagpipe_operator.podcheck.limits import amount
from bagpipe_operator.settings import Settings

LIMITS = {
    "images": ["registry.example/ml/"],
    "maxServers": 3,
    "maxTrainers": 4,
    "maxResources": {"cpu": 2, "memory": "4Gi", "nvidia.com/gpu": 1},
    "volumes": ["csi"],
    "serviceAccounts": ["trainer"],
    "priorityClasses": ["batch"],
}


def template(**spec):
    return {"podTemplate": {"spec": spec}}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"trainers": {"replicas": 5}}, "spec.trainers.replicas: this installation allows 4, found 5"),
        ({"servers": {"replicas": 4}}, "spec.servers.replicas: this installation allows 3, found 4"),
        ({"oracle": {"image": "docker.example/x"}}, "image of container 'bagpipe'"),
        ({"allRoles": {"initContainers": [{"name": "i", "image": "busybox"}]}}, "image of container 'i'"),
        ({"trainers": template(containers=[{"name": "side", "image": "busybox"}])}, "image of container 'side'"),
        (
            {"oracle": {"volumes": [{"name": "w", "image": {"reference": "busybox"}}]}},
            "image of volume 'w': this installation allows images that begin with registry.example/ml/",
        ),
        ({"trainers": {"resources": {"requests": {"cpu": "2500m"}}}}, "resources.requests.cpu"),
        ({"trainers": {"resources": {"limits": {"memory": "5G"}}}}, "resources.limits.memory"),
        (
            {"trainers": template(containers=[{"name": "bagpipe", "resources": {"limits": {"nvidia.com/gpu": 2}}}])},
            "gpu",
        ),
        ({"servers": template(resources={"limits": {"cpu": 64}})}, "resources.limits.cpu of the pod"),
        ({"oracle": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}}, "volume 'h'"),
        ({"oracle": template(volumes=[{"name": "n", "nfs": {"server": "x", "path": "/"}}])}, "volume 'n'"),
        ({"allRoles": {"serviceAccountName": "admin"}}, "serviceAccountName: this installation allows trainer"),
        ({"servers": template(serviceAccount="admin")}, "serviceAccount: this installation allows trainer"),
        (
            {"servers": template(containers=[{"name": "bagpipe", "resources": {"limits": {"cpu": "NaN"}}}])},
            "found the text 'NaN'",
        ),
        ({"servers": template(priorityClassName="system-node-critical")}, "priorityClassName"),
    ],
)
def test_more_than_allowed_is_refused(world, spec, words):
    """The job fails at once, by name of what is too much, and nothing of it was made."""
    w = world(spec, settings={"jobLimits": LIMITS}).settle()
    failed = w.condition("Failed")
    assert (failed["reason"], failed["status"]) == ("InvalidSpec", "True") and words in failed["message"]
    assert w.live_pods() == []


def test_as_much_as_allowed_runs(world):
    """At each limit a job runs, and what the operator makes itself is never too much."""
    spec = {
        "allRoles": {
            "serviceAccountName": "trainer",
            "priorityClassName": "batch",
            "volumes": [{"name": "c", "csi": {"driver": "d"}}, {"name": "m", "configMap": {"name": "x"}}],
        },
        "servers": {"replicas": 3},
        "trainers": {
            "replicas": 4,
            "image": "registry.example/ml/own:1",
            "resources": {"requests": {"cpu": "2000m", "memory": "4096Mi"}, "limits": {"nvidia.com/gpu": 1}},
        },
        "checkpoint": {"path": "/checkpoints", "volumeClaim": {"size": "1Gi"}},
    }
    w = world(spec, settings={"jobLimits": LIMITS}).run()
    assert w.status["phase"] == "Running"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"maxPods": 3}, "jobLimits: unknown key 'maxPods'"),
        ({"maxTrainers": 0}, "jobLimits.maxTrainers: expected a whole number from 1"),
        ({"images": "x"}, "jobLimits.images: expected a list"),
        ({"maxResources": {"cpu": "many"}}, "jobLimits.maxResources.cpu: expected a quantity"),
    ],
)
def test_wrong_limits_end_the_operator_at_its_start(limits, words):
    """A mistake in the installation's own settings is told by name."""
    with pytest.raises(SpecError, match=words.replace("'", ".")):
        Settings.of({"jobLimits": limits})


@given(st.integers(0, 10**6), st.sampled_from(["m", "", "k", "Ki", "M", "Mi", "G", "Gi", "T", "Ti"]))
def test_quantities_are_compared_as_numbers(number, suffix):
    """`500m` is half, and a suffix with an i counts in powers of 1024."""
    base, power = (1024, "KMGT".index(suffix[0]) + 1) if suffix.endswith("i") else (1000, "kMGT".find(suffix[:1]) + 1)
    expected = Decimal(number) / 1000 if suffix == "m" else Decimal(number) * base ** (power if suffix else 0)
    assert amount(f"{number}{suffix}", "x") == expected


@pytest.mark.parametrize("text", ["", "x", "NaN", "Infinity", "1_0", "1e99999", "5 Gi", "5gi", "--1"])
def test_what_is_no_quantity_is_refused(text):
    """A text that only Python takes for a number is no quantity of Kubernetes."""
    with pytest.raises(SpecError, match="expected a quantity"):
        amount(text, "x")


def test_scaling_beyond_the_limit_ends_no_attempt(world):
    """A job that runs goes on with the trainers that it has, and says so until it is scaled back."""
    w = world({"trainers": {"replicas": 2}}, settings={"jobLimits": LIMITS}).run()
    w.spec["trainers"]["replicas"] = 9
    w.settle()
    told = w.condition("Reconciled")
    assert (told["status"], told["reason"]) == ("False", "BeyondLimits") and "allows 4, found 9" in told["message"]
    assert w.status["phase"] == "Running" and w.status.get("attempt", 0) == 0
    w.spec["trainers"]["replicas"] = 2
    w.settle()
    assert w.condition("Reconciled")["status"] == "True" and w.status.get("attempt", 0) == 0


@pytest.mark.parametrize("gang", ["None", "Coscheduling"])
def test_an_attempt_that_starts_goes_on_with_what_it_has(world, gang):
    """More than is allowed, asked for before all pods run, is not waited for: neither by the job nor by its gang."""
    settings = {"jobLimits": LIMITS, "gangSchedulers": ["Coscheduling"]}
    w = world({"trainers": {"replicas": 2}, "runPolicy": {"gang": gang}}, settings=settings).settle()
    w.spec["trainers"] = {"replicas": 9}
    w.run()
    assert w.is_true("Running") and w.condition("Reconciled")["reason"] == "BeyondLimits"
    assert [o["spec"]["minMember"] for (kind, _), o in w.objects.items() if kind.startswith("PodGroup")] in ([], [5])
    w.complete()
    assert w.condition("Complete")["message"].startswith("all 2 trainers ")


def test_quota_is_not_given_up_for_more_than_is_allowed(world):
    """A job with a queue runs on with its quota when it is scaled beyond the limits, as one without a queue does."""
    spec = {"trainers": {"replicas": 2}, "runPolicy": {"queueName": "q"}}
    w = world(spec, settings={"jobLimits": LIMITS, "kueue": True}).settle()
    workload = w.objects["Workload", "bagpipejob-j"]
    given = [{"name": s["name"], "count": s["count"]} for s in workload["spec"]["podSets"]]
    true = [{"type": kind, "status": "True"} for kind in ("QuotaReserved", "Admitted")]
    workload["status"] = {"conditions": true, "admission": {"podSetAssignments": given}}
    w.run()
    w.spec["trainers"] = {"replicas": 9}
    w.settle()
    assert w.is_true("Running") and w.condition("Reconciled")["reason"] == "BeyondLimits"
    assert w.objects["Workload", "bagpipejob-j"]["spec"] == workload["spec"]
    w.end(w.pod("trainer"), 1)
    w.settle()
    assert w.condition("Failed")["reason"] == "InvalidSpec"  # The next attempt would be of nine.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workers": "8"}, "workers: expected a whole number, found the text '8'"),
        ({"progressSeconds": "1e+06"}, "progressSeconds: expected a whole number, found the text '1e+06'"),
        ({"runAsUser": 1000650000.0}, "runAsUser: expected a whole number, found the number 1000650000.0"),
        ({"kueue": "yes"}, "kueue: expected true or false, found the text 'yes'"),
        ({"workers": True}, "workers: expected a whole number, found the flag true"),
        ({"namespaces": "ml"}, "namespaces: expected a list, found the text 'ml'"),
        ({"profiles": {"x": 5}}, "profiles.x: expected a map, found the number 5"),
        ({"profiles": {"x": {"gpus": "2"}}}, "profiles.x: gpus: expected a whole number, found the text '2'"),
        ({"profiles": {"x": {"image": True}}}, "profiles.x: image: expected a text, found the flag true"),
        (
            {"profiles": {"x": {"runtimeClassName": 5}}},
            "profiles.x: runtimeClassName: expected a text, found the number 5",
        ),
        ({"renewSeconds": 10}, "renewSeconds: expected less than two thirds of leaseSeconds (15), found 10"),
    ],
)
def test_settings_of_another_type_are_refused(settings, words):
    """A value that would end the operator in the middle of its work ends it at its start, by its name."""
    with pytest.raises(SpecError) as caught:
        Settings.of(settings)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["- a", "a: {", "workers: many", None])
def test_wrong_settings_are_one_line_and_no_traceback(tmp_path, monkeypatch, caplog, text):
    """The operator's log says what is wrong in its settings, and where; the exit code is 78."""
    path = tmp_path / "operator.yaml"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr("sys.argv", ["bagpipe-operator", "--config", str(path)])
    monkeypatch.setattr(logs, "configure", lambda level: None)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 78
    [line] = [r for r in caplog.records if r.levelname == "CRITICAL"]
    assert line.getMessage() == "settings not usable" and line.exc_info is None and "\n" not in line.error

"""The check of a job's pods: the same in the library and in the operator, and right about what Kubernetes takes."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bagpipe.client import podcheck
from bagpipe.client.installation import read_installation
from bagpipe.client.podcheck import reserved, typed
from bagpipe_operator import names
from bagpipe_operator import podcheck as operators
from bagpipe_operator.api import Job, SpecError
from bagpipe_operator.children import check_gang, check_limits, check_pods
from bagpipe_operator.settings import Settings

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "controller"
REFUSED = yaml.safe_load((CASES / "refused_pods.yaml").read_text())
MALFORMED = yaml.safe_load((CASES / "malformed.yaml").read_text())
ADMITTED = yaml.safe_load((CASES / "admitted_pods.yaml").read_text())
OPERATOR = Settings.of({})


def operator_says(spec, installed=None):
    """The words with which the operator would end such a job; None: it would run it."""
    meta = {"name": "j", "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": "1"}
    job = Job.of({"metadata": meta, "spec": spec})
    try:
        check_pods(job, Settings.of({"jobDefaults": installed}) if installed else OPERATOR)
    except SpecError as error:
        return job.fault or str(error)
    return job.fault or None


def document(spec):
    return {"data": {"format": "synthetic"}, **spec}


def test_the_operators_check_is_the_librarys():
    """There is one folder of rules; the operator's is a link to it."""
    assert Path(operators.__file__).resolve() == Path(podcheck.__file__).resolve()


def test_the_fields_are_as_they_are_generated():
    """`python tools/generate_podcheck.py` would change nothing."""
    program = ROOT / "tools" / "generate_podcheck.py"
    done = subprocess.run([sys.executable, program, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_belongs_to_the_operator_has_its_names():
    """The names that are refused are those that the operator uses."""
    role = names.Role.TRAINER
    assert names.labels("j", role, 0).keys() == reserved.LABELS
    assert {names.ENV_CURVE_DIR, names.ENV_TOKEN} < reserved.ENV and names.CONTAINER == reserved.CONTAINER
    made = operators.sketch.template({"checkpoint": {"volumeClaim": {}}}, "trainers", {})
    assert {v["name"] for v in made["spec"]["volumes"]} == reserved.VOLUMES


@pytest.mark.parametrize("case", [*REFUSED, *MALFORMED], ids=lambda c: c["says"][:60])
def test_both_refuse_it_in_the_same_words(case):
    """What the API server admits with a job, and no pod can be made of or started with: path, fault and remedy."""
    assert podcheck.job_fault(document(case["spec"])) == operator_says(document(case["spec"])) == case["says"]


@pytest.mark.parametrize("spec", ADMITTED, ids=str)
def test_neither_refuses_what_runs(spec):
    """However odd it looks; fields that only a later release of Kubernetes may know are left to its API server."""
    assert (podcheck.job_fault(document(spec)), operator_says(document(spec))) == (None, None)


def test_the_samples_are_found_sound():
    """Every BagpipeJob of `manifests/samples`."""
    files = sorted((ROOT / "manifests" / "samples").rglob("*.yaml"))
    jobs = [d for f in files for d in yaml.safe_load_all(f.read_text()) if d["kind"] == names.KIND]
    assert len(jobs) > 8
    assert [podcheck.job_fault(job["spec"]) or operator_says(job["spec"]) for job in jobs] == [None] * len(jobs)


def test_an_installations_volumes_may_be_mounted():
    """The operator knows them, and names their place where they are at fault themselves."""
    mount = {"trainers": {"volumeMounts": [{"name": "shared", "mountPath": "/s"}]}}
    volume = {"allRoles": {"volumes": [{"name": "shared", "nfs": {"server": "s", "path": "/"}}]}}
    assert "no volume 'shared'" in operator_says(document(mount)) and operator_says(document(mount), volume) is None
    volume["allRoles"]["volumes"][0]["nfs"]["path"] = "x"
    assert operator_says(document(mount), volume).startswith("jobDefaults.allRoles.volumes[0].nfs.path: expected an ab")


VALUES = {
    "profiles": {"big": {"gpus": 4, "image": "own/gpu:1"}, "cpu": {}},
    "gangSchedulers": ["Volcano"],
    "jobs": {
        "defaults": {"allRoles": {"resources": {"requests": {"cpu": 3}}}},
        "limits": {"maxTrainers": 4, "maxResources": {"cpu": 8, "nvidia.com/gpu": 2}, "volumes": ["csi"]},
        "classes": {
            "heavy": {"gpuProfile": "big"},
            "light": {"limits": {"images": ["team/"], "maxResources": {"cpu": 2}}},
            "mounting": {"defaults": {"oracle": {"volumes": [{"name": "n", "nfs": {"server": "s", "path": "/"}}]}}},
        },
    },
}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, None),
        ({"trainers": {"replicas": 5}}, "spec.trainers.replicas: this installation allows 4, found 5"),
        ({"trainers": {"gpuProfile": "huge"}}, "spec.trainers.gpuProfile: no profile 'huge' in this installation; kn"),
        ({"trainers": {"gpuProfile": "v100"}}, None),
        ({"trainers": {"gpuProfile": "big"}}, "resources.limits.nvidia.com/gpu of container 'bagpipe': this installat"),
        ({"runPolicy": {"jobClass": "heavy"}}, "resources.limits.nvidia.com/gpu of container 'bagpipe': this installa"),
        ({"runPolicy": {"jobClass": "heavy"}, "trainers": {"gpuProfile": "cpu"}}, None),
        ({"runPolicy": {"jobClass": "light"}}, "resources.requests.cpu of container 'bagpipe': the class light allows"),
        (
            {"runPolicy": {"jobClass": "light"}, "allRoles": {"image": "x", "resources": {"requests": {"cpu": 1}}}},
            "image of container 'bagpipe': the class light allows images that begin with team/",
        ),
        ({"runPolicy": {"jobClass": "mounting"}}, "spec.oracle: volume 'n': this installation allows configMap, csi,"),
        ({"runPolicy": {"jobClass": "lite"}}, "no class 'lite' in this installation; known: heavy, light, mounting"),
        ({"runPolicy": {"gang": "Coscheduling"}}, "this installation does not serve Coscheduling; gangSchedulers: Vo"),
        ({"servers": {"podTemplate": {"spec": {"containers": [{"name": "c", "image": "i"}], "volumes": []}}}}, None),
    ],
)
def test_an_installation_is_judged_alike(tmp_path, spec, words):
    """By its values file the library says what the operator, with the settings that the chart makes of it, says."""
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    jobs = {f"job{key.title()}": value for key, value in VALUES["jobs"].items()}
    settings = Settings.of({**jobs, "profiles": VALUES["profiles"], "gangSchedulers": VALUES["gangSchedulers"]})
    meta = {"name": "j", "namespace": "n", "uid": "u"}
    job, theirs = Job.of({"metadata": meta, "spec": document(spec)}), None
    try:
        chosen = settings.for_class(job.run_policy.job_class)
        for check in (check_pods, check_gang, check_limits):
            check(job, chosen)
    except SpecError as error:
        theirs = str(error)
    assert read_installation(path).fault(document(spec)) == theirs
    assert theirs is words is None or words in theirs


def test_jobs_of_another_operator_are_not_this_installations(tmp_path):
    """Nobody else would say so: the operator passes over jobs of other classes."""
    path = tmp_path / "values.yaml"
    path.write_text("operatorClass: gpu")
    says = read_installation(path).fault(document({}))
    assert says == "spec.runPolicy.operatorClass: this installation runs jobs of the class 'gpu', found None"
    assert read_installation(path).fault(document({"runPolicy": {"operatorClass": "gpu"}})) is None


def test_a_document_that_no_config_map_holds_is_refused(monkeypatch):
    """The API server takes a job that is larger; its roles would never be told of it."""
    for one in (podcheck, operators):
        monkeypatch.setattr(one.job_rules, "MOST_BYTES", 5000)
    fits = {"model": {"notes": ["x" * 10] * 250}}
    large = {"model": {"notes": ["x" * 10] * 400}}
    says = podcheck.job_fault(document(large))
    assert says == operator_says(document(large)) and says.startswith("spec: ") and "holds 5,000" in says
    assert (podcheck.job_fault(document(fits)), operator_says(document(fits))) == (None, None)


WORDS = st.sampled_from(
    ["", "a", "bagpipe", "bagpipe-tmp", "Always", "Exists", "In", "Localhost", "10Gi", "-1", "a b", "/x"]
)
SCALARS = {
    "string": WORDS,
    "quantity": WORDS | st.integers(-1, 2**70),
    "port": WORDS | st.integers(-1, 70_000),
    "bool": st.booleans(),
    "int": st.integers(-1, 2**32),
    "long": st.integers(-1, 2**64),
    "any": st.none(),
}


def of_kind(kind, depth=0):
    """Values of a type of Kubernetes' API, most of them with what is required; now and then anything else."""
    if kind.startswith("[]"):
        found = st.lists(of_kind(kind[2:], depth), max_size=2)
    elif kind.startswith("{}"):
        found = st.dictionaries(WORDS, of_kind(kind[2:], depth), max_size=2)
    elif kind in SCALARS:
        found = SCALARS[kind]
    else:
        fields = typed.types()[kind]
        inner = {name: st.deferred(lambda f=f: of_kind(f.kind, depth + 1)) for name, f in fields.items()}
        must = {name: inner[name] for name, f in fields.items() if f.required}
        # Deep in a pod, only what has to be there: so its many kinds of volumes do not drown everything else.
        some = st.sets(st.sampled_from(sorted(inner)), max_size=4 if depth < 3 else 1)
        found = some.flatmap(lambda names: st.fixed_dictionaries({**must, **{n: inner[n] for n in names}}))
    return found if depth < 2 else found | st.just(None)


SECTION = st.fixed_dictionaries(
    {},
    optional={
        "podTemplate": of_kind("PodTemplateSpec"),
        "volumes": of_kind("[]Volume"),
        "volumeMounts": of_kind("[]VolumeMount"),
        "tolerations": of_kind("[]Toleration"),
        "affinity": of_kind("Affinity"),
        "env": of_kind("[]EnvVar"),
        "resources": of_kind("ResourceRequirements"),
        "initContainers": of_kind("[]Container"),
        "topologySpreadConstraints": of_kind("[]TopologySpreadConstraint"),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(SECTION, st.sampled_from(["allRoles", "oracle", "servers", "trainers"]))
def test_any_pod_is_judged_alike(section, role):
    """Made from the types of Kubernetes' API: neither check raises, both say the same, and a fault has a path."""
    said = podcheck.job_fault(document({role: section}))
    assert said == operator_says(document({role: section}))
    assert said is None or said.startswith("spec.")

"""Whatever document the API server admits, and any other: the operator decides, or says what is wrong with it."""

import datetime as dt
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bagpipe_operator import names
from bagpipe_operator.api import Job
from bagpipe_operator.names import Role
from bagpipe_operator.observe import observe
from bagpipe_operator.reconcile import desired
from bagpipe_operator.settings import Settings

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SETTINGS = Settings.of({"kueue": True})
CRD = yaml.safe_load((Path(__file__).parents[2] / "charts/bagpipe/files/crd.yaml").read_text())
SPEC = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
READ = ("batchSize", "allRoles", "oracle", "servers", "trainers", "checkpoint", "transport", "runPolicy")

WORDS = st.sampled_from(
    ["", "a", "bagpipe", "bagpipe-config", "cpu", "v100", "POD_NAME", "/x", "10Gi", "true", "\ud83d"]
)
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS
FIELDS = """metadata labels annotations spec containers initContainers volumes volumeMounts env ports tolerations name
value mountPath containerPort hostAliases ip nodeSelector affinity args image resources limits requests x
imagePullSecrets topologySpreadConstraints securityContext restartPolicy"""
KEYS = st.sampled_from(FIELDS.split())
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
FREE = st.dictionaries(KEYS, ANY, max_size=4)
CONTAINERS = st.lists(FREE, max_size=2)
TEMPLATES = st.fixed_dictionaries(
    {},
    optional={
        "metadata": FREE | st.none(),
        "spec": st.fixed_dictionaries(
            {}, optional={"containers": CONTAINERS, "initContainers": CONTAINERS, "volumes": CONTAINERS, "x": ANY}
        )
        | FREE
        | st.none(),
    },
)


def admitted(schema, name=""):
    """Values that the API server takes for a node of the schema."""
    if name == "podTemplate":
        return TEMPLATES | FREE
    kind = schema.get("type")
    if "enum" in schema:
        found = st.sampled_from(schema["enum"])
    elif kind == "string":
        found = st.just("10Gi") if "pattern" in schema else WORDS.map(lambda w: w or "a")
    elif kind == "integer":
        found = st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1))
    elif kind == "number":
        found = st.floats(0.001, 1e300)
    elif kind == "boolean":
        found = st.booleans()
    elif kind == "array":
        found = st.lists(admitted(schema["items"]), max_size=2)
    elif "properties" in schema:
        found = st.fixed_dictionaries(
            {k: admitted(v, k) for k, v in schema["properties"].items() if k in schema.get("required", ())},
            optional={
                k: admitted(v, k) for k, v in schema["properties"].items() if k not in schema.get("required", ())
            },
        )
    elif "additionalProperties" in schema:
        found = st.dictionaries(KEYS, admitted(schema["additionalProperties"]), max_size=2)
    elif kind == "object":
        found = FREE
    else:
        found = ANY
    return found | st.none() if schema.get("nullable") else found


ADMITTED = st.fixed_dictionaries(
    {"data": st.just({"format": "synthetic"})},
    optional={name: admitted(SPEC["properties"][name]) for name in READ},
)


@st.composite
def beside(draw):
    """An admitted document with anything at all in one place."""
    document = draw(ADMITTED)
    place, target = draw(st.sampled_from(READ)), document
    if isinstance(document.get(place), dict) and document[place] and draw(st.booleans()):
        target, place = document[place], draw(st.sampled_from(sorted(document[place])))
    target[place] = draw(ANY)
    return document


STATUSES = (
    {},
    {"attempt": 1, "attemptTime": "2025-12-31T00:00:00Z", "startingSince": "2025-12-31T00:00:00Z"},
    {
        "runningSince": "2025-12-31T00:00:00Z",
        "attemptTime": "2025-12-31T00:00:00Z",
        "conditions": [
            {"type": "Running", "status": "True", "reason": "x", "lastTransitionTime": "2025-12-31T00:00:00Z"}
        ],
    },
    {
        "completionTime": "2025-12-31T00:00:00Z",
        "conditions": [
            {"type": "Failed", "status": "True", "reason": "x", "lastTransitionTime": "2025-12-31T00:00:00Z"}
        ],
    },
)


def children():
    """An oracle's Job and the servers of the job, as they are made."""
    owner = [{"kind": names.KIND, "name": "j", "uid": "u", "controller": True}]
    for kind, name in (("Job", "j-oracle-0"), ("StatefulSet", "j-servers")):
        yield {"kind": kind, "metadata": {"name": name, "uid": name, "ownerReferences": owner, "namespace": "n"}}


def decided(spec, status):
    meta = {"name": "j", "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": "1"}
    job = Job.of({"metadata": meta, "spec": spec, "status": status})
    return desired(job, observe("u", children(), []), SETTINGS, NOW)


@pytest.mark.parametrize("documents", [ADMITTED, beside()], ids=["admitted", "beside the schema"])
def test_every_document_is_decided(documents):
    """Nothing that a document contains raises: the job is run, or Failed as InvalidSpec; all of it can be written.

    A job that has not ended says why it is in its phase.
    """

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(documents, st.sampled_from(STATUSES))
    def check(spec, status):
        decision = decided(spec, status)
        if decision is not None:
            json.dumps([decision.status.to_dict(), decision.apply], allow_nan=False)
            assert decision.status.finished or decision.status.reason

    check()


def test_a_job_that_stops_says_why_although_its_status_was_lost():
    """Held while pods of it are there, and nothing was said of it before."""
    held = decided({"runPolicy": {"queueName": "q"}}, {}).status
    assert (held.phase, held.reason) == ("Suspending", "WaitingForQuota")


@pytest.mark.parametrize("role", list(Role))
def test_faults_name_their_place(role):
    """A fault is said with its path, what was expected and what was found."""
    decision = decided({names.SECTIONS[role]: {"podTemplate": {"spec": {"containers": ["x"]}}}}, {})
    message = next(c.message for c in decision.status.conditions if c.type == "Failed")
    place = f"spec.{names.SECTIONS[role]}.podTemplate.spec.containers[0]"
    assert message == f"{place}: expected a map, found the text 'x'"


def defaults(schema, path=""):
    """Path and value of each default in a schema."""
    if "default" in schema:
        yield path, schema["default"]
    for name, inner in schema.get("properties", {}).items():
        yield from defaults(inner, f"{path}.{name}".lstrip("."))


def test_no_release_adds_a_default_to_the_documents_that_there_are():
    """The API server puts a new default into every job at once; what runs would be taken for changed (`pins.judge`)."""
    assert dict(defaults(SPEC)) == {
        "servers": {},
        "servers.replicas": 1,
        "trainers": {},
        "trainers.replicas": 1,
        "runPolicy": {},
        "runPolicy.suspend": False,
    }

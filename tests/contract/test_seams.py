"""Where the library and the operator must agree, and nowhere else can they be compared."""

import sys
from pathlib import Path

import msgspec
import pytest
import typer.main
import yaml
import zmq

from bagpipe.cli.main import app
from bagpipe.config.document import API_VERSION, KIND, DataConfig, JobSpec, Metadata, ServerConfig, TrainerConfig
from bagpipe.config.document import RunPolicy as LibraryRunPolicy
from bagpipe.config.load import load_job
from bagpipe.config.pods import CheckpointClaim
from bagpipe.errors import ExitCode
from bagpipe.net.admission import TOKEN_VARIABLE
from bagpipe.net.curve import CURVE_DIR, CurveKeys
from bagpipe_operator import conditions, curve, defaults, names, times
from bagpipe_operator import pods as operator_pods
from bagpipe_operator.api import Job, RunPolicy, Status, camel
from bagpipe_operator.children import document
from bagpipe_operator.names import Role
from bagpipe_operator.observe import attempt_of
from bagpipe_operator.podcheck import spec_shape
from bagpipe_operator.settings import Settings

ROOT = Path(__file__).parent.parent.parent
CRD = yaml.safe_load((ROOT / "charts/bagpipe/files/crd.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SAMPLES = [
    path for path in sorted((ROOT / "manifests/samples").rglob("*.yaml")) if f"kind: {names.KIND}" in path.read_text()
]


def operator_job(document: dict) -> Job:
    meta = {"namespace": "ns", "uid": "u", "generation": 1, **document["metadata"]}
    return Job.of({**document, "metadata": meta})


def test_crd_is_generated(monkeypatch):
    """The CRD in the chart is what the library's settings say."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import generate_crd

    assert generate_crd.TARGET.read_text() == generate_crd.render(), "run python tools/generate_crd.py"


def test_crd_fits_client_side_apply():
    """`kubectl apply` keeps the whole object in an annotation of at most 256 KiB."""
    assert len((ROOT / "charts/bagpipe/files/crd.yaml").read_bytes()) < 200 * 1024


def test_no_attempt_that_the_status_may_hold_is_too_long_for_the_names_of_its_jobs():
    """Else the operator would take the job's own pods for those of an older job."""
    bounds = SCHEMA["properties"]["status"]["properties"]["attempt"]
    for attempt in (bounds["minimum"], bounds["maximum"], bounds["maximum"] + 1):  # A new attempt follows the last one.
        name = names.batch_job("j", Role.TRAINER, attempt)
        assert attempt_of({"kind": "Job", "metadata": {"name": name}}) == attempt


def test_names():
    """Group, version, kind, and the longest name."""
    assert (names.API_VERSION, names.KIND) == (API_VERSION, KIND)
    assert CRD["spec"]["names"]["plural"] == names.PLURAL and CRD["spec"]["group"] == names.GROUP
    limits = msgspec.json.schema(Metadata)["$defs"]["Metadata"]["properties"]["name"]
    assert limits["maxLength"] == names.MAX_NAME


def test_longest_names_fit():
    """With the longest name, the highest attempt and rank, every derived name is a DNS label."""
    job = "a" * names.MAX_NAME
    host = f"{names.batch_job(job, Role.TRAINER, 9999)}-9999"
    assert len(host) <= 63 and len(f"{names.stateful_set(job)}-999-1234567890") <= 63


def test_run_policy():
    """The operator's run policy has the library's fields and defaults."""
    theirs = {f.encode_name: f.default for f in msgspec.structs.fields(LibraryRunPolicy)}
    ours = {camel(name): field.default for name, field in RunPolicy.__dataclass_fields__.items()}
    assert ours == theirs
    assert set(SCHEMA["properties"]["spec"]["properties"]["runPolicy"]["properties"]) == set(ours)


def test_defaults():
    """What the operator takes a missing field for is what the library takes it for."""
    job, claim, servers, trainers = JobSpec(data=DataConfig()), CheckpointClaim(), ServerConfig(), TrainerConfig()
    assert job.batch_size == defaults.BATCH_SIZE and job.transport.security == defaults.TRANSPORT_SECURITY
    assert (
        claim.size,
        claim.access_mode,
        claim.retain,
    ) == (defaults.CLAIM_SIZE, defaults.CLAIM_ACCESS_MODE, defaults.CLAIM_RETAINED)
    assert defaults.REPLICAS == servers.replicas == trainers.replicas
    assert (servers.storage, trainers.gpu_profile) == (defaults.SERVER_STORAGE, defaults.GPU_PROFILE)
    described = {
        name: SCHEMA["properties"]["spec"]["properties"]["trainers"]["properties"][name]["description"]
        for name in ("terminationGracePeriodSeconds", "shmSize")
    }
    assert f"none: {defaults.TERMINATION_GRACE_SECONDS}." in described["terminationGracePeriodSeconds"]
    assert f"Trainers: {defaults.TRAINER_SHM_SIZE}," in described["shmSize"]
    assert f"(default path there: {defaults.CHECKPOINT_PATH})" in (ROOT / "docs" / "settings.md").read_text()


@pytest.mark.parametrize(
    ("field", "most"),
    [
        ("runPolicy.backoffLimit", spec_shape.MOST_FAILURES),
        ("runPolicy.disruptionLimit", spec_shape.MOST_FAILURES),
        ("runPolicy.activeDeadlineSeconds", spec_shape.MOST_SECONDS),
        ("runPolicy.startupDeadlineSeconds", spec_shape.MOST_SECONDS),
        ("runPolicy.ttlSecondsAfterFinished", spec_shape.MOST_SECONDS),
        ("runPolicy.nodeLostSeconds", spec_shape.MOST_SECONDS),
        ("servers.replicas", spec_shape.MOST_SERVERS),
        ("trainers.replicas", spec_shape.MOST_TRAINERS),
    ],
)
def test_bounds(field, most):
    """What the API server admits the operator admits."""
    section, name = field.split(".")
    schema = SCHEMA["properties"]["spec"]["properties"][section]["properties"][name]
    assert schema.get("maximum", most) == most


def test_status_fields():
    """What the operator writes the schema keeps: an unknown field would be dropped, and written again for ever."""
    status = SCHEMA["properties"]["status"]["properties"]
    assert {camel(name) for name in Status.__dataclass_fields__} == set(status)
    condition = conditions.true("x", "y", "z", times.EPOCH)
    assert set(condition.to_dict()) == set(status["conditions"]["items"]["properties"])


def test_exit_codes():
    """Both sides mean the same by an exit code."""
    ours = {name: value for name, value in vars(names.Exit).items() if name.isupper()}
    assert ours == {code.name: int(code) for code in ExitCode}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda p: p.stem if p.stem != "job" else p.parent.name)
@pytest.mark.parametrize("role", list(Role))
def test_argv_parses(sample, role):
    """Every command line that the operator can make is one that `bagpipe` takes."""
    job = operator_job(yaml.safe_load(sample.read_text()))
    filled_in = {"$(POD_NAME)": "j-servers-1", "$(POD_INDEX)": "1", "$(JOB_COMPLETION_INDEX)": "1"}  # By the kubelet.
    argv = operator_pods.argv(job, role, 3)
    for variable, value in filled_in.items():
        argv = [argument.replace(variable, value) for argument in argv]
    command = typer.main.get_command(app).commands[argv[0]]
    context = command.make_context(argv[0], argv[1:])
    assert context.params["attempt"] == 3
    assert str(context.params["job"]) == f"{names.CONFIG_DIR}/{names.CONFIG_KEY}"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda p: p.stem if p.stem != "job" else p.parent.name)
def test_document_loads(sample, tmp_path):
    """What the roles find in the ConfigMap is the job as the user wrote it, but for the run policy."""
    raw = yaml.safe_load(sample.read_text())
    target = tmp_path / names.CONFIG_KEY
    target.write_text(document(operator_job(raw)))
    theirs, here = load_job(target), load_job(sample)
    assert theirs.metadata.name == here.metadata.name
    for field in ("model", "data", "embedding", "optimizer", "batch_size", "steps", "seed", "servers", "trainers"):
        assert getattr(theirs.spec, field) == getattr(here.spec, field)


def test_curve_keys(tmp_path):
    """Keys that the operator makes are pairs in libzmq's eyes, in the files that the library reads."""
    public, secret = curve.keypair()
    assert zmq.curve_public(secret.encode()) == public.encode()
    (tmp_path / "public").write_text(public)
    (tmp_path / "secret").write_text(secret)
    assert CurveKeys.load(tmp_path) == CurveKeys(public.encode(), secret.encode())
    assert (names.ENV_CURVE_DIR, names.ENV_TOKEN) == (CURVE_DIR, TOKEN_VARIABLE)


@pytest.mark.parametrize("security", ["plain", "curve", "auto"])
def test_pods_have_keys_or_a_token(security):
    """Every role gets what its listeners ask for: the job's keys, or with `security: plain` the job's token."""
    document = yaml.safe_load((ROOT / "examples/demo.yaml").read_text())
    document["spec"]["transport"] = {"security": security}
    job = operator_job(document)
    for role in Role:
        (container, *_) = operator_pods.pod_template(job, role, 0, Settings.of({}))["spec"]["containers"]
        env = {entry["name"]: entry for entry in container["env"]}
        assert (CURVE_DIR in env) == (security != "plain") and (TOKEN_VARIABLE in env) == (security == "plain")
        if security == "plain":
            key = env[TOKEN_VARIABLE]["valueFrom"]["secretKeyRef"]
            assert key == {"name": names.job_secret(job.name, job.uid), "key": "token"}


def test_profiles_pods_are_restricted():
    """What the operator makes passes the restricted Pod Security profile."""
    job = operator_job(yaml.safe_load((ROOT / "manifests/samples/gpu-v100.yaml").read_text()))
    for role in Role:
        spec = operator_pods.pod_template(job, role, 0, Settings.of({}))["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]} and context["readOnlyRootFilesystem"]


def test_only_trainers_go_to_gpus():
    """The profile's selector, toleration and GPU are the trainers'; the oracle and the servers have none."""
    job = operator_job(yaml.safe_load((ROOT / "manifests/samples/gpu-v100.yaml").read_text()))
    specs = {role: operator_pods.pod_template(job, role, 0, Settings.of({}))["spec"] for role in Role}
    trainer = specs[Role.TRAINER]
    assert trainer["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert trainer["nodeSelector"] == {"nvidia.com/gpu.product": "Tesla-V100-SXM2-16GB"}
    assert any(t["key"] == "nvidia.com/gpu" for t in trainer["tolerations"])
    assert trainer["containers"][0]["image"].endswith("-cu126")
    for role in (Role.ORACLE, Role.SERVER):
        assert "nodeSelector" not in specs[role] and "resources" not in specs[role]["containers"][0]
        assert not any(t["key"] == "nvidia.com/gpu" for t in specs[role]["tolerations"])


def test_the_operator_needs_no_library():
    """The operator's modules load without bagpipe, torch or numpy."""
    import subprocess

    code = "import sys, bagpipe_operator.main; print([m for m in ('bagpipe', 'torch', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT / "operator"
    )
    if "No module named 'kopf'" in done.stderr:
        pytest.skip("kopf is not installed here: pip install -e ./operator")
    assert done.stdout.strip() == "[]", done.stderr


def test_operator_is_no_package():
    """`operator/__init__.py` would shadow the standard library's module."""
    assert not (ROOT / "operator" / "__init__.py").exists() and not (ROOT / "tests" / "operator").exists()

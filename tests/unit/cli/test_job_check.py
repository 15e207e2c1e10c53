"""What a document alone tells is refused before a job is sent to a cluster, and by the checks that look at no data."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from bagpipe.cli.main import run_command
from bagpipe.client.jobs import BagpipeClient
from bagpipe.config.load import read_job_file
from bagpipe.errors import ConfigError

JOB = """
metadata: {name: far}
spec:
  data: {path: "s3://somewhere/train/*.parquet", columns: {labels: [{name: bought}], sparse: [{name: user}]}}
  batchSize: 64
  steps: 50
"""
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()

    def forward(self, dense, sparse):
        return dense
"""
WRONG = [
    ("model.name=dlmr", "model.name: expected one of", "did you mean 'dlrm'?"),
    ("model={entrypoint: 'their_net:Nett'}", "has no class 'Nett'", "did you mean 'Net'?"),
    ("model={entrypoint: 'their_net:Net'}", "their_net.py:5 (Net): missing a required argument: 'hidden'", "set it"),
    ("optimizer.schedule={name: polynomial, warmupSteps: 50}", "spec.optimizer.schedule.warmupSteps: 50", "lower it"),
    ("checkpoint.best=rmse", "spec.checkpoint.best: ", "evaluation"),
    ("batchsize=8", "--set batchsize=8: spec.batchsize: unknown setting", "did you mean batchSize?"),
]
COMMANDS = {"submit": ["job", "submit"], "check": ["job", "check"], "run": ["run", "--check", "--no-data"]}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job whose data is nowhere near, with a model beside it, and no cluster."""
    (folder := tmp_path / "their").mkdir()
    (folder / "job.yaml").write_text(JOB)
    (folder / "their_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("BAGPIPE_MODULE_FOLDERS", "")
    return folder / "job.yaml"


@pytest.mark.parametrize(("setting", "problem", "remedy"), WRONG)
@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_refused_before_anything_is_sent(
    job: Path, capsys: pytest.CaptureFixture[str], command: str, setting: str, problem: str, remedy: str
) -> None:
    """One line and exit code 78, which says what is wrong with the job and not that there is no cluster."""
    assert run_command([*COMMANDS[command], str(job), "--set", setting]) == 78
    told = capsys.readouterr()
    assert told.err.startswith("error: ") and told.err.count("\n") == 1
    assert problem in told.err and remedy in told.err
    assert told.out == ""


PODS = [
    ("trainers.volumeMounts=[{name: d, mountPath: /d}]", "spec.trainers.volumeMounts[0].name: these pods have no"),
    ("servers.resources={requests: {cpu: 2}, limits: {cpu: 1}}", "spec.servers.resources.requests.cpu: more than the"),
    ("allRoles.tolerations=[{key: a, operator: Is}]", "spec.allRoles.tolerations[0].operator: expected Exists or"),
    ("data.path=train/", "spec.data.path: 'train/' is relative, and a pod works in an empty folder; write the path on"),
]


@pytest.mark.parametrize(("setting", "problem"), PODS)
@pytest.mark.parametrize("command", ["check", "submit"])
def test_what_kubernetes_would_refuse_is_refused_here(
    job: Path, capsys: pytest.CaptureFixture[str], command: str, setting: str, problem: str
) -> None:
    """Settings of pods that `bagpipe run` ignores: one line and exit code 78 before anything is sent."""
    assert run_command([*COMMANDS[command], str(job), "--set", setting]) == 78
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {problem}") and told.err.count("\n") == 1 and told.out == ""


@pytest.mark.parametrize("command", ["check", "submit"])
def test_what_an_installation_adds_to_pods_is_known_by_its_values(
    job: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A job may mount a volume that the chart's `jobs.defaults` declares, and is told of mistakes in there."""
    values, mounts = job.with_name("values.yaml"), ["--set", "trainers.volumeMounts=[{name: d, mountPath: /d}]"]
    command_line = [*COMMANDS[command], str(job), *mounts]
    values.write_text("registry: r\njobs: {defaults: {trainers: {volumes: [{name: d, hostPath: {path: /d}}]}}}\n")
    assert run_command(command_line) == 78 and "these pods have no volume 'd'" in capsys.readouterr().err
    assert run_command([*command_line, "--values", str(values)]) == (78 if command == "submit" else 0)
    assert "volume" not in capsys.readouterr().err  # To submit, it lacks a cluster only.
    for text, words in (
        ("jobs: {defaults: {trainers: {volumes: [{name: d, hostPath: {}}]}}}", "jobs.defaults.trainers.volumes[0]"),
        ("jobs: {defaults: {servers: {labls: {}}}}", "values.yaml: jobs.defaults.servers: expected 'labels', found"),
        ("jobs: {defaults: {trainer: {}}}", "values.yaml: jobs.defaults: expected allRoles or"),
        ("jobs: [a]", "values.yaml: jobs: expected a map"),
        ("- a", "values.yaml: jobs: expected a map"),
        ("jobs: {classes: [a], defaultClass: a}", "values.yaml: jobs.classes: expected a map"),
        (
            "jobs: {classes: {a: {}, b: {}}, defaultClass: c}",
            "jobs.defaultClass: no class 'c' in this installation",
        ),
        ("jobs: {limit: {}}", "values.yaml: jobs: unknown key 'limit'; known: classes, defaultClass"),
        ("jobs: {limits: {maxTrainers: 0}}", "values.yaml: jobs.limits.maxTrainers: expected a whole number from 1"),
        ("profiles: {x: {gpu: 1}}", "values.yaml: profiles.x: unknown key 'gpu'; known: description"),
        (
            "jobs: {classes: {a: {defaults: {trainers: {volumes: [{name: d, hostPath: {}}]}}}}, defaultClass: a}",
            "jobs.classes.a.defaults.trainers.volumes[0]",
        ),
    ):
        values.write_text(text)
        assert run_command([*command_line, "--values", str(values)]) == 78
        told = capsys.readouterr()
        assert words in told.err and told.err.count("\n") == 1 and told.out == ""
    values.unlink()
    assert run_command([*command_line, "--values", str(values)]) == 78
    assert "no such file; give the path of a values file of the operator's chart\n" in capsys.readouterr().err


def test_a_class_of_an_installation_is_known_by_its_values(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the class lays under the job's pods counts, and a class that there is not is named with those that are."""
    values = job.with_name("values.yaml")
    values.write_text("jobs: {classes: {big: {defaults: {trainers: {volumes: [{name: d, emptyDir: {}}]}}}, small: {}}}")
    mounts = ["--set", "trainers.volumeMounts=[{name: d, mountPath: /d}]", "--values", str(values)]
    for name, words in (
        ("small", "these pods have no volume 'd'"),
        ("huge", "spec.runPolicy.jobClass: no class 'huge' in this installation; known: big, small\n"),
    ):
        assert run_command(["job", "check", str(job), *mounts, "--set", f"runPolicy.jobClass={name}"]) == 78
        told = capsys.readouterr()
        assert words in told.err and told.err.count("\n") == 1
    assert run_command(["job", "check", str(job), *mounts, "--set", "runPolicy.jobClass=big"]) == 0


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_sound_job_is_checked_without_its_data(job: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """The data lies where this machine cannot look, and is said not to have been looked at."""
    assert run_command([*COMMANDS[command], str(job)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "far: the oracle, 1 server and 1 trainer"
    assert "  data: not looked at" in lines
    assert lines[-1].endswith("this was a check")


def test_a_field_like_none_that_we_know_is_noted(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A newer cluster may know it; an older one drops it without a word. The job is sound all the same."""
    odd = ["--set", "trainers.podTemplate={spec: {containers: [{name: bagpipe, fieldOfALaterRelease: 1}]}}"]
    path = "spec.trainers.podTemplate.spec.containers[0].fieldOfALaterRelease"
    assert run_command(["job", "check", str(job), *odd]) == 0
    assert f"  note: {path}: Kubernetes 1.36 has no such field" in capsys.readouterr().out
    assert run_command(["job", "submit", str(job), *odd]) == 78  # There is no cluster.
    assert capsys.readouterr().err.startswith(f"note: {path}: ")


def test_a_job_comes_by_standard_input(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`-`, as for kubectl; `job submit` reads it too, and then finds no cluster."""
    kept = os.dup(0)
    with job.open() as file:
        os.dup2(file.fileno(), 0)
    try:
        assert run_command(["job", "check", "-"]) == 0
        assert run_command(["job", "submit", "-"]) == 78
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    told = capsys.readouterr()
    assert told.out.startswith("far: the oracle") and told.err.startswith("error: no cluster")


def test_no_data_belongs_to_a_check(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run needs its data."""
    assert run_command(["run", str(job), "--no-data"]) == 78
    assert "--no-data: only a check can do without the data" in capsys.readouterr().err


def test_a_module_of_the_pods_image_is_left_to_the_pods(job: Path) -> None:
    """A model's package may be installed there and not here."""
    assert run_command(["job", "check", str(job), "--set", "model={entrypoint: 'only_in_the_image:Net'}"]) == 0


def test_the_python_client_sends_no_wrong_job(job: Path) -> None:
    """`create` refuses it before it speaks to the API server."""
    sent: list[object] = []
    client = BagpipeClient.__new__(BagpipeClient)
    client.namespace, client._errors = "ns", RuntimeError
    client._jobs = SimpleNamespace(create_namespaced_custom_object=lambda *a, **k: sent.append(k))
    with pytest.raises(ConfigError, match="did you mean 'dlrm'"):
        client.create(read_job_file(job, ["model.name=dlmr"]))
    with pytest.raises(ConfigError, match="more than the limit: 2 of 1"):
        client.create(read_job_file(job, ["servers.resources={requests: {cpu: 2}, limits: {cpu: 1}}"]))
    assert sent == []

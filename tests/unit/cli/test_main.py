"""The command line: what is parsed, what an error becomes, what it costs to ask for help."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bagpipe.cli import main as cli
from bagpipe.cli.run import closing_lines
from bagpipe.config.load import load_job
from bagpipe.errors import BagpipeError, CheckpointError, ConfigError, DataError, PeerLost, StorageError

COMMANDS = [
    "run", "plan", "evaluate", "compare", "export", "checkpoint ls", "checkpoint show", "checkpoint verify",
    "data prepare", "data describe", "oracle", "server", "trainer", "version",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` works for each command and says what it is for."""
    assert cli.run_command([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"bagpipe {command}" in shown
    assert len([line for line in shown.splitlines() if line.strip()]) > 4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("nothing", "No such command 'nothing'"),
        ("trainer", "Missing option '--job'"),
        ("run", "which job? give a job file: bagpipe run examples/demo.yaml"),
        ("run --resume", "--resume: which run? name its directory with --run-dir"),
        ("run nope.yaml", "nope.yaml: no such file"),
        ("run examples/demo.yaml --set batchSise=3", "spec.batchSise: unknown setting; did you mean batchSize?"),
        ("plan examples/demo.yaml --trainers 4096", "--trainers 4096: more than the 1024 examples of a batch"),
    ],
)
def test_wrong_arguments(arguments: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line is one `error:` line on stderr and exit code 78."""
    assert cli.run_command(arguments.split()) == 78
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert expected in captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError, 78), (DataError, 65), (CheckpointError, 65), (PeerLost, 75), (StorageError, 75), (BagpipeError, 70)],
)
def test_deliberate_errors(
    error: type[BagpipeError], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each class of error is one line and its own exit code."""
    monkeypatch.setattr("bagpipe.local.run.start_run", _raises(error("two\nlines")))
    assert cli.run_command(["run", "job.yaml"]) == code
    assert capsys.readouterr().err == "error: two lines\n"


def _raises(error: Exception):
    def fail(*_, **__):
        raise error

    return fail


def test_help_is_light() -> None:
    """`bagpipe --help` loads neither torch nor numba nor numpy: it answers in a fraction of a second."""
    code = "import sys\nfrom bagpipe.cli.main import run_command\nassert run_command(['--help']) == 0\n"
    code += "print(*[m for m in ('torch', 'numba', 'numpy', 'pyarrow', 'zmq') if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""


def test_help_in_a_narrow_terminal_names_every_option() -> None:
    """A terminal of twenty columns breaks the lines; no option's name gives way to dots."""
    code = "from bagpipe.cli.main import run_command\nassert run_command(['run', '--help']) == 0\n"
    environment = {**os.environ, "COLUMNS": "20", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "--checkpoint " in done.stdout and "…" not in done.stdout and "\x1b" not in done.stdout


def test_version_names_what_can_change_results(capsys: pytest.CaptureFixture[str]) -> None:
    """A report of a problem starts with the versions that matter."""
    assert cli.run_command(["version"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["bagpipe", "python", "torch", "numpy", "numba", "pyzmq", "msgspec", "pyarrow"]


@pytest.mark.parametrize(("role", "index"), [("server", "--shard"), ("trainer", "--rank")])
def test_a_role_the_job_does_not_have(
    role: str, index: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard or rank beyond the job's replicas is refused before anything is connected."""
    arguments = [role, "--job", "examples/demo.yaml", "--run-dir", str(tmp_path), "--oracle", "tcp://127.0.0.1:1"]
    assert cli.run_command([*arguments, index, "2"]) == 78
    assert capsys.readouterr().err == f"error: {index} 2: the job has 2 of them; expected 0 to 1\n"


SUMMARY = {
    "steps": 176, "stopped": False, "loss": 0.4777, "examplesPerSecond": 7431.6, "cacheHitRate": 0.799,
    "evaluation": {"examples": 20000, "auc": 0.7689, "logLoss": 0.493, "calibration": 1.048},
    "modelDigest": "50c4", "seconds": 57.0,
}  # fmt: skip


def test_closing_lines() -> None:
    """A finished run ends with its test AUC, its digest, where it lies and what to do next."""
    text = "\n".join(closing_lines(SUMMARY, Path("runs/demo")))
    for part in ("trained step 176", "test AUC 0.7689", "50c4", "runs/demo", "bagpipe evaluate", "bagpipe export"):
        assert part in text
    assert "  bagpipe predict runs/demo --data new.csv --out scores.parquet" in text
    assert "early" not in text and "the best" not in text


def test_closing_lines_tell_of_an_early_stop_and_of_a_better_step() -> None:
    """Why the run ended before its last step, and that the test figures are not those of the best step."""
    best = {"step": 150, "metric": "auc", "value": 0.6967}
    lines = closing_lines({**SUMMARY, "validation": {"best": best, "stoppedEarly": True}}, Path("runs/demo"))
    assert lines[0].startswith("stopped early at step 176 in ")
    at = lines.index("validation: the best auc was 0.6967 at step 150; --best takes that checkpoint, where it was kept")
    assert lines[at - 1].startswith("test AUC")
    last = {"best": {**best, "step": SUMMARY["steps"]}, "stoppedEarly": False}
    assert not any("the best" in line for line in closing_lines({**SUMMARY, "validation": last}, Path("runs/demo")))


def test_closing_lines_tell_of_skipped_steps() -> None:
    """A run whose steps changed nothing says so, and any other run says nothing of it."""
    assert "3 of these steps were passed over" in "\n".join(
        closing_lines({**SUMMARY, "skippedSteps": 3}, Path("runs/demo"))
    )
    assert "passed over" not in "\n".join(closing_lines({**SUMMARY, "skippedSteps": 0}, Path("runs/demo")))


def test_closing_lines_of_a_run_that_was_finished_before() -> None:
    """Seconds and speed of an earlier call are not told as if they were this one's."""
    text = "\n".join(closing_lines({**SUMMARY, "attempts": 0}, Path("runs/demo")))
    assert "trained to step 176 by an earlier call" in text
    assert "57.0 s" not in text
    assert "examples/s" not in text


def test_closing_lines_of_a_run_that_trained_nothing() -> None:
    """No speed of no examples is shown as if it had been trained; a run that was stopped at once is not finished."""
    (line, *_) = closing_lines({**SUMMARY, "examplesPerSecond": 0.0}, Path("runs/demo"))
    assert line == "nothing was left to train: trained step 176 by an earlier call"
    (line, *_) = closing_lines({**SUMMARY, "examplesPerSecond": 0.0, "stopped": True}, Path("runs/demo"))
    assert line.startswith("stopped at step 176")


def test_closing_lines_of_a_stopped_run() -> None:
    """A stopped run has no evaluation, and says how to go on."""
    lines = closing_lines({**SUMMARY, "stopped": True, "evaluation": None}, Path("runs/demo"))
    assert "  bagpipe run --resume --run-dir runs/demo" in lines
    assert not any("AUC" in line for line in lines)


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("name", ["r #1 ~x", "~x", "-x", "it's; $HOME", "a\\b"])
def test_closing_commands_can_be_copied(name: str, stopped: bool) -> None:
    """A shell reads each proposed command as words of which one is the run directory, whatever its name is."""
    lines = closing_lines({**SUMMARY, "stopped": stopped}, Path(name))
    commands = [shlex.split(line, comments=True) for line in lines[lines.index("next:") + 1 :]]
    assert len(commands) == (1 if stopped else 4)
    for words in commands:
        named = [word for word in words if Path(word) == Path(name)]
        assert len(named) == 1
        assert not named[0].startswith(("-", "~"))


def test_closing_lines_without_figures() -> None:
    """A model that diverged has no figures, and the run still ends with words."""
    test = {"examples": 5, "auc": None, "logLoss": None, "calibration": None}
    lines = closing_lines({**SUMMARY, "evaluation": test}, Path("runs/demo"))
    assert "test AUC undefined, log loss undefined, calibration undefined (5 examples)" in lines


def test_a_job_for_another_folder_names_its_data_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`init` beside the data writes the path as it was given, which would lead nowhere from the folder of the job."""
    for folder in ("data", "jobs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "log.csv").write_text("click,item\n" + "".join(f"{i % 2},i{i % 7}\n" for i in range(90)))
    monkeypatch.chdir(tmp_path / "data")
    assert cli.run_command(["init", "log.csv"]) == 0
    assert cli.run_command(["init", "log.csv", "--out", "../jobs/job.yaml"]) == 0
    monkeypatch.chdir(tmp_path / "jobs")
    assert load_job(tmp_path / "data" / "job.yaml").spec.data.path == "log.csv"
    assert load_job(Path("job.yaml")).spec.data.path == str(tmp_path / "data" / "log.csv")

"""What the job file and the header of its data tell is refused before any role starts, by a run and by its check."""

from pathlib import Path

import pytest

from bagpipe.checkpoint.store import newest_complete
from bagpipe.cli.main import run_command
from bagpipe.config.load import load_job
from bagpipe.errors import ConfigError, DataError, ExitCode, Stopped
from bagpipe.local.beginning import check_header
from bagpipe.local.evaluate import evaluate_checkpoint
from bagpipe.local.supervisor import Outcome, Supervisor
from bagpipe.testing.threads import run_in_threads

JOB = """
spec:
  data:
    path: data.csv
    testFraction: 0.2
    columns: {labels: [{name: bought}, {name: liked}], sparse: [{name: user}], ignore: [when]}
  embedding: {dim: 4}
  batchSize: 20
  steps: 50
  trainers: {device: cpu}
"""
ONE_CYCLE = "optimizer.schedule={name: OneCycleLR, args: {max_lr: 0.1, total_steps: 10}}"
LINEAR = "{name: polynomial, warmupSteps: 50}"
WRONG = [
    (["data.columns.labels[0].name=bougt"], "'bougt' is no column of", "did you mean 'bought'?"),
    (["data.columns.sparse[0].column=usr"], "'usr' is no column of", "did you mean 'user'?"),
    (["data.columns.time=wen", "data.splitBy=time"], "'wen' is no column of", "did you mean 'when'?"),
    (["data.columns.ignore=null"], "has a column 'when' that is not spoken of", "add it to"),
    (["data.validation=other.csv"], "'liked' is no column of", "other.csv"),
    ([ONE_CYCLE], "spec.optimizer.schedule.args: OneCycleLR ends after total_steps 10", "set total_steps: 50"),
    ([ONE_CYCLE.replace("total_steps", "totl_steps")], "torch's OneCycleLR has none", "did you mean 'total_steps'?"),
    ([f"optimizer.schedule={LINEAR}"], "spec.optimizer.schedule.warmupSteps: 50", "lower it"),
    ([f"embedding.optimizer.schedule={LINEAR}"], "spec.embedding.optimizer.schedule.warmupSteps: 50", "lower it"),
    (
        ["checkpoint.best=auc", "data.validation=0.1"],
        "spec.checkpoint.best: 'auc': the data has 2",
        "bought/auc",
    ),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    rows = [f"{n % 2},{n % 3 % 2},u{n % 7},{n}" for n in range(100)]
    (tmp_path / "data.csv").write_text("\n".join(["bought,liked,user,when", *rows]) + "\n")
    (tmp_path / "other.csv").write_text("bought,user,when\n1,u1,4\n0,u2,5\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("settings", "problem", "remedy"), WRONG)
@pytest.mark.parametrize("how", ["run", "check"])
def test_a_mistake_is_refused_with_nothing_begun(
    folder: Path, capsys: pytest.CaptureFixture[str], how: str, settings: list[str], problem: str, remedy: str
) -> None:
    """One line, exit code 78, no run directory and no process; the check says what the run says."""
    chosen = [word for setting in settings for word in ("--set", setting)]
    check = ["--check"] if how == "check" else []
    assert run_command(["run", "job.yaml", *chosen, "--run-dir", "out", *check]) == 78
    told = capsys.readouterr()
    assert problem in told.err
    assert remedy in told.err
    assert "\n" not in told.err.strip()
    assert "1 server" not in told.out + told.err
    assert not (folder / "out").exists()


def test_a_sound_job_passes(folder: Path) -> None:
    """The same job without a mistake is checked to the end."""
    assert run_command(["run", "job.yaml", "--run-dir", "out", "--check"]) == 0


def test_other_data_without_a_label_is_not_evaluated(folder: Path) -> None:
    """`bagpipe evaluate` compares the header before it starts a role. A model holds to its columns, so that data which
    lacks one is wrong (exit code 65), and not the job; a column that the model does not know changes nothing.
    """
    run = run_in_threads(load_job(folder / "job.yaml", ["steps=2"]), folder / "run").run_dir
    checkpoint = newest_complete(run / "checkpoints")
    assert checkpoint is not None
    with pytest.raises(DataError, match=r"'liked' is no column of .*other\.csv.*; .*`bagpipe predict`"):
        evaluate_checkpoint(checkpoint, ["data.path=other.csv"])
    (folder / "more.csv").write_text("note,liked,bought,user,when\nx,1,0,u1,4\ny,0,1,u2,5\n")
    check_header(load_job(folder / "job.yaml", ["data.path=more.csv"]).spec.data, trained=True)
    with pytest.raises(ConfigError, match="'note' that is not spoken of"):
        check_header(load_job(folder / "job.yaml", ["data.path=more.csv"]).spec.data)


def test_an_evaluation_that_is_stopped_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no figures, as has a run without a test part, which it would be taken for."""
    run = run_in_threads(load_job(folder / "job.yaml", ["steps=2"]), folder / "run").run_dir
    checkpoint = newest_complete(run / "checkpoints")
    assert checkpoint is not None
    ended = Outcome(code=ExitCode.STOPPED, attempts=1, seconds=1.0)
    monkeypatch.setattr(Supervisor, "run", lambda self, checkpoint: ended)
    with pytest.raises(Stopped, match="asked to stop before its end"):
        evaluate_checkpoint(checkpoint, [])

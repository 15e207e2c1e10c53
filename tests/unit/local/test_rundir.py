"""The run directory: who may use it, and that nothing in it is ever half-written."""

import errno
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from bagpipe.checkpoint.manifest import FILE_NAME as MANIFEST
from bagpipe.checkpoint.store import ASIDE
from bagpipe.config.document import Job
from bagpipe.config.load import load_job, parse_job
from bagpipe.errors import CheckpointError, ConfigError, ExitCode, StorageError
from bagpipe.local.rundir import RunDir, default_path, holds_something
from bagpipe.local.user_modules import NOTED
from bagpipe.lowlevel.atomic_files import replacing_file
from bagpipe.lowlevel.lease import FILE_NAME
from bagpipe.oracle.service.kept_names import KEPT

OWN_RATE = "{name: LambdaLR, args: {lr_lambda: 'mine:halve'}}"


def job(*overrides: str) -> Job:
    return parse_job("spec:\n  data: {format: synthetic}\n", "test", overrides)


def test_default_name() -> None:
    """Without --run-dir, runs are told apart by job and time."""
    assert default_path("demo", datetime(2026, 1, 2, 3, 4, 5)) == Path("runs/demo-20260102-030405")


def test_a_used_directory_is_refused(tmp_path: Path) -> None:
    """A fresh run never mixes with what is there, and names both ways out."""
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="not empty; continue that run with --resume, or choose another directory"):
        RunDir.create(tmp_path)


def test_a_run_that_was_killed_before_its_job_was_written_down_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be resumed, so the same command begins again there; not where there is anything of a run."""

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        (tmp_path / "run" / ".job.yaml.tmp").write_text("spec:")
        raise Killed

    with monkeypatch.context() as patched, RunDir.create(tmp_path / "run") as run:
        patched.setattr(RunDir, "write", killed)
        with pytest.raises(Killed):
            run.begin(job())
    assert not (tmp_path / "run" / "job.yaml").exists() and holds_something(tmp_path)
    with RunDir.create(tmp_path / "run") as run:
        run.begin(job())
        assert run.job_file.exists()
    (tmp_path / "run" / "job.yaml").unlink()
    (tmp_path / "run" / "logs" / "oracle-0.log").write_text("error: it ended")
    with pytest.raises(ConfigError, match="not empty"):
        RunDir.create(tmp_path / "run")


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    """A path that cannot be a directory is named."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        RunDir.create(tmp_path / "file" / "run")


def test_resume_needs_a_run(tmp_path: Path) -> None:
    """Resuming nothing says so."""
    with pytest.raises(ConfigError, match=r"no job\.yaml there, so nothing to resume"):
        RunDir.reopen(tmp_path)


def test_one_supervisor_at_a_time(tmp_path: Path) -> None:
    """Two supervisors in one directory would overwrite each other; the lock ends with the process."""
    with RunDir.create(tmp_path / "run") as first:
        first.begin(job())
        with pytest.raises(ConfigError, match=r"is in use by run run in .* \(host .*, pid \d+, since "):
            RunDir.reopen(tmp_path / "run")
    RunDir.reopen(tmp_path / "run").__exit__()


def test_checkpoints_have_one_owner(tmp_path: Path) -> None:
    """Of two runs with one checkpoint.path the second is refused by the first's name, and leaves nothing behind."""
    shared = job(f"checkpoint.path={tmp_path / 'shared'}")
    with RunDir.create(tmp_path / "first") as first:
        first.begin(shared)
        with RunDir.create(tmp_path / "second") as second:
            with pytest.raises(ConfigError, match=r"checkpoint.path: .*shared is in use by run bagpipe in .*first"):
                second.begin(shared)
            second.discard()
        assert not (tmp_path / "second").exists()
    with RunDir.create(tmp_path / "third") as third:
        third.begin(shared)


def test_the_checkpoints_of_a_run_are_nobody_elses_checkpoint_path(tmp_path: Path) -> None:
    """A `checkpoint.path` inside another run's directory is refused while that one runs, and so is the reverse."""
    foreign = job(f"checkpoint.path={tmp_path / 'first' / 'checkpoints'}")
    with RunDir.create(tmp_path / "first") as first, RunDir.create(tmp_path / "second") as second:
        first.begin(job())
        with pytest.raises(ConfigError, match=r"checkpoint.path: .*checkpoints is in use by run bagpipe in .*first"):
            second.begin(foreign)
    with RunDir.create(tmp_path / "third") as third:
        third.begin(foreign)
        with RunDir.reopen(tmp_path / "first") as first, pytest.raises(ConfigError, match=r"in use by .* in .*third"):
            first.own_checkpoints(job())


@pytest.mark.parametrize("written", ["run", "link", "run/../run"])
def test_a_run_may_keep_its_checkpoints_beside_its_other_files(tmp_path: Path, written: str) -> None:
    """It is not refused by itself, however the path of its own directory is written."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with RunDir.create(tmp_path / "run") as directory:
        directory.begin(job(f"checkpoint.path={tmp_path / written}"))


def test_a_place_of_checkpoints_that_cannot_be_one(tmp_path: Path) -> None:
    """A file there is the user's to mend: 78, by the setting's name."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            RunDir.create(tmp_path / f"run-{place.name}") as directory,
            pytest.raises(ConfigError, match=r"^spec\.checkpoint\.path: .*file.*: cannot be used: "),
        ):
            directory.begin(job(f"checkpoint.path={place}"))


def test_the_job_is_remembered(tmp_path: Path) -> None:
    """job.yaml is the whole job; an earlier report is forgotten."""
    with RunDir.create(tmp_path / "run") as directory:
        directory.begin(job("seed=5"))
        (directory.path / "report.json").write_text("{}")
        directory.begin(job("seed=5"))
        assert load_job(directory.job_file) == job("seed=5")
        assert directory.report() is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("seed=6", "spec.seed"),
        ("batchSize=7", "spec.batchSize"),
        ("embedding.optimizer.lr=0.5", "spec.embedding.optimizer.lr"),
        ("data.synthetic={examples: 9}", "spec.data.synthetic.examples"),
        ("metadata.name=other", "metadata.name"),
    ],
)
def test_another_job_is_not_resumed(tmp_path: Path, change: str, named: str) -> None:
    """A change that would change results is refused by name."""
    with RunDir.create(tmp_path / "run") as directory:
        directory.begin(job())
        with pytest.raises(ConfigError, match=rf"^{named}: differs from the run in "):
            directory.check_same_job(job(change))


@pytest.mark.parametrize(
    "change",
    [
        "steps=9",
        "epochs=3",
        "servers.replicas=3",
        "trainers.replicas=2",
        "transport.stepSeconds=5",
        "logEvery=1",
        "lookahead=3",
    ],
)
def test_what_changes_no_result_may_change(tmp_path: Path, change: str) -> None:
    """Length, processes, transport, logging and the cache may differ between a run and its continuation."""
    with RunDir.create(tmp_path / "run") as directory:
        directory.begin(job())
        directory.check_same_job(job(change))


def test_attempts_are_numbered_for_good(tmp_path: Path) -> None:
    """A resumed run's attempt has a number of its own: no server takes an earlier one's files for its own."""
    with RunDir.create(tmp_path / "run") as directory:
        assert [directory.next_attempt(), directory.next_attempt()] == [0, 1]
        directory.begin(job())
    with RunDir.reopen(tmp_path / "run") as directory:
        assert directory.next_attempt() == 2
        for damaged in ("", "x", "-9", "9" * 20):
            directory.write("attempt", damaged)
            with pytest.raises(ConfigError, match="attempt: expected the number of the last attempt"):
                directory.next_attempt()


def test_foreign_checkpoints(tmp_path: Path) -> None:
    """A fresh run does not write among the checkpoints of another, from which it might later start."""
    other = tmp_path / "shared" / "step-00000010"
    other.mkdir(parents=True)
    (other / MANIFEST).touch()
    with (
        RunDir.create(tmp_path / "run") as directory,
        pytest.raises(ConfigError, match=r"spec\.checkpoint\.path: .* holds checkpoints of another run"),
    ):
        directory.begin(job(f"checkpoint.path={tmp_path / 'shared'}"))


def test_checkpoints_that_are_gone_are_not_begun_again_in_silence(tmp_path: Path) -> None:
    """A disk that is not mounted: the run is known to have had a checkpoint, by its summary or by how it went on."""
    training = '{{"time": 1.0, "event": "training", "attempt": {}, "first_step": {}}}\n'
    with RunDir.create(tmp_path / "run") as directory:
        directory.begin(job())
        notes: list[str] = []
        assert directory.starting_checkpoint(job(), notes.append) is None
        directory.write("metrics.jsonl", training.format(0, 0))
        assert directory.starting_checkpoint(job(), notes.append) is None
        directory.write("metrics.jsonl", training.format(0, 0) + training.format(1, 40))
        with pytest.raises(CheckpointError, match=r"checkpoints: no checkpoint there, but .* had one of step 40; put "):
            directory.starting_checkpoint(job(), notes.append)
        directory.write("metrics.jsonl", "")
        directory.write_summary({"steps": 90})
        with pytest.raises(CheckpointError, match="had one of step 90"):
            directory.starting_checkpoint(job(), notes.append)
        assert notes == []


def test_no_attempt_begins_where_none_could_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was mounted read-only in the middle of a run: it was tried four times, for minutes."""
    with RunDir.create(tmp_path / "run") as directory:
        directory.begin(job())
        root = directory.checkpoints(job())
        monkeypatch.setattr("os.access", lambda path, mode: Path(path) != root)  # Whoever is root may write anywhere.
        with pytest.raises(StorageError, match=rf"^{root}: can no longer be written; .* `bagpipe run --resume`") as no:
            directory.starting_checkpoint(job(), print)
        assert no.value.exit_code == ExitCode.TRANSIENT


def test_a_file_in_the_place_of_a_folder_is_named_and_not_tried_again(tmp_path: Path) -> None:
    """And the reverse: the path that is in the way, and exit code 78."""
    with RunDir.create(tmp_path / "run") as directory:
        (directory.path / "report.json").mkdir()
        (directory.path / "report.json" / "x").touch()
        with pytest.raises(StorageError, match=r"run/report\.json: cannot be written: Is a directory") as refused:
            directory.begin(job())
        assert refused.value.exit_code == 78


@pytest.mark.parametrize("create", [RunDir.create, lambda path: RunDir.create_default("x", datetime(2026, 1, 2))])
def test_a_disk_that_is_full_at_once_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: Callable[[Path], RunDir]
) -> None:
    """What was made for a run that could not even be marked as its own is gone again."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bagpipe.lowlevel.lease.os.pwrite", full)
    with pytest.raises(StorageError, match="No space left on device"):
        create(tmp_path / "runs" / "run")
    assert list((tmp_path / "runs").iterdir()) == []


def test_files_are_whole_or_absent(tmp_path: Path) -> None:
    """A write that fails leaves the old content and no draft."""
    with RunDir.create(tmp_path / "run") as directory:
        directory.write("a", "old")
        (directory.path / "b").mkdir()
        with pytest.raises(StorageError, match="cannot be written"):
            directory.write("b", "new")
        assert sorted(p.name for p in directory.path.iterdir() if p.name != FILE_NAME) == ["a", "b"]


def test_discard_keeps_what_was_there_before(tmp_path: Path) -> None:
    """Only a directory that the run made itself disappears with it."""
    with RunDir.create(tmp_path / "made") as directory:
        directory.begin(job())
        directory.discard()
    assert not (tmp_path / "made").exists()
    with RunDir.create(tmp_path) as directory:
        directory.discard()
    assert tmp_path.exists()


def test_what_killed_roles_leave_half_done_is_cleared_away(tmp_path: Path) -> None:
    """What an oracle keeps for its successor, drafts, checkpoints never completed; what is whole or set aside stays."""
    with RunDir.create(tmp_path / "run") as directory:
        directory.begin(job())
        root = directory.checkpoints(job())
        whole, aside, begun = (root / f"step-0000000{step}" for step in (1, 2, 3))
        for folder, name in ((whole, MANIFEST), (aside, ASIDE), (begun, "dense.safetensors")):
            folder.mkdir(parents=True)
            (folder / name).touch()
        kept = {path.name for path in directory.path.iterdir()}
        for name in KEPT:
            (directory.path / name.format(7)).touch()
        (directory.path / ".report.json.tmp").touch()
        (root / ".last-loss.json.tmp").touch()
        (directory.path / "data" / "prepared-1").mkdir(parents=True)
        (directory.path / "data" / ".prepared-2.0123abcd" / "transform").mkdir(parents=True)
        directory.sweep(job())
        assert {path.name for path in directory.path.iterdir()} == kept | {"data"}
        assert [path.name for path in (directory.path / "data").iterdir()] == ["prepared-1"]
        assert sorted(p for p in root.iterdir() if p.name != FILE_NAME) == [whole, aside]


def test_what_others_have_put_beside_the_checkpoints_and_into_the_run_stays(tmp_path: Path) -> None:
    """Drafts of other programs' files, hidden folders, and a draft of ours that a process is writing now."""
    shared = tmp_path / "shared"
    with RunDir.create(tmp_path / "run") as directory:
        one = job(f"checkpoint.path={shared}")
        directory.begin(one)
        theirs = [
            shared / ".results.csv.tmp",
            shared / ".last-loss.json.partial.tmp",
            shared / "step-00000003" / ".weights.bin.tmp",
            shared / "step-00000003" / "dense.safetensors",
            shared / "step-00000004" / "transform" / "notes.txt",
            shared / "step-00000005" / "shard-0-of-2" / "images.tar",
            directory.path / ".notes.txt.tmp",
            directory.path / "topology-of-the-lab.msgpack",
            directory.path / "data" / ".git" / "config",
        ]
        for path in theirs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("theirs")
        (shared / ".last-loss.json.tmp").mkdir()
        with replacing_file(directory.path / "report.json") as draft:
            left = directory.path / ".report.json.0123abcd.tmp"
            left.touch()
            directory.sweep(one)
            draft.write(b"{}")
        assert not left.exists() and (directory.path / "report.json").read_bytes() == b"{}"
        assert [path for path in theirs if not path.exists()] == []
        assert (shared / ".last-loss.json.tmp").is_dir()


def test_a_hidden_file_of_somebody_else_makes_a_directory_no_run_that_was_killed(tmp_path: Path) -> None:
    """It might be deleted later as one of the run's own."""
    (tmp_path / ".notes.txt.tmp").touch()
    with pytest.raises(ConfigError, match="not empty"):
        RunDir.create(tmp_path)


def test_nothing_is_cleared_away_in_a_folder_that_was_lost(tmp_path: Path) -> None:
    """What lies in a folder that another run has taken meanwhile is that run's."""
    with RunDir.create(tmp_path / "run") as directory:
        directory.begin(job())
        draft = directory.path / ".job.yaml.tmp"
        writing = directory.checkpoints(job()) / "step-00000007"
        writing.mkdir(parents=True)
        for path in (draft, writing / "dense.safetensors"):
            path.touch()
        mark = directory.path / FILE_NAME
        mark.write_text(mark.read_text().replace('"name": "run ', '"name": "another run '))
        directory.sweep(job())
        assert draft.exists() and writing.exists() and "was taken by another run" in directory.lost


@pytest.mark.parametrize(
    ("setting", "noted"),
    [
        ("model={entrypoint: 'mine:Net'}", True),
        ("evaluation.metrics=[auc, 'mine:brier']", True),
        (f"optimizer.schedule={OWN_RATE}", True),
        (f"embedding.optimizer.schedule={{name: ChainedScheduler, args: {{schedulers: [{OWN_RATE}]}}}}", True),
        ("evaluation.metrics=[auc]", False),
    ],
)  # fmt: skip
def test_where_modules_of_ones_own_were_found_is_noted(tmp_path: Path, setting: str, noted: bool) -> None:
    """Whatever of the job is the user's own code, a model, a figure or a rate, a later command finds it again."""
    with RunDir.create(tmp_path / "run") as directory:
        directory.begin(job(setting))
    assert (tmp_path / "run" / NOTED).exists() == noted

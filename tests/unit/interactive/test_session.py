"""A session owns its folders while its `with` lasts, and begins where `bagpipe run --resume` would."""

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from saved import FILE, save
from torch import nn

import bagpipe
from bagpipe.checkpoint.store import directory_of, list_checkpoints
from bagpipe.config.document import Job
from bagpipe.config.load import parse_job
from bagpipe.errors import BagpipeError, CheckpointError, ConfigError, ExitCode, PeerLost, Stopped
from bagpipe.interactive.opening import opened
from bagpipe.interactive.session import Session
from bagpipe.interactive.user_model import NamedModel
from bagpipe.local.children import Children
from bagpipe.local.policy import RoleId
from bagpipe.local.rundir import RunDir
from bagpipe.lowlevel.lease import FILE_NAME as LEASE
from bagpipe.lowlevel.lease import Lease, Owner
from bagpipe.trainer.loop import Trainer


def job_of(**checkpoint: Any) -> Job:
    told = ", ".join(f"{name}: {str(value).lower()}" for name, value in checkpoint.items())
    data = "{format: synthetic, synthetic: {examples: 100, tableSizes: [5, 7]}}"
    return parse_job(f"metadata: {{name: own}}\nspec: {{data: {data}, checkpoint: {{{told}}}}}", "the job")


def begun(path: Path, job: Job) -> Path:
    """A run that was interrupted."""
    with RunDir.create(path) as directory:
        directory.begin(job)
    return path


def refused(path: Path, error: type[BagpipeError], match: str, **settings: Any) -> None:
    session = bagpipe.local(run_dir=path, resume=True, progress=False, **settings)
    with pytest.raises(error, match=match):
        session.__enter__()


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"lookahead": -3}, "spec.lookahead"), ({"batch_size": 7}, "differs from the run")],
)
def test_a_mistake_keeps_nobody_out_of_the_run(tmp_path: Path, settings: dict[str, Any], match: str) -> None:
    """After a setting that will not do, the same program resumes the run without it."""
    path = begun(tmp_path / "run", job_of())
    refused(path, ConfigError, match, **settings)
    RunDir.reopen(path).__exit__()


def test_a_fresh_session_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    """Its directory is gone, and the next session makes it anew."""
    for _ in range(2):
        session = bagpipe.local(data=[{1: 2}], columns={"labels": ["a"]}, run_dir=tmp_path / "run", progress=False)
        with pytest.raises(ConfigError, match="expected names of columns"):
            session.__enter__()
        assert not (tmp_path / "run").exists()


def test_a_session_that_is_never_entered_owns_nothing(tmp_path: Path) -> None:
    """Made and kept, as a notebook keeps what a cell shows, it keeps nobody out of its run and makes no folder."""
    path = begun(tmp_path / "run", job_of())
    kept = [
        bagpipe.local(run_dir=path, resume=True, progress=False),
        bagpipe.local(path / "job.yaml", run_dir=tmp_path / "fresh", progress=False),
    ]
    RunDir.reopen(path).__exit__()
    assert not (tmp_path / "fresh").exists()
    assert [repr(session) for session in kept] == ["Session()"] * 2
    with pytest.raises(ConfigError, match="use it in a `with`"):
        assert kept[0].path


def spoil(directory: Path) -> None:
    (directory / FILE).write_bytes(b"x" * 100)


@pytest.mark.parametrize("strict", [True, False])
def test_damage_is_found_before_anything_starts(tmp_path: Path, strict: bool) -> None:
    """With `checkpoint.strict` a damaged newest checkpoint is an error; without it, only if every one is damaged."""
    job = job_of(strict=strict)
    path = begun(tmp_path / "run", job)
    root = path / "checkpoints"
    if strict:
        save(root, 8, spec=job.spec)
    spoil(save(root, 16, spec=job.spec))
    refused(path, CheckpointError, "spec.checkpoint.strict" if strict else "none of its 1 checkpoints is sound")
    RunDir.reopen(path).__exit__()


def test_a_session_goes_on_from_the_newest_sound_checkpoint(tmp_path: Path) -> None:
    """A damaged newer one is set aside, and a checkpoint that will never be whole is cleared away."""
    job = job_of()
    path = begun(tmp_path / "run", job)
    root = path / "checkpoints"
    sound, damaged = save(root, 8, spec=job.spec), save(root, 16, spec=job.spec)
    spoil(damaged)
    half = shutil.copytree(sound, directory_of(root, 24), ignore=shutil.ignore_patterns("manifest.json"))
    told: list[Path | None] = []

    class Stops(Session):
        def _checkpoint(self) -> Path | None:
            told.append(super()._checkpoint())
            return told[0]

        def _sweep(self) -> None:
            super()._sweep()
            raise ZeroDivisionError

    def reopened() -> tuple[RunDir, Job]:
        return RunDir.reopen(path), job

    with pytest.raises(ZeroDivisionError):
        Stops(reopened, progress=False).__enter__()
    assert told == [sound] and list_checkpoints(root) == [sound]
    assert damaged.exists() and not half.exists()
    RunDir.reopen(path).__exit__()


def test_checkpoints_of_a_run_that_lives_are_not_looked_at(tmp_path: Path) -> None:
    """Their folder is taken before anything in it is read: another run's half-written one is not set aside."""
    job = job_of(path=str(tmp_path / "shared"))
    path = begun(tmp_path / "run", job)
    save(tmp_path / "shared", 8, spec=job.spec)
    spoil(save(tmp_path / "shared", 16, spec=job.spec))
    with Lease.take(tmp_path / "shared", "here", Owner.here("run other in /other", datetime.now())):
        refused(path, ConfigError, "run other in /other")
        assert len(list_checkpoints(tmp_path / "shared")) == 2


@pytest.mark.parametrize("given", ["mine", None])
def test_a_program_may_change_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    """In its loop too: the run keeps its folder, and leaves it as one that was not disturbed."""
    monkeypatch.chdir(tmp_path)
    place = None if given is None else Path(given)
    directory, _ = opened(place, "own", NamedModel({}), lambda _: job_of())
    with directory:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert all(lease.still_ours() for lease in directory._leases) and not directory.lost
        directory.begin(job_of())
    assert directory.path.is_relative_to(tmp_path) and directory.job_file.is_file()
    assert not (directory.path / LEASE).exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_child_that_ends_before_the_job_begins_is_told(tmp_path: Path) -> None:
    """Also one that something ended without an error, for which the session would otherwise wait ten minutes."""
    children = Children.__new__(Children)
    log = tmp_path / "logs" / "server-0.log"
    ended: Any = SimpleNamespace(poll=lambda: ExitCode.STOPPED, wait=lambda seconds: None, log=log)
    children._children = {RoleId("server", 0): ended}
    assert children.anybody_ended
    told = children.why(Stopped("trainer 0: asked to stop before the job began"), "")
    assert isinstance(told, PeerLost)
    assert str(told).startswith("session: the oracle or a server was ended before the job began; begin again (logs: ")


def frozen_inside() -> nn.Sequential:
    """A model in training, of which the user has frozen the statistics."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].eval()
    return model


def score(model: nn.Module) -> None:
    session: Any = SimpleNamespace(device=torch.device("cpu"))
    batch: Any = {"dense_x": torch.ones(3, 2), "embeddings": None}
    scored = Session._score_with(session, Takes(model))(batch)
    assert scored.shape == (3, 2)


def try_evaluation(model: nn.Module) -> None:
    def outputs(*_: Any) -> None:
        assert not any(module.training for module in model.modules())

    trainer: Any = SimpleNamespace(tried=False, model=model, _computed=outputs, _rows=None)
    Trainer._try_evaluation(trainer, SimpleNamespace(plan=None))  # type: ignore[arg-type]  # it only hands it on


def fail(model: nn.Module) -> None:
    session: Any = SimpleNamespace(device=torch.device("cpu"))
    batch: Any = {"dense_x": torch.ones(3, 5), "embeddings": None}
    with pytest.raises(RuntimeError):
        Session._score_with(session, Takes(model))(batch)


class Takes(nn.Module):
    """A model of dense features alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, dense: torch.Tensor, embeddings: object) -> torch.Tensor:
        assert not any(module.training for module in self.modules())
        found: torch.Tensor = self.inner(dense)
        return found


@pytest.mark.parametrize("evaluate", [score, try_evaluation, fail])
def test_what_the_user_froze_stays_frozen(evaluate: Callable[[nn.Module], None]) -> None:
    """After an evaluation, or one that failed, each module is in the mode in which it was."""
    model = frozen_inside()
    evaluate(model)
    assert [module.training for module in model.modules()] == [True, True, False]

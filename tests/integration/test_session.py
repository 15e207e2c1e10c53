"""`bagpipe.local`: loops of a user's own with the oracle and the servers as children."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torch import nn

import bagpipe
from bagpipe.api import BatchDict
from bagpipe.checkpoint.store import list_checkpoints, open_checkpoint
from bagpipe.errors import BagpipeError, ConfigError, DataError, Diverged, PeerLost
from bagpipe.interactive.progress import NoView
from bagpipe.interactive.session import Session
from bagpipe.local.run import start_run

JOB = """
metadata: {name: own}
spec:
  model: {name: deepfm, overMlp: [8], precision: bfloat16}
  optimizer: {average: {decay: 0.9}}
  data:
    format: synthetic
    synthetic: {examples: 1000, tableSizes: [50, 400, 7, 90], multiHot: 3}
    testFraction: 0.2
  embedding: {dim: 4, optimizer: {name: adam, lr: 0.01}}
  batchSize: 50
  lookahead: 6
  logEvery: 1
  seed: 4
  trainers: {device: cpu}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path / "job.yaml"


def children() -> set[str]:
    """Of this process, those that other tests of it left behind included."""
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


@pytest.fixture
def others() -> set[str]:
    """Children that were there before the test."""
    return children()


def train(session: Session, most: int | None = None) -> list[float]:
    """The losses of the loop's batches; `most`: it breaks out after so many."""
    losses: list[float] = []
    model = session.model
    for batch in session:
        loss = session.loss(model(batch["dense_x"], batch["embeddings"]), batch["target"])
        session.train(loss)
        losses.append(float(loss.detach()))
        if len(losses) == most:
            break
    return losses


def leave_in_a_fork(session: Session) -> None:
    """Have a child process leave the session's block as an exception would."""
    pid, code = os.fork(), 1
    if not pid:
        try:
            session.__exit__(ValueError, ValueError("in the child"), None)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_loop_of_ones_own_is_a_run(job: Path, tmp_path: Path, others: set[str]) -> None:
    """The session's model, losses, evaluation and digest are those of `bagpipe run`; the run can be scored again.

    The model computes in the job's precision, and it is the average of its weights that is evaluated. The thread that
    opened the session has ended by then, and a fork of the program has left the session with an exception.
    """
    ours = start_run(job, (), tmp_path / "run", NoView())
    assert ours.summary is not None
    session = bagpipe.local(job, run_dir=tmp_path / "session", progress=False)
    opening = Thread(target=session.__enter__)
    opening.start()
    opening.join()
    with ExitStack() as block:
        block.push(session)
        leave_in_a_fork(session)
        losses = train(session)
    run = session.run
    assert len(losses) == 16
    for figure in ("steps", "loss", "evaluation", "modelDigest"):
        assert run.summary[figure] == ours.summary[figure], figure
    records = run.metrics() if isinstance(run.metrics(), list) else run.metrics().to_dict("records")
    assert [r["loss"] for r in records] == pytest.approx(losses, rel=1e-6)
    assert run.evaluate() == ours.summary["evaluation"]
    with pytest.raises(ConfigError, match=r"session: it was used already, for .*session; make another by"):
        session.__enter__()
    assert children() == others


def test_a_loop_that_breaks_out_loses_nothing(job: Path, tmp_path: Path) -> None:
    """Left after 5 batches, the job ends with a checkpoint of exactly these: resumed, it ends like one never left,
    though Adam would have moved rows in the batches that were planned and passed by.
    """
    with bagpipe.local(job, run_dir=tmp_path / "whole", progress=False) as session:
        whole = train(session)
    with bagpipe.local(job, run_dir=tmp_path / "left", progress=False) as session:
        first = train(session, most=5)
    assert session.run.stopped and session.run.summary["steps"] == 5
    with bagpipe.local(run_dir=tmp_path / "left", resume=True, progress=False) as again:
        rest = train(again)
    assert first + rest == whole
    for figure in ("modelDigest", "evaluation"):
        ends = [bagpipe.Run(tmp_path / name).summary[figure] for name in ("whole", "left")]
        assert ends[0] == ends[1], figure
    finished = (tmp_path / "left/summary.json").read_bytes()
    with pytest.raises(ConfigError, match=r"left: the run is finished at step 16, so nothing is left to train; give"):
        bagpipe.local(run_dir=tmp_path / "left", resume=True, progress=False).__enter__()
    assert (tmp_path / "left/summary.json").read_bytes() == finished
    (tmp_path / "left/summary.json").unlink()  # As of a run that was killed before it could write one.
    with bagpipe.local(run_dir=tmp_path / "left", resume=True, progress=False) as last:
        assert train_only_in_the_loop(last) == 0
    assert last.run.summary["evaluation"] == ends[1]


def train_only_in_the_loop(session: Session) -> int:
    """A loop that asks for the model only when it has a batch; returns how many there were."""
    count = 0
    for batch in session:
        session.train(session.loss(session.model(batch["dense_x"], batch["embeddings"]), batch["target"]))
        count += 1
    return count


class Two(nn.Module):
    """A model of one's own over two widths and bags of any length."""

    def __init__(self, num_dense: int) -> None:
        super().__init__()
        self.out = nn.Linear(num_dense + 3 + 5, 1)

    def forward(self, dense: torch.Tensor, narrow: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(torch.cat([dense, narrow.sum(1), wide.sum(1)], 1))
        return logits


def rows() -> list[dict[str, Any]]:
    return [{"y": n % 2, "x": n / 100, "few": [f"a{n % 5}"] * (n % 4), "many": [n % 9, n % 7]} for n in range(200)]


def test_widths_bags_and_a_scheduler(tmp_path: Path) -> None:
    """A registered model with a scheduler of its own trains over tables of two widths; stopped and resumed, rates and
    losses go on as in one go; its weights are in the checkpoint.
    """
    tables = [
        {"name": "few", "numEmbeddings": 10, "embeddingDim": 3, "featureNames": ["few"]},
        {"name": "many", "numEmbeddings": 20, "embeddingDim": 5, "featureNames": ["many"]},
    ]
    columns = {"labels": ["y"], "dense": ["x"], "sparse": ["few", "many"]}
    settings: dict[str, Any] = {"batch_size": 20, "embedding": {"tables": tables}, "evaluate": False, "lookahead": 3}

    def loop(session: Session, most: int | None = None) -> list[tuple[float, float]]:
        torch.manual_seed(0)
        model = Two(session.topology.num_dense)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
        session.register(model, optimizer, scheduler)
        seen = []
        for batch in session:
            few, many = session.cache.get_emb(batch["sparse_vector"])
            assert few.shape == (20, 3, 3) and many.shape == (20, 2, 5)
            loss = nn.functional.binary_cross_entropy_with_logits(model(batch["dense_x"], few, many), batch["target"])
            session.train(loss)
            seen.append((optimizer.param_groups[0]["lr"], float(loss.detach())))
            scheduler.step()
            if len(seen) == most:
                break
        return seen

    with bagpipe.local(data=rows(), columns=columns, run_dir=tmp_path / "a", progress=False, **settings) as session:
        whole = loop(session)
    with bagpipe.local(data=rows(), columns=columns, run_dir=tmp_path / "b", progress=False, **settings) as session:
        first = loop(session, 4)
    with bagpipe.local(run_dir=tmp_path / "b", resume=True, progress=False) as session:
        rest = loop(session)
    assert [rate for rate, _ in whole] == [0.5] * 3 + [0.25] * 3 + [0.125] * 3 + [0.0625]
    assert first + rest == whole
    assert (session.run.checkpoint / "dense.safetensors").is_file()
    with pytest.raises(ConfigError, match="the new data would begin epoch 2, so nothing is left"):
        bagpipe.local(run_dir=tmp_path / "b", resume=True, data=rows()[:100], progress=False).__enter__()
    assert session.run.summary["steps"] == 10 and not (tmp_path / "b/input-2").exists()
    with bagpipe.local(run_dir=tmp_path / "b", resume=True, data=rows()[:100], epochs=2, progress=False) as session:
        later = loop(session)  # Another five batches, at the rates of the steps that they are.
    assert [rate for rate, _ in later] == [0.0625] * 2 + [0.03125] * 3
    assert session.run.summary["steps"] == 15 and (tmp_path / "b/input-2").is_dir()


def test_an_exception_saves_nothing_and_leaves_nobody(job: Path, tmp_path: Path, others: set[str]) -> None:
    """What the loop raises comes out as it is; the run has no summary, and no child is left."""
    session = bagpipe.local(job, run_dir=tmp_path / "run", progress=False)

    def loop() -> None:
        with session:
            train(session, most=3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert session.run.summary == {} and children() == others


def loss_of(session: Session, batch: BatchDict) -> torch.Tensor:
    return session.loss(session.model(batch["dense_x"], batch["embeddings"]), batch["target"])


def train_on_a_broken_loss(session: Session, batch: BatchDict) -> None:
    session.train(loss_of(session, batch) * torch.nan)


def train_on_broken_gradients(session: Session, batch: BatchDict) -> None:
    """Nobody tells the loss."""
    (loss_of(session, batch) * torch.nan).backward()


def break_the_weights(session: Session, batch: BatchDict) -> None:
    session.train(loss_of(session, batch))
    with torch.no_grad():
        next(session.model.parameters()).fill_(torch.nan)


@pytest.mark.parametrize(
    ("breaking", "at", "words"),
    [
        (train_on_a_broken_loss, 5, r"step 6: the loss is nan; the first tensor that is not finite: the loss itself"),
        (train_on_broken_gradients, 5, r"step 6: the gradient of a row of feature \w+ is not finite"),
        (break_the_weights, 7, r"step 8: dense weight \S+ is not finite after the update"),
    ],
)
def test_what_is_not_finite_ends_a_loop(
    job: Path, tmp_path: Path, others: set[str], breaking: Callable[[Session, BatchDict], None], at: int, words: str
) -> None:
    """Whatever the NaN reaches first, the loop gets the error, and the checkpoint of before stays the newest."""

    def loop() -> None:
        with bagpipe.local(job, run_dir=tmp_path / "run", progress=False, checkpoint={"every": 4}) as session:
            for batch in session:
                if session.cache.step == at:
                    breaking(session, batch)
                else:
                    session.train(loss_of(session, batch))

    with pytest.raises(Diverged, match=words):
        loop()
    assert children() == others
    kept = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert [open_checkpoint(path).manifest.step for path in kept] == [4]


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"not_finite": "skip"}, r"spec\.notFinite: skip: a loop of your own has stepped"),
        ({"micro_batches": 2}, r"spec\.microBatches: has no effect on a loop of your own"),
    ],
)
def test_what_a_loop_of_ones_own_cannot_do_is_refused(
    job: Path, tmp_path: Path, setting: dict[str, Any], match: str
) -> None:
    """It has stepped its optimizer before anybody knows, and takes a batch as a whole: refused before it trains."""
    with pytest.raises(ConfigError, match=match):
        bagpipe.local(job, run_dir=tmp_path / "run", progress=False, **setting).__enter__()


def test_what_a_child_dies_of_is_told(tmp_path: Path, others: set[str]) -> None:
    """Data that is missing ends the start with the oracle's own words, and nobody is left."""
    columns = {"labels": ["a"], "sparse": ["b"]}
    session = bagpipe.local(data=str(tmp_path / "no.csv"), columns=columns, progress=False, run_dir=tmp_path / "run")
    with pytest.raises(DataError, match=r"no\.csv: no such file"):
        session.__enter__()
    assert children() == others


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trainers": 2}, "the loop of a session is the only trainer"),
        ({"data": "x"}, "the job says what the data is; leave out data"),
        ({"resume": True}, "which run"),
        ({"batch_sise": 4}, "unknown"),
    ],
)
def test_mistakes_are_one_line(job: Path, given: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything starts."""
    monkeypatch.chdir(job.parent)
    with pytest.raises(BagpipeError, match=message):
        bagpipe.local(job, progress=False, **given)
    assert not (job.parent / "runs").exists() or not list((job.parent / "runs").iterdir())


def test_a_session_without_a_model_does_not_train(job: Path, tmp_path: Path) -> None:
    """A loop whose weights nobody would save is refused after its first batch, of which nothing is kept."""

    def loop() -> None:
        with bagpipe.local(job, run_dir=tmp_path / "run", progress=False) as session:
            for _ in session:
                pass

    with pytest.raises(ConfigError, match="it has no model"):
        loop()


def test_a_session_whose_folder_was_taken_ends(job: Path, tmp_path: Path, others: set[str]) -> None:
    """At its next batch it says who has the folder, ends its children, and clears nothing away there."""
    path = tmp_path / "run"

    def loop() -> None:
        with bagpipe.local(job, run_dir=path, progress=False) as session:
            model = session.model
            for batch in session:
                session.train(session.loss(model(batch["dense_x"], batch["embeddings"]), batch["target"]))
                (path / "data").mkdir(exist_ok=True)
                (path / "data/.theirs").mkdir(exist_ok=True)
                session._directory._leases[0].lost = f"{path} was taken by run other"

    with pytest.raises(PeerLost, match="was taken by run other"):
        loop()
    assert (path / "data/.theirs").exists() and children() == others

"""Evaluations of the validation part change nothing of training, say what the checkpoint says, and end it exactly.

The reference (`bagpipe.testing.reference`) is a plain loop that knows of no validation. The grid covers every pair of
values.
"""

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.checkpoint.best import chosen_best
from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.kept_data import load_kept
from bagpipe.checkpoint.store import list_checkpoints, newest_complete, open_checkpoint
from bagpipe.cli.checkpoint import newest
from bagpipe.config.document import Job
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.examples import Examples
from bagpipe.errors import BagpipeError
from bagpipe.interactive.run import Run
from bagpipe.local.rundir import RunDir
from bagpipe.metrics.groups import grouped_auc, recall_at
from bagpipe.metrics.tasks import evaluate_tasks
from bagpipe.testing.compare import differences
from bagpipe.testing.covering import covering
from bagpipe.testing.reference import ReferenceRun, train_reference
from bagpipe.testing.threads import ThreadedRun, run_in_threads
from bagpipe.trainer.scorer import Scorer

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

BATCH, EXAMPLES, STEPS = 30, 520, 17


class Setting(NamedTuple):
    """One point of the grid; trainers, model, optimizer and extra may change bits, the rest must not."""

    trainers: int
    model: str
    optimizer: str
    extra: str
    lookahead: int
    cache: Any
    every: int
    best: str | None
    stopping: str | None
    lookups: int


MODELS: dict[str, dict[str, Any]] = {
    "dlrm": {"name": "dlrm", "bottomMlp": [8], "overMlp": [8]},
    "deepfm": {"name": "deepfm", "overMlp": [8, 8]},
}
"""The second one has dropout and running means, which an evaluation must leave alone."""
EXTRAS: dict[str, dict[str, Any]] = {
    "none": {},
    "average": {"optimizer": {"name": "sgd", "lr": 0.05, "average": {"decay": 0.75}}},
    "parts": {"microBatches": 3},
}
AXES = Setting(
    trainers=(1, 2, 3),  # type: ignore[arg-type]
    model=tuple(MODELS),  # type: ignore[arg-type]
    optimizer=("adagrad", "adam"),  # type: ignore[arg-type]
    extra=tuple(EXTRAS),  # type: ignore[arg-type]
    lookahead=(0, 3, 1000),  # type: ignore[arg-type]
    cache=(135, "auto"),  # the first one is barely enough for a step of one trainer
    every=(1, 4, 0),  # type: ignore[arg-type]
    best=(None, "auc"),  # type: ignore[arg-type]
    stopping=(None, "logLoss"),  # type: ignore[arg-type]
    lookups=(1, 3),  # type: ignore[arg-type]
)
GRID = [Setting(*values) for values in covering(AXES)]


def job_of(setting: Setting, **more: Any) -> Job:
    stopping = {"metric": setting.stopping, "patience": 1000} if setting.stopping and setting.every else None
    spec = {
        "model": MODELS[setting.model],
        "data": {
            "format": "synthetic",
            "validation": 0.25,
            "synthetic": {
                "examples": EXAMPLES,
                "tableSizes": [40, 200, 7, 90],
                "numDense": 3,
                "multiHot": setting.lookups,
            },
        },
        "embedding": {"dim": 4, "optimizer": {"name": setting.optimizer, "lr": 0.05}},
        "batchSize": BATCH,
        "steps": STEPS,
        "lookahead": setting.lookahead,
        "cacheRows": "auto" if setting.lookups > 1 else setting.cache,
        "evaluation": {"every": setting.every, "earlyStopping": stopping},
        "checkpoint": {"best": setting.best},
        "seed": 3,
        "logEvery": 1,
        "servers": {"replicas": 2, "storage": "memory"},
        "trainers": {"replicas": setting.trainers, "device": "cpu", "threads": 1},
    }
    return msgspec.convert({"spec": spec | EXTRAS[setting.extra] | more}, Job)


PLAIN = Setting(1, "dlrm", "adagrad", "none", 5, "auto", 3, None, None, 1)


def data_of(job: Job) -> Dataset:
    return open_dataset(job.spec.data, job.spec.embedding, seed=job.spec.seed, work_dir=Path("/nonexistent"))


@cache
def reference(setting: Setting, steps: int = STEPS) -> ReferenceRun:
    job = job_of(setting)
    data = data_of(job)
    batches = itertools.islice(data.train_batches(BATCH), steps)
    return train_reference(batches, data.layout, job.spec, num_dense=data.num_dense, world_size=setting.trainers)


def validated(run: ThreadedRun) -> dict[int, dict[str, Any]]:
    """The figures of each evaluation that the run recorded, by its step."""
    records = map(json.loads, (run.run_dir / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record["validation"] for record in records if record.get("event") == "validated"}


def figures_of(checkpoint: Path, job: Job) -> dict[str, Any]:
    """The validation part by the checkpoint's files alone: no server, no cache, no oracle."""
    opened = open_checkpoint(checkpoint)
    kept = load_kept(opened)
    assert kept is not None
    scorer = Scorer(opened, kept.transform)
    logits, labels = [], []
    for batch in data_of(job).validation_batches(BATCH):
        logits.append(scorer.logits(Examples(batch.labels_BL, batch.dense_BF, batch.sparse)))
        labels.append(batch.labels_BL)
    return evaluate_tasks(np.concatenate(logits), np.concatenate(labels), ["label"], "clicks")


@pytest.mark.parametrize("setting", GRID, ids=["-".join(map(str, one)) for one in GRID])
def test_training_is_what_it_is_without_validation(setting: Setting, tmp_path: Path) -> None:
    """Losses, rows with their state, dense weights and buffers are those of a plain loop, to the bit."""
    run = run_in_threads(job_of(setting), tmp_path / "run")
    assert (
        differences(run, reference(setting._replace(lookahead=0, cache="auto", every=0, best=None, stopping=None)))
        == []
    )
    due = set(range(setting.every, STEPS + 1, setting.every)) if setting.every else set()
    assert set(validated(run)) == due | {STEPS}


@pytest.mark.parametrize("trainers", [1, 3])
def test_figures_are_those_of_the_checkpoint_of_the_same_step(trainers: int, tmp_path: Path) -> None:
    """Every row is seen as its step left it, although training goes on at once, with a checkpoint and without."""
    job = job_of(PLAIN._replace(trainers=trainers), checkpoint={"every": 3, "keep": 100})
    run = run_in_threads(job, tmp_path / "run")
    told = validated(run)
    assert set(told) == {3, 6, 9, 12, 15, 17}
    for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        step = open_checkpoint(path).manifest.step
        again = figures_of(path, job)
        assert told[step] == pytest.approx(again, abs=1e-6), f"step {step}"
    assert len({figures["auc"] for figures in told.values()}) > 3
    alone = run_in_threads(job_of(PLAIN._replace(trainers=trainers, lookahead=1000)), tmp_path / "alone")
    assert validated(alone) == told


STOPPING = {"every": 3, "earlyStopping": {"metric": "auc", "patience": 2, "minDelta": 1}}
"""No AUC is better by more than 1: the first evaluation is the best, and the third one ends training."""


@pytest.mark.parametrize("trainers", [1, 3])
def test_early_stopping_ends_every_trainer_at_the_same_step(trainers: int, tmp_path: Path) -> None:
    """The model is that of a plain loop of as many steps, and its checkpoint is complete."""
    setting = PLAIN._replace(trainers=trainers)
    run = run_in_threads(job_of(setting, evaluation=STOPPING), tmp_path / "run")
    assert run.report["steps"] == 9 and run.report["validation"]["stoppedEarly"] is True
    assert not run.report["stopped"]
    assert differences(run, reference(setting, steps=9)) == []


@pytest.mark.parametrize(("trainers", "stop"), [(1, 7), (3, 7), (1, 6), (3, 5)])
def test_a_resumed_run_stops_early_where_the_uninterrupted_one_does(trainers: int, stop: int, tmp_path: Path) -> None:
    """What was measured is in the checkpoint; what was measured at the end of the first part does not count."""
    setting = PLAIN._replace(trainers=trainers)
    first = run_in_threads(job_of(setting, evaluation=STOPPING, steps=stop), tmp_path / "run")
    assert first.report["steps"] == stop
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    run = run_in_threads(job_of(setting, evaluation=STOPPING), tmp_path / "run", attempt=1, checkpoint=checkpoint)
    assert run.report["steps"] == 9 and run.report["validation"]["stoppedEarly"] is True
    assert differences(run, reference(setting, steps=9)) == []


RECIPE: dict[str, Any] = {
    "microBatches": 3,
    "optimizer": {
        "name": "adam",
        "lr": 0.02,
        "schedule": {"name": "cosine", "decaySteps": 12, "warmupSteps": 2},
        "average": {"decay": 0.8},
    },
}
"""A schedule, accumulation and an average beside early stopping."""


@pytest.mark.parametrize(("trainers", "stop"), [(1, 5), (3, 7)])
def test_a_whole_recipe_is_resumed_at_an_odd_step(trainers: int, stop: int, tmp_path: Path) -> None:
    """Schedule, accumulation, average and early stopping go on: the run ends where and as a plain loop does."""
    setting = PLAIN._replace(trainers=trainers)
    job = job_of(setting, evaluation=STOPPING, **RECIPE)
    whole = run_in_threads(job, tmp_path / "whole")
    steps = whole.report["steps"]
    assert stop < steps < STEPS
    run_in_threads(job_of(setting, evaluation=STOPPING, **RECIPE | {"steps": stop}), tmp_path / "run")
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    run = run_in_threads(job, tmp_path / "run", attempt=1, checkpoint=checkpoint)
    assert run.report["steps"] == steps and run.report["validation"]["stoppedEarly"] is True
    data = data_of(job)
    batches = itertools.islice(data.train_batches(BATCH), steps)
    plain = train_reference(batches, data.layout, job.spec, num_dense=data.num_dense, world_size=trainers)
    assert differences(run, plain) == [] and differences(whole, plain) == []


def test_a_run_that_has_stopped_early_has_nothing_left_to_train(tmp_path: Path) -> None:
    """Started again from its checkpoint it trains no step; with more patience it goes on as if it had never stopped."""
    run_in_threads(job_of(PLAIN, evaluation=STOPPING), tmp_path / "run")
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    again = run_in_threads(job_of(PLAIN, evaluation=STOPPING), tmp_path / "run", attempt=1, checkpoint=checkpoint)
    assert again.report["steps"] == 9
    patient = {"every": 3, "earlyStopping": {"metric": "auc", "patience": 100}}
    longer = run_in_threads(job_of(PLAIN, evaluation=patient), tmp_path / "run", attempt=2, checkpoint=checkpoint)
    assert longer.report["steps"] == STEPS
    assert differences(longer, reference(PLAIN)) == []


def test_the_best_checkpoint_is_kept_apart_from_the_newest(tmp_path: Path) -> None:
    """With `keep: 1` two checkpoints remain: the newest, and the one whose figure is the best of all that were told."""
    # A rate that is far too great makes the figure fall after the first evaluations.
    wild = {"dim": 4, "optimizer": {"name": "sgd", "lr": 200.0}}
    job = job_of(PLAIN, embedding=wild, checkpoint={"best": "logLoss", "keep": 1}, evaluation={"every": 2})
    with RunDir.create(tmp_path / "run") as directory:
        directory.begin(job)
        run = run_in_threads(job, directory.path)
        directory.sweep(job)  # as a supervisor does after every attempt
    told = {step: figures["logLoss"] for step, figures in validated(run).items()}
    best = min(told, key=lambda step: (told[step], step))
    assert best != STEPS, "the test needs a figure that falls"
    root = tmp_path / "run" / "checkpoints"
    assert [open_checkpoint(path).manifest.step for path in list_checkpoints(root)] == [best, STEPS]
    assert open_checkpoint(chosen_best(root)).manifest.step == best
    assert Run(run.run_dir).best_checkpoint == newest(run.run_dir, best=True) == chosen_best(root)
    assert Run(run.run_dir).checkpoint == newest(run.run_dir) != chosen_best(root)
    assert figures_of(chosen_best(root), job)["logLoss"] == pytest.approx(told[best], abs=1e-6)
    assert run.report["validation"]["best"] == {"step": best, "metric": "logLoss", "value": told[best]}


class Refuses(nn.Module):
    """Linear; it raises where it is evaluated, except at the first step, where one batch of evaluation is tried."""

    def __init__(self, num_dense: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_dense + 4, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        self.calls += self.training
        if not self.training and self.calls > 1:
            raise ValueError("no evaluation today")
        out: torch.Tensor = self.linear(torch.cat([dense_BF, sparse["C2"]], 1))
        return out


@pytest.mark.parametrize("trainers", [1, 3])
def test_a_validation_that_fails_is_no_run_that_fails(trainers: int, tmp_path: Path) -> None:
    """The reason is recorded with the file and line, no evaluation counts against patience, and training goes on."""
    model = {"entrypoint": f"{__name__}:Refuses"}
    failing = {"every": 3, "earlyStopping": {"metric": "auc", "patience": 1}}
    job = job_of(PLAIN._replace(trainers=trainers), model=model, evaluation=failing, checkpoint={"best": "auc"})
    run = run_in_threads(job, tmp_path / "run")
    assert run.report["steps"] == STEPS
    assert len(validated(run)) == 6
    for figures in validated(run).values():
        assert "test_validation.py" in figures["failed"] and "no evaluation today" in figures["failed"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"data": {"format": "synthetic"}}, r"spec\.evaluation\.every: has no effect without a validation part"),
        ({"checkpoint": {"best": "accuracy"}}, r"spec\.checkpoint\.best: expected a figure .*auc, logLoss.*'accuracy'"),
        (
            {"evaluation": {"every": 3, "metrics": ["recall@5"]}},
            r"metrics: recall@5 needs .*; set data\.columns\.group",
        ),
        (
            {"evaluation": {"every": 3, "metrics": ["no.such:thing"]}},
            r"metrics: no\.such:thing: cannot import 'no\.such'",
        ),
        ({"checkpoint": {"best": "other/auc"}}, r"spec\.checkpoint\.best: .*there is no label 'other'"),
    ],
)
def test_settings_without_effect_are_refused_before_training(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Each in one line that names the setting and what there is."""
    with pytest.raises(BagpipeError, match=said):
        run_in_threads(job_of(PLAIN, **more), tmp_path / "run")
    assert '"step"' not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_the_digest_is_the_same_with_and_without(tmp_path: Path) -> None:
    """`modelDigest` of a run that validates at every step is that of one that has no validation part to look at."""
    digests = []
    for every in (0, 1):
        run = run_in_threads(job_of(PLAIN, evaluation={"every": every}), tmp_path / str(every))
        newest = newest_complete(run.run_dir / "checkpoints")
        assert newest is not None
        digests.append(model_digest(newest))
    assert digests[0] == digests[1]


def share_above_half(labels: Any, scores: Any, weights: Any, groups: Any) -> float:
    """A figure of one's own, which says what it was given."""
    assert weights is None and len(labels) == len(scores) == len(groups)
    return float(np.mean(scores > 0.5))


def test_figures_by_group_and_of_ones_own(tmp_path: Path) -> None:
    """On three trainers each example keeps its group: the figures are those of the file's own column."""
    rng = np.random.default_rng(5)
    rows = [
        (int(rng.integers(0, 12)), int(rng.integers(0, 30)), float(rng.random()), int(rng.random() < 0.4))
        for _ in range(400)
    ]
    text = "user,item,price,click\n" + "".join(f"{u},{i},{p},{y}\n" for u, i, p, y in rows)
    (tmp_path / "clicks.csv").write_text(text)
    columns = {
        "labels": [{"name": "click"}],
        "dense": [{"name": "price"}],
        "sparse": [{"name": "user"}, {"name": "item"}],
        "group": "user",
    }
    data = {"path": str(tmp_path / "clicks.csv"), "columns": columns, "validation": 0.3, "test": 0.2}
    metrics = ["auc", "groupedAuc", "recall@2", f"{__name__}:share_above_half"]
    job = job_of(PLAIN._replace(trainers=3), data=data, evaluation={"every": 8, "metrics": metrics}, steps=16)
    run = run_in_threads(job, tmp_path / "run")
    newest = newest_complete(run.run_dir / "checkpoints")
    assert newest is not None
    opened = open_checkpoint(newest)
    kept = load_kept(opened)
    assert kept is not None
    scorer = Scorer(opened, kept.transform)
    dataset = open_dataset(
        job.spec.data, job.spec.embedding, seed=3, work_dir=run.run_dir / "data", kept=kept.transform
    )
    for part, batches, users in (
        ("validation", dataset.validation_batches(BATCH), [row[0] for row in rows[200:320]]),
        ("evaluation", dataset.test_batches(BATCH), [row[0] for row in rows[320:]]),
    ):
        seen = [(scorer.logits(Examples(b.labels_BL, b.dense_BF, b.sparse)), b.labels_BL) for b in batches]
        logits, labels = (np.concatenate(column).reshape(-1).astype(np.float64) for column in zip(*seen, strict=True))
        told = run.report[part]
        assert told["groupedAuc"] == pytest.approx(grouped_auc(logits, labels, np.array(users)), abs=1e-6)
        assert told["recall@2"] == pytest.approx(recall_at(logits, labels, np.array(users), 2), abs=1e-6)
        assert told["share_above_half"] == pytest.approx(np.mean(logits > 0))
        assert set(told) >= {"auc", "groupedAuc", "recall@2", "share_above_half"} and "logLoss" not in told

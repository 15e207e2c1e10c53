"""Every setting of a recipe trains as plain PyTorch does, to the bit: cached, uncached, on several trainers, resumed.

The grid covers every pair of values (contracts X1, X2 and X3). The reference
(`bagpipe.testing.reference`) is a plain loop. The values' names stand in the tests' names.
"""

import itertools
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.checkpoint.kept_data import load_kept
from bagpipe.checkpoint.store import newest_complete, open_checkpoint
from bagpipe.config.document import Job
from bagpipe.config.recipe import Average
from bagpipe.data.dataset import open_dataset
from bagpipe.data.examples import Examples
from bagpipe.errors import CheckpointError, DataError
from bagpipe.oracle.sizing.steps import settle_schedules
from bagpipe.testing.compare import differences
from bagpipe.testing.covering import covering
from bagpipe.testing.reference import ReferenceRun, train_reference
from bagpipe.testing.threads import run_in_threads
from bagpipe.trainer.predict import Scorer

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

BATCH, EXAMPLES, STEPS, STOP = 30, 400, 17, 7

ROWS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.1},
    "momentum": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    "adagrad": {"name": "adagrad", "lr": 0.05},
    "rowwise": {"name": "rowwise-adagrad", "lr": 0.05},
    "adam": {"name": "adam", "lr": 0.01},
}
DENSE: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.05, "momentum": 0.5},
    "adam": {"name": "adam", "lr": 0.01, "weightDecay": 0.01},
    "adamw": {"name": "adamw", "lr": 0.01, "weightDecay": 0.1},
}
ROW_SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "step": {"name": "step", "every": 4, "gamma": 0.5, "warmupSteps": 3, "warmupFrom": 0.1},
    "cosine": {"name": "cosine", "decaySteps": 12, "finalFactor": 0.1},
    "OneCycle": {"name": "OneCycleLR", "args": {"max_lr": 0.1, "total_steps": STEPS}},
}
DENSE_SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "polynomial": {"name": "polynomial", "decaySteps": 11, "power": 2.0, "warmupSteps": 2},
    "OneCycle": {"name": "OneCycleLR", "args": {"max_lr": 0.1, "total_steps": STEPS}},
    "Exponential": {"name": "ExponentialLR", "args": {"gamma": 0.9}},
}


TABLES: dict[str, dict[str, Any]] = {
    "alike": {},
    "bounded": {"optimizer": {"weightDecay": 0.3, "clipValue": 0.02, "clipNorm": 0.03}},
    "mixed": {
        "overrides": [
            {"tables": ["C1", "C3"], "optimizer": {"name": "adam", "lr": 0.02, "weightDecay": 0.1}, "initScale": 0.5},
            {"tables": ["C[2-4]"], "optimizer": {"lr": 0.03, "schedule": {"name": "step", "every": 5}}},
            {"tables": ["C4"], "optimizer": {"name": "rowwise-adagrad", "initialAccumulator": 0.25, "clipNorm": 0.05}},
        ]
    },
    "frozen": {"overrides": [{"tables": ["C[12]"], "frozen": True}, {"tables": ["C1", "C4"], "initScale": 0}]},
}
WEIGHTS: dict[str, dict[str, Any]] = {
    "alike": {},
    "bounded": {"clipValue": 0.02, "clipNorm": 0.05},
    "groups": {
        "overrides": [
            {"parameters": ["*.bias"], "weightDecay": 0, "lr": 0.02},
            {"parameters": ["dense_arch*"], "frozen": True},
        ]
    },
}


EXTRAS: dict[str, dict[str, Any]] = {
    "none": {},
    "average": {"average": {"decay": 0.75}},
    "bfloat16": {"precision": "bfloat16"},
    "parts": {"microBatches": 3},
    "all": {"average": {"decay": 0.9}, "precision": "bfloat16", "microBatches": 4},
}


DLRM: dict[str, Any] = {"name": "dlrm", "bottomMlp": [8], "overMlp": [8]}
TOWERS: dict[str, Any] = {
    "name": "two-tower",
    "itemFeatures": ["C2", "C4"],
    "towerMlp": [8, 4],
    "negatives": "in-batch",
}
LOSSES: dict[str, dict[str, Any]] = {
    "bce": DLRM,
    "factor": DLRM | {"taskWeights": [0.3]},
    "pairwise": DLRM | {"loss": "pairwise"},
    "in-batch": {"entrypoint": f"{__name__}:Products", "loss": "in-batch-softmax"},
    "own": TOWERS,
    "logQ": TOWERS | {"logQ": True, "temperature": 0.5},
}
FIRST_LAYERS = ("dense_arch*", "item_tower.0.*", "item_layer.*")
"""Of these models: what the recipe "groups" freezes."""


class Products(nn.Module):
    """Two linear layers, of users and of items; in training each user with each item of the slice."""

    def __init__(self, num_dense: int) -> None:
        super().__init__()
        self.user_layer, self.item_layer = nn.Linear(num_dense + 8, 4), nn.Linear(8, 4)

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        user_BD = self.user_layer(torch.cat([dense_BF, sparse["C1"], sparse["C3"]], 1))
        item_BD = self.item_layer(torch.cat([sparse["C2"], sparse["C4"]], 1))
        return user_BD @ item_BD.T if self.training else (user_BD * item_BD).sum(1, keepdim=True)


class Recipe(NamedTuple):
    """One point of the grid: names of the values above."""

    trainers: int
    lookahead: int
    row: str
    dense: str
    row_schedule: str
    dense_schedule: str
    tables: str
    weights: str
    lookups: int
    extra: str
    loss: str = "bce"


AXES = (
    (1, 3),
    (0, 5),
    tuple(ROWS),
    tuple(DENSE),
    tuple(ROW_SCHEDULES),
    tuple(DENSE_SCHEDULES),
    tuple(TABLES),
    tuple(WEIGHTS),
    (1, 3),
    tuple(EXTRAS),
    tuple(LOSSES),
)
GRID = [Recipe(*values) for values in covering(AXES)]


def job_of(recipe: Recipe, **more: Any) -> Job:
    tables = dict(TABLES[recipe.tables])
    rows = ROWS[recipe.row] | tables.pop("optimizer", {}) | {"schedule": ROW_SCHEDULES[recipe.row_schedule]}
    dense = DENSE[recipe.dense] | WEIGHTS[recipe.weights] | {"schedule": DENSE_SCHEDULES[recipe.dense_schedule]}
    if "overrides" in dense:
        frozen = FIRST_LAYERS[{"logQ": 1, "own": 1, "in-batch": 2}.get(recipe.loss, 0)]
        dense |= {"overrides": [dense["overrides"][0], {"parameters": [frozen], "frozen": True}]}
    extra = EXTRAS[recipe.extra]
    spec = {
        "model": LOSSES[recipe.loss] | {"precision": extra.get("precision", "float32")},
        "data": {
            "format": "synthetic",
            "synthetic": {
                "examples": EXAMPLES,
                "tableSizes": [40, 200, 7, 90],
                "numDense": 3,
                "multiHot": recipe.lookups,
            },
        },
        "embedding": {"dim": 4, "optimizer": rows, **tables},
        "optimizer": dense | {"average": extra.get("average")},
        "microBatches": extra.get("microBatches", 1),
        "batchSize": BATCH,
        "steps": STEPS,
        "lookahead": recipe.lookahead,
        "seed": 3,
        "logEvery": 1,
        "servers": {"replicas": 2, "storage": "memory"},
        "trainers": {"replicas": recipe.trainers, "device": "cpu", "threads": 1},
    }
    return msgspec.convert({"spec": spec | more}, Job)


@cache
def reference(recipe: Recipe) -> ReferenceRun:
    spec = settle_schedules(job_of(recipe).spec, STEPS)
    data = open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=Path("/nonexistent"))
    batches = itertools.islice(data.train_batches(BATCH), STEPS)
    return train_reference(batches, data.layout, spec, num_dense=data.num_dense, world_size=recipe.trainers)


def plain(recipe: Recipe) -> ReferenceRun:
    """The reference does not know of a lookahead."""
    return reference(recipe._replace(lookahead=0))


@pytest.mark.parametrize("recipe", GRID, ids=["-".join(map(str, one)) for one in GRID])
def test_equals_plain_pytorch(recipe: Recipe, tmp_path: Path) -> None:
    """Losses, rows with their state, and dense weights, whatever the recipe (X1)."""
    run = run_in_threads(job_of(recipe), tmp_path / "run")
    assert differences(run, plain(recipe)) == []


@pytest.mark.parametrize("recipe", GRID[::5], ids=["-".join(map(str, one)) for one in GRID[::5]])
def test_resumed_at_an_odd_step_ends_the_same(recipe: Recipe, tmp_path: Path) -> None:
    """A run that ended after seven steps, and went on, is the run that never ended (X3)."""
    run_in_threads(job_of(recipe, steps=STOP, checkpoint={"every": 5}), tmp_path / "run")
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    run = run_in_threads(job_of(recipe), tmp_path / "run", attempt=1, checkpoint=checkpoint)
    assert differences(run, plain(recipe)) == []


def test_a_decay_that_was_settled_by_the_length_is_not_settled_anew(tmp_path: Path) -> None:
    """Without `decaySteps` the job's length is it; a longer job would decay otherwise, so it is not resumed."""
    falling = {"optimizer": {"name": "adam", "schedule": {"name": "cosine"}}, "checkpoint": {"every": 5}}
    recipe = Recipe(1, 2, "sgd", "sgd", "constant", "constant", "alike", "alike", 1, "none")
    run = run_in_threads(job_of(recipe, steps=STOP, **falling), tmp_path / "run")
    assert np.isfinite(run.losses).all()
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    with pytest.raises((CheckpointError, DataError), match=r"decaySteps is not what it was \(left out, it follows"):
        run_in_threads(job_of(recipe, **falling), tmp_path / "run", attempt=1, checkpoint=checkpoint)


def test_what_is_evaluated_is_the_average(tmp_path: Path) -> None:
    """The log loss is that of the averaged weights, by hand from the checkpoint; predictions are theirs too."""
    recipe = Recipe(2, 5, "adagrad", "sgd", "constant", "constant", "alike", "alike", 1, "none")
    spec = job_of(recipe).spec
    data = msgspec.structs.replace(spec.data, test_fraction=0.25)
    dense = msgspec.structs.replace(spec.optimizer, average=Average(decay=0.9))
    job = Job(spec=msgspec.structs.replace(spec, data=data, optimizer=dense))
    run = run_in_threads(job, tmp_path / "run")
    newest = newest_complete(tmp_path / "run" / "checkpoints")
    assert newest is not None
    checkpoint = open_checkpoint(newest)
    kept = load_kept(checkpoint)
    assert kept is not None
    scorer = Scorer(checkpoint, kept.transform)
    dataset = open_dataset(data, spec.embedding, seed=spec.seed, work_dir=Path("/nonexistent"))

    def log_loss() -> float:
        losses = []
        for batch in dataset.test_batches(BATCH):
            logits = torch.from_numpy(scorer.logits(Examples(batch.labels_BL, batch.dense_BF, batch.sparse)))
            losses += functional.binary_cross_entropy_with_logits(
                logits.double(), torch.from_numpy(batch.labels_BL).double(), reduction="none"
            ).tolist()
        return float(np.mean(losses))

    told = run.report["evaluation"]["logLoss"]
    assert log_loss() == pytest.approx(told, abs=1e-6)
    scorer.model.load_state_dict(safetensors.torch.load_file(newest / "dense.safetensors"))
    assert log_loss() != pytest.approx(told, abs=1e-6)


@pytest.mark.parametrize("trainers", [1, 3])
def test_parts_with_dropout_and_running_means(trainers: int, tmp_path: Path) -> None:
    """Masks are those of the examples' places, statistics those of a part, one after the other; rank 0's remain."""
    recipe = Recipe(trainers, 5, "adagrad", "adam", "constant", "constant", "alike", "alike", 1, "parts")
    job = job_of(recipe, model={"name": "deepfm", "overMlp": [8, 8]})
    data = open_dataset(job.spec.data, job.spec.embedding, seed=job.spec.seed, work_dir=Path("/nonexistent"))
    batches = itertools.islice(data.train_batches(BATCH), STEPS)
    expected = train_reference(batches, data.layout, job.spec, num_dense=data.num_dense, world_size=trainers)
    assert differences(run_in_threads(job, tmp_path / "run"), expected) == []

"""Every loss of the job trains exactly, with factors of tasks and weights of examples, and is judged task by task.

Trainers with the cache equal the uncached reference to the bit; the reference, which shares the losses with them, is
held to the formulas in `tests/unit/models/test_layers.py`. Figures are held to scores that are made without servers and
oracle (`bagpipe.trainer.predict`).
"""

import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.config.evaluation import EvaluationConfig
from bagpipe.config.rules import check_rules
from bagpipe.data.dataset import open_dataset
from bagpipe.errors import ConfigError
from bagpipe.local.beginning import check_document
from bagpipe.metrics.clicks import evaluate
from bagpipe.testing.compare import checkpoint_differences
from bagpipe.testing.reference import train_reference
from bagpipe.testing.threads import ThreadedRun, run_in_threads
from bagpipe.trainer.predict import predict

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

ROWS, BATCH, EPOCHS, TEST = 205, 32, 2, 0.2
LABELS = [{"name": "clicked"}, {"name": "visits", "kind": "count"}]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clicks, visits, a weight and three features."""
    draw = random.Random(4)
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    lines = ["clicked,visits,weight,price,user,item"]
    for _ in range(ROWS):
        user, item = draw.randrange(30), draw.randrange(12)
        clicked, visits = int(draw.random() < (0.8 if item % 3 else 0.2)), min(int(draw.expovariate(0.5)), 9)
        lines.append(f"{clicked},{visits},{draw.choice([0, 0.5, 1, 3])},{draw.random():.3f},u{user},i{item}")
    path.write_text("\n".join(lines) + "\n")
    return path


def job_of(table: Path, trainers: int, labels: list[dict[str, str]], weight: str, group: str = "", **model: Any) -> Job:
    columns: dict[str, Any] = {"labels": labels, "dense": [{"name": "price"}], "group": group}
    columns |= {"sparse": [{"name": "user"}, {"name": "item"}], "ignore": ["*"], "weight": weight}
    spec = {
        "model": {"name": "dlrm", "bottomMlp": [8], "overMlp": [8], **model},
        "data": {"path": str(table), "format": "csv", "testFraction": TEST, "columns": columns},
        "embedding": {"dim": 4, "optimizer": {"name": "adagrad", "lr": 0.05}},
        "optimizer": {"name": "adam", "lr": 0.01},
        "batchSize": BATCH,
        "epochs": EPOCHS,
        "lookahead": 3,
        "logEvery": 1,
        "servers": {"replicas": 2, "storage": "memory"},
        "trainers": {"replicas": trainers, "device": "cpu", "threads": 1},
    }
    return msgspec.convert({"spec": spec}, Job)


def trained_exactly(job: Job, folder: Path) -> ThreadedRun:
    """The run, after comparison with the reference."""
    spec = job.spec
    run = run_in_threads(job, folder)
    dataset = open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=folder / "again")
    expected = train_reference(
        dataset.train_batches(BATCH, epochs=EPOCHS),
        dataset.layout,
        spec,
        num_dense=dataset.num_dense,
        num_labels=dataset.num_labels,
        world_size=spec.trainers.replicas,
    )
    checkpoint = newest_complete(folder / "checkpoints")
    assert checkpoint is not None
    assert checkpoint_differences(checkpoint, expected.losses, expected) == []
    assert run.losses == pytest.approx(expected.losses, rel=1e-6)
    return run


CASES: list[tuple[str, int, list[dict[str, str]], str, dict[str, Any]]] = [
    ("squared-error", 1, LABELS[1:], "", {"loss": "squared-error"}),
    ("poisson-3", 3, LABELS[1:], "weight", {"loss": "poisson"}),
    ("bce-weights", 1, LABELS[:1], "weight", {}),
    ("two-tasks-3", 3, [LABELS[0], {"name": "often", "rule": "visits >= 2"}], "weight", {"taskWeights": (1.0, 0.3)}),
]


@pytest.mark.parametrize(("trainers", "labels", "weight", "model"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_loss_trains_exactly_and_is_judged_by_its_figures(
    trainers: int, labels: list[dict[str, str]], weight: str, model: dict[str, Any], table: Path, tmp_path: Path
) -> None:
    """Rows and weights are the reference's to the bit; each label's figures are those of its scores, by weight."""
    job = job_of(table, trainers, labels, weight, **model)
    evaluation = trained_exactly(job, tmp_path / "run").report["evaluation"]
    lines = [line.split(",") for line in table.read_text().splitlines()]
    first = len(lines) - evaluation["examples"]
    assert evaluation["examples"] == ROWS * TEST
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    predict(checkpoint, str(table), tmp_path / "scores.parquet")
    scores = pq.read_table(tmp_path / "scores.parquet")
    told = evaluation.get("tasks", {labels[0]["name"]: evaluation})
    assert list(told) == [label["name"] for label in labels]
    weights = np.array([float(line[2]) for line in lines[first:]]) if weight else np.ones(evaluation["examples"])
    for label in labels:
        predicted = scores[f"score_{label['name']}"].to_numpy()[first - 1 :]
        if label["name"] == "visits":
            errors = predicted - np.array([float(line[1]) for line in lines[first:]])
            expected = np.sqrt(np.sum(errors**2 * weights) / weights.sum())
            assert told["visits"]["rmse"] == pytest.approx(expected, rel=1e-5)
            assert told["visits"]["mae"] == pytest.approx(np.sum(np.abs(errors) * weights) / weights.sum(), rel=1e-5)
            continue
        column = 0 if label["name"] == "clicked" else 1
        clicks = np.array([float(line[column]) >= 1 + column for line in lines[first:]], float)
        figures = evaluate(np.log(predicted / (1 - predicted)), clicks, weights)
        assert told[label["name"]]["auc"] == pytest.approx(figures.auc, rel=1e-6)
        assert told[label["name"]]["logLoss"] == pytest.approx(figures.log_loss, rel=1e-5)


class Products(nn.Module):
    """Users and items by their rows alone; in training each user with each item of the slice."""

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        user_BD, item_BD = sparse["user"], sparse["item"]
        return user_BD @ item_BD.T if self.training else (user_BD * item_BD).sum(1, keepdim=True)


OWN = {"name": "dlrm", "entrypoint": f"{__name__}:Products", "bottomMlp": None, "overMlp": None}
COMPARING: list[tuple[str, str, dict[str, Any]]] = [
    ("", "", {"loss": "pairwise"}),
    ("weight", "user", {"loss": "pairwise"}),
    ("weight", "", {"loss": "in-batch-softmax", **OWN}),
]


@pytest.mark.parametrize("trainers", [1, 3])
@pytest.mark.parametrize(("weight", "group", "model"), COMPARING, ids=["pairwise", "within-groups", "in-batch"])
def test_a_loss_between_examples_trains_exactly(
    weight: str, group: str, model: dict[str, Any], trainers: int, table: Path, tmp_path: Path
) -> None:
    """Rows and weights are those of a plain loop over the same slices, to the bit; a score an example is evaluated."""
    job = job_of(table, trainers, LABELS[:1], weight, group, **model)
    run = trained_exactly(job, tmp_path / "run")
    assert run.report["evaluation"]["examples"] == ROWS * TEST
    assert 0 < run.report["evaluation"]["auc"] < 1
    assert max(run.losses) > 0


CANDIDATES = [{"name": "clicked"}, {"name": "other", "rule": "visits >= 2"}, {"name": "third", "rule": "visits < 1"}]


@pytest.mark.parametrize("trainers", [1, 3])
def test_candidates_of_an_example_train_exactly(trainers: int, table: Path, tmp_path: Path) -> None:
    """Three labels are the candidates of one task, whose figures are rankings within each example."""
    job = job_of(table, trainers, CANDIDATES, "weight", loss="softmax", name="mmoe", bottomMlp=None, overMlp=None)
    evaluation = trained_exactly(job, tmp_path / "run").report["evaluation"]
    assert evaluation["examples"] == ROWS * TEST
    assert list(evaluation) == ["examples", "groupedAuc", "recall@1", "ndcg@10"]
    assert all(0 < evaluation[name] < 1 for name in ("groupedAuc", "recall@1", "ndcg@10"))


@pytest.mark.parametrize(
    ("labels", "more", "said"),
    [
        (LABELS[:1], {}, "softmax: the labels are candidates, .* but the data has 1; name more"),
        (CANDIDATES, {"taskWeights": [1, 1, 1]}, "taskWeights: .* with the loss softmax"),
        (CANDIDATES, {"metrics": ["auc"]}, "auc: the loss softmax trains nothing but the order"),
    ],
)
def test_what_has_no_meaning_for_candidates_is_refused(
    labels: list[dict[str, str]], more: dict[str, Any], said: str, table: Path
) -> None:
    """Before training, in one line that names the setting."""
    metrics = more.get("metrics", ())
    model = {name: value for name, value in more.items() if name != "metrics"}
    spec = job_of(table, 1, labels, "", loss="softmax", **model).spec
    job = Job(spec=msgspec.structs.replace(spec, evaluation=EvaluationConfig(metrics=tuple(metrics))))

    def check() -> None:
        check_rules(job)
        check_document(job.spec)

    with pytest.raises(ConfigError, match=said):
        check()


def test_pairs_are_those_of_the_groups(table: Path, tmp_path: Path) -> None:
    """Within users fewer pairs count, so the losses are others."""
    losses = [
        run_in_threads(job_of(table, 1, LABELS[:1], "", group, loss="pairwise"), tmp_path / (group or "all")).losses
        for group in ("", "user")
    ]
    assert losses[0][0] != losses[1][0]

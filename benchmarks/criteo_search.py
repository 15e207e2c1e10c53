"""The search for a recipe on Criteo's log, judged on the last tenth of the training part.

    PYTHONPATH=examples python benchmarks/criteo_search.py train.txt [TRIAL ...]
    PYTHONPATH=examples python benchmarks/criteo_search.py train.txt --test chosen

The last tenth of the log is the test part. Without `--test` it takes no part here: it is cut off before anything else.
With it, whatever is named is judged on that part, which is to be done once. A trial is a line of `TRIALS`; without
names all are run. Each is trained with its number of seeds, and printed are the mean AUC and log loss of the seeds
alone, and those of their mean log-odds (the ensemble). After several trials come the same figures for all of their
last passes together, as of one ensemble: whether members that are unlike are worth more than as many that are alike.

Training is what a run with one trainer computes by contract, in one process without a cache: the same models, lookups
and first rows, Adagrad for rows and Adam for the rest.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import criteo_features as recipe
import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.model import ModelConfig
from bagpipe.metrics.clicks import evaluate
from bagpipe.models.base import build_model
from bagpipe.models.layers import step_setter
from bagpipe.rows.initial import initial_rows
from bagpipe.tables import Table, TableLayout


@dataclass(frozen=True)
class Trial:
    """One recipe; statistics are those of `criteo_features.py`."""

    model: str = "dlrm"
    settings: dict[str, Any] = field(default_factory=lambda: {"bottom_mlp": (64,), "over_mlp": (256,)})
    dim: int = 8
    min_count: int = 3
    counts: bool = False
    odds: bool = False
    pairs: bool = False
    """Counts and odds also of the pairs of columns."""
    row_lr: float = 0.02
    row_eps: float = 0.003
    lr: float = 0.001
    batch: int = 128
    passes: int = 1
    new_rows: bool = True
    """Every pass begins with new rows and optimizers, and with the dense weights of the one before."""
    decay: bool = False
    """Rates fall to zero over each pass, linearly."""
    average: float = 0.0
    """Judged with an exponential moving average of the dense weights of this decay, as `optimizer.average` does."""
    seeds: int = 1


class Data:
    """The columns of the first `num_rows` of a log; statistics know the labels of the first `num_train`."""

    def __init__(self, log: Any, num_train: int) -> None:
        self.num_train = num_train
        self.labels = log["label"].to_numpy().astype(np.float32)
        self.columns = dict(recipe.features(log, num_train))
        self.codes = recipe.codes_of(log)

    def dense(self, trial: Trial) -> np.ndarray:
        """`[rows, F]`, standardised over the training part."""
        numbers = [np.log1p(np.maximum(self.columns[n].to_numpy().astype(np.float64), 0.0)) for n in recipe.NUMBERS]
        chosen = [np.nan_to_num(x, nan=0.0) for x in numbers]
        counted = [*recipe.BINS, *recipe.CATEGORIES]
        counted += [one + other for one, other in recipe.PAIRS if trial.pairs]
        chosen += [self.columns[f"n_{name}"] for name in counted if trial.counts]
        chosen += [self.columns[f"t_{name}"] for name in counted if trial.odds]
        dense = np.stack(chosen, axis=1).astype(np.float32)
        part = dense[: self.num_train]
        return (dense - part.mean(0)) / np.maximum(part.std(0), 1e-6)

    def rows(self, trial: Trial) -> tuple[np.ndarray, TableLayout]:
        """`[rows, T]` keys of the one width group; values that come less often than `min_count` share row 0."""
        tables, columns, offset = [], [], 0
        for name in [*recipe.BINS, *recipe.CATEGORIES]:
            codes = self.codes[name]
            often = np.bincount(codes[: self.num_train], minlength=codes.max() + 1) >= trial.min_count
            row = np.where(often, np.cumsum(often), 0)
            tables.append(Table(name, int(often.sum()) + 1, trial.dim, (name,)))
            columns.append(row[codes] + offset)
            offset += int(often.sum()) + 1
        return np.stack(columns, axis=1), TableLayout.of(tables)


def train(data: Data, trial: Trial, seed: int) -> list[np.ndarray]:
    """Log-odds of the rows after the training part, after each pass."""
    dense, (keys, layout) = data.dense(trial), data.rows(trial)
    model = build_model(ModelConfig(name=trial.model, **trial.settings), layout, dense.shape[1], 1, seed)
    first = [initial_rows(seed, n, range(t.num_embeddings), trial.dim, 0.001) for n, t in enumerate(layout.tables)]
    scores: list[np.ndarray] = []
    for number in range(trial.passes):
        if number == 0 or trial.new_rows:
            weights = torch.from_numpy(np.concatenate(first))
            squares = torch.zeros(weights.shape)
            optimizer = torch.optim.Adam(model.parameters(), lr=trial.lr)
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(trial.average)) if trial.average else None
        one_pass(data, trial, seed, model, averaged, layout, optimizer, dense, keys, weights, squares)
        judged = model if averaged is None else averaged.module
        judged.eval()
        with torch.no_grad():
            rest = slice(data.num_train, len(data.labels))
            scores.append(forward(judged, layout, dense[rest], keys[rest], weights)[0].squeeze(1).numpy())
    return scores


def one_pass(
    data: Data,
    trial: Trial,
    seed: int,
    model: Any,
    averaged: AveragedModel | None,
    layout: TableLayout,
    optimizer: torch.optim.Optimizer,
    dense: np.ndarray,
    keys: np.ndarray,
    weights: torch.Tensor,
    squares: torch.Tensor,
) -> None:
    """Train the model, and the rows in place."""
    model.train()
    set_step, begins = step_setter(model, seed), range(0, data.num_train, trial.batch)
    for step, begin in enumerate(begins):
        part = slice(begin, min(begin + trial.batch, data.num_train))
        set_step(step, 0)
        rate = 1.0 - step / len(begins) if trial.decay else 1.0
        for group in optimizer.param_groups:
            group["lr"] = trial.lr * rate
        logits, leaf, used = forward(model, layout, dense[part], keys[part], weights)
        labels = torch.from_numpy(data.labels[part]).unsqueeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if averaged is not None:
            averaged.update_parameters(model)
        squares[used] += leaf.grad * leaf.grad
        weights[used] -= rate * trial.row_lr * leaf.grad / (squares[used].sqrt() + trial.row_eps)


def forward(
    model: Any, layout: TableLayout, dense: np.ndarray, keys: np.ndarray, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, the rows that were looked up as a leaf, and their numbers."""
    used, inverse = np.unique(keys, return_inverse=True)
    rows = torch.from_numpy(used)
    leaf = weights[rows].requires_grad_()
    sparse = SparseEmbeddings.of_lookups(layout, [leaf], [(inverse.reshape(-1).astype(np.int32), None)])
    return model(torch.from_numpy(dense), sparse), leaf, rows


def judge(scores: Sequence[np.ndarray], labels: np.ndarray) -> str:
    """Means of the seeds alone, and the ensemble."""
    alone = [evaluate(one, labels) for one in scores]
    together = evaluate(np.mean(scores, axis=0), labels)
    return (
        f"alone {np.mean([e.auc for e in alone]):.4f} {np.mean([e.log_loss for e in alone]):.4f}   "
        f"together {together.auc:.4f} {together.log_loss:.4f}"
    )


MLP = {"bottom_mlp": (256, 128), "deep_inputs": "all"}
CROSS = {"bottom_mlp": (64,), "over_mlp": (256,), "cross_layers": 2, "cross_rank": 16}
BOTH = {"counts": True, "odds": True}
PASSES = {"passes": 3, "seeds": 2}
TRIALS: dict[str, Trial] = {
    "one-pass": Trial(seeds=2),
    "odds": Trial(odds=True, seeds=2),
    "both": Trial(**BOTH, seeds=2),
    "both-decay": Trial(**BOTH, decay=True, seeds=2),
    "both-lr": Trial(**BOTH, lr=0.002),
    "both-row-lr": Trial(**BOTH, row_lr=0.04),
    "both-batch": Trial(**BOTH, batch=64),
    "both-wdl": Trial(**BOTH, model="wdl", settings=MLP, seeds=2),
    "both-dcn": Trial(**BOTH, model="dcn", settings=CROSS),
    "both-dcnv2": Trial(**BOTH, model="dcnv2", settings={"over_mlp": (256,), "cross_layers": 2}),
    "same-rows": Trial(passes=2, new_rows=False),
    "passes": Trial(passes=4),
    "passes-wide": Trial(**BOTH, passes=4, settings={"bottom_mlp": (128,), "over_mlp": (512, 256)}),
    "passes-row-lr": Trial(row_lr=0.03, **PASSES),
    "passes-dlrm": Trial(**PASSES),
    "passes-both": Trial(**BOTH, **PASSES),
    "passes-pairs": Trial(**BOTH, pairs=True, **PASSES),
    "passes-average": Trial(average=0.999, **PASSES),
    "passes-wdl": Trial(model="wdl", settings=MLP, **PASSES),
    "passes-dcn": Trial(model="dcn", settings=CROSS, **PASSES),
    "chosen": Trial(passes=3, seeds=5),
}


def main(source: Path, names: Sequence[str], *, test: bool) -> None:
    torch.set_num_threads(1)
    log = recipe.read_log(source)
    if not test:
        log = log.slice(0, log.num_rows * 9 // 10)
    data = Data(log, log.num_rows * 9 // 10)
    labels = data.labels[data.num_train :]
    last: list[np.ndarray] = []
    for name in names or TRIALS:
        trial, begun, scores = TRIALS[name], time.perf_counter(), []
        for seed in range(1, trial.seeds + 1):
            scores.append(train(data, trial, seed))
            print(f"{name:16s} seed {seed}: {time.perf_counter() - begun:.0f} s", flush=True)
        for number in range(trial.passes):
            print(f"{name:16s} pass {number + 1}  {judge([one[number] for one in scores], labels)}", flush=True)
        last += [one[-1] for one in scores]
    if len(names or TRIALS) > 1:
        print(f"{'all of them':16s} last    {judge(last, labels)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="Criteo's log")
    parser.add_argument("names", metavar="TRIAL", nargs="*", help="lines of `TRIALS`; none: all")
    parser.add_argument("--test", action="store_true", help="judge on the test part, which is to be done once")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(TRIALS):
        parser.error(f"no trial {', '.join(sorted(unknown))}; they are {', '.join(TRIALS)}")
    main(asked.source, asked.names, test=asked.test)

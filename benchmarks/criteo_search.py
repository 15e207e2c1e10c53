"""The search for a recipe on Criteo's log, judged on the last tenth of the training part.

    python benchmarks/criteo_search.py train.txt [TRIAL ...]

The last tenth of the log is the test part and takes no part here: it is cut off before anything else. A trial is a line
of `TRIALS`; without names all are run. Each is trained with several seeds, and printed are the mean AUC and log loss of
the seeds alone, and those of their mean log-odds (the ensemble).

Training is what a run with one trainer computes by contract, in one process without a cache: the same models, lookups
and first rows, Adagrad for rows and Adam for the rest.
"""

import copy
import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.model import ModelConfig
from bagpipe.metrics.clicks import evaluate
from bagpipe.models.base import build_model
from bagpipe.models.layers import step_setter
from bagpipe.rows.initial import initial_rows
from bagpipe.tables import Table, TableLayout

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("criteo_features", ROOT / "examples" / "criteo_features.py")
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)


@dataclass(frozen=True)
class Trial:
    """One recipe."""

    model: str = "dlrm"
    settings: dict[str, Any] = field(default_factory=lambda: {"bottom_mlp": (64,), "over_mlp": (256,)})
    dim: int = 8
    min_count: int = 3
    counts: bool = True
    odds: bool = True
    row_lr: float = 0.02
    row_eps: float = 0.003
    lr: float = 0.001
    weight_decay: float = 0.0
    batch: int = 128
    epochs: int = 1
    fresh_rows: bool = False
    """Every epoch begins with new rows, and with the dense weights of the one before."""
    decay: bool = False
    """Rates fall to zero over each epoch, linearly."""
    average: float = 0.0
    """Exponential moving average of the dense weights, for scoring."""
    seeds: int = 2


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
        chosen += [v for name, v in self.columns.items() if name.startswith("n_") and trial.counts]
        chosen += [v for name, v in self.columns.items() if name.startswith("t_") and trial.odds]
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
    """Log-odds of the rows after the training part, after each epoch."""
    dense, (keys, layout) = data.dense(trial), data.rows(trial)
    config = ModelConfig(name=trial.model, **trial.settings)
    model = build_model(config, layout, dense.shape[1], 1, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=trial.lr, weight_decay=trial.weight_decay)
    table = np.concatenate(
        [initial_rows(seed, n, range(t.num_embeddings), trial.dim, 0.001) for n, t in enumerate(layout.tables)]
    )
    set_step, step = step_setter(model, seed), 0
    scores = []
    steps = -(-data.num_train // trial.batch)
    averaged = copy.deepcopy(model)
    for epoch in range(trial.epochs):
        if epoch == 0 or trial.fresh_rows:
            weights, squares = torch.from_numpy(table.copy()), torch.zeros(table.shape)
        model.train()
        for begin in range(0, data.num_train, trial.batch):
            part = slice(begin, min(begin + trial.batch, data.num_train))
            set_step(step, 0)
            rate = 1.0 - (step % steps) / steps if trial.decay else 1.0
            for group in optimizer.param_groups:
                group["lr"] = trial.lr * rate
            step += 1
            logits, leaf, used = forward(model, layout, dense[part], keys[part], weights)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(data.labels[part]).unsqueeze(1)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            squares[used] += leaf.grad * leaf.grad
            weights[used] -= rate * trial.row_lr * leaf.grad / (squares[used].sqrt() + trial.row_eps)
            if trial.average:
                with torch.no_grad():
                    for mean, weight in zip(averaged.parameters(), model.parameters(), strict=True):
                        mean.lerp_(weight, 1.0 - min(trial.average, step / (step + 10)))
        judged = averaged if trial.average else model
        judged.eval()
        with torch.no_grad():
            rest = slice(data.num_train, len(data.labels))
            scores.append(forward(judged, layout, dense[rest], keys[rest], weights)[0].squeeze(1).numpy())
    return scores


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
TRIALS: dict[str, Trial] = {
    "dlrm-plain": Trial(counts=False, odds=False),
    "dlrm-odds": Trial(counts=False),
    "dlrm": Trial(),
    "wdl": Trial(model="wdl", settings=MLP),
    "decay": Trial(decay=True),
    "fresh": Trial(fresh_rows=True, epochs=2, seeds=1),
    "lr2": Trial(lr=0.002, seeds=1),
    "rows2": Trial(row_lr=0.04, seeds=1),
    "batch64": Trial(batch=64, seeds=1),
    "dcn": Trial(model="dcn", settings=CROSS, seeds=1),
    "autoint": Trial(model="autoint", settings={"attention_layers": 2}, seeds=1),
    "dcnv2": Trial(model="dcnv2", settings={"over_mlp": (256,), "cross_layers": 2}, seeds=1),
    "deepfm": Trial(model="deepfm", settings={"over_mlp": (64, 64)}, dim=9, seeds=1),
}


def main(source: Path, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    log = recipe.read_log(source)
    log = log.slice(0, log.num_rows * 9 // 10)
    data = Data(log, log.num_rows * 9 // 10)
    for name in names or TRIALS:
        begun, trial = time.perf_counter(), TRIALS[name]
        epochs = zip(*(train(data, trial, seed) for seed in range(1, trial.seeds + 1)), strict=True)
        for epoch, scores in enumerate(epochs, 1):
            print(f"{name:16s} epoch {epoch}  {judge(scores, data.labels[data.num_train :])}", flush=True)
        print(f"{'':16s} {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])

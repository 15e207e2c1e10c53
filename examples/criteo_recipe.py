"""A recipe for Criteo's log: several small DLRMs trained at once, and several passes with new rows in each.

    python examples/criteo_recipe.py train.txt work/            # trains on the first 90 %, judges on the last 10 %
    python examples/criteo_recipe.py train.txt work/ --choose   # the same within the first 90 %: how it was chosen

Three things are worth more than a larger model here (docs/models.md has the figures):

- A second pass over a click log learns the rows of the first by heart, and the figures fall. What can go on learning
  is the dense part: each pass begins with the dense weights of the pass before and with new rows.
- The mean log-odds of several models that differ in their first weights alone are better than those of any of them.
  `Members` trains them in one run: each has its own part of every row and its own layers, and no gradient of one
  reaches another, so each is what it would be alone.
- Half of the members also see how often each value, and each pair of values of eight columns, came and was clicked
  before (`criteo_features.py`). Alone they are no better; together with the others they are, because they err
  elsewhere.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import criteo_features
import pyarrow.parquet
import safetensors.torch
import torch
from torch import nn

import bagpipe
from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.models.dlrm import DenseArch, InteractionArch, OverArch
from bagpipe.tables import TableLayout


class Members(nn.Module):
    """DLRMs side by side: the loss is the sum of theirs, the score the mean of their log-odds.

    Args:
        members: how many; each has an equal part of every row, one after the other.
        first: of every second member, how many of the dense features it sees; the others see all of them.
        weights: the dense weights of an earlier run, a safetensors file; none: first ones.

    Shapes: `B` examples, `F` dense features, `T` sparse features, `M` members.
    """

    def __init__(self, layout: TableLayout, num_dense: int, members: int, first: int, weights: str = "") -> None:
        super().__init__()
        (group,) = layout.groups
        self.dim = group.embedding_dim // members
        self.seen = [num_dense if number % 2 else first for number in range(members)]
        self.dense = nn.ModuleList(DenseArch(seen, (64, self.dim)) for seen in self.seen)
        self.interaction = InteractionArch(len(group.feature_names) + 1)
        inputs = self.interaction.num_pairs + self.dim
        self.over = nn.ModuleList(OverArch(inputs, (256,), 1) for _ in self.seen)
        if weights:
            self.load_state_dict(safetensors.torch.load_file(weights))

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        """`[B, M]` log-odds while it trains, else their means `[B, 1]`."""
        parts = sparse.stacked().split(self.dim, dim=2)
        found = []
        for seen, dense, over, part_BTD in zip(self.seen, self.dense, self.over, parts, strict=True):
            beside_BD = dense(dense_BF[:, :seen])
            pairs = self.interaction(torch.cat([beside_BD.unsqueeze(1), part_BTD], dim=1))
            found.append(over(torch.cat([beside_BD, pairs], dim=1)))
        logits_BM = torch.cat(found, dim=1)
        return logits_BM if self.training else logits_BM.mean(dim=1, keepdim=True)

    def loss(self, logits_BM: torch.Tensor, labels_B1: torch.Tensor) -> torch.Tensor:
        """The sum over members of each one's mean over examples."""
        terms_BM = nn.functional.binary_cross_entropy_with_logits(
            logits_BM, labels_B1.expand_as(logits_BM), reduction="none"
        )
        return terms_BM.mean(dim=0).sum()


def split(log: Path, folder: Path, *, choose: bool) -> tuple[Path, Path]:
    """The log with its features, as two files: what trains and what is judged."""
    rows = criteo_features.read_log(log)
    if choose:
        rows = rows.slice(0, rows.num_rows * 9 // 10)
    end = rows.num_rows * 9 // 10
    table = pyarrow.Table.from_pydict(dict(criteo_features.features(rows, end)))
    folder.mkdir(parents=True, exist_ok=True)
    train, judged = folder / "train.parquet", folder / "judged.parquet"
    pyarrow.parquet.write_table(table.slice(0, end), train)
    pyarrow.parquet.write_table(table.slice(end), judged)
    return train, judged


def columns() -> dict[str, Any]:
    """Numbers as logarithms, then the features, both standardised over the training part; intervals and categories."""
    values = [*criteo_features.BINS, *criteo_features.CATEGORIES]
    numbers = [
        {"name": name, "log1p": True, "clip": [0, 1e12], "standardise": True} for name in criteo_features.NUMBERS
    ]
    counted = [*values, *(one + other for one, other in criteo_features.PAIRS)]
    before = [{"name": f"{kind}_{name}", "standardise": True} for kind in "nt" for name in counted]
    return {"labels": ["label"], "dense": numbers + before, "sparse": values}


def train(data: Path, folder: Path, members: int, passes: int) -> bagpipe.Run:
    """All passes; the last one's run. A pass that is there is not trained again; one that was stopped goes on."""
    weights = ""
    for number in range(1, passes + 1):
        place = folder / f"pass-{number}"
        if not (place / "job.yaml").exists():
            run = one_pass(data, place, members, weights)
        elif (run := bagpipe.Run(place)).stopped or not run.summary:
            run = run.resume()
        if run.stopped:
            sys.exit(f"stopped in pass {number}; the same command goes on")
        weights = str((run.checkpoint / "dense.safetensors").resolve())
    return run


def one_pass(data: Path, place: Path, members: int, weights: str) -> bagpipe.Run:
    """New rows and optimizers, and the dense weights given."""
    return bagpipe.fit(
        Members,
        model_args={"members": members, "first": len(criteo_features.NUMBERS), "weights": weights},
        data=data,
        columns=columns(),
        encoding="vocabulary",
        min_count=3,
        embedding={
            "dim": 8 * members,
            "init_scale": 0.001,
            "optimizer": {"name": "adagrad", "lr": 0.02, "eps": 0.003},
        },
        optimizer={"name": "adam", "lr": 0.001},
        batch_size=128,
        epochs=1,
        evaluate=False,
        seed=1,
        run_dir=place,
    )


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, help="the log, tab separated, plain or .xz")
    parser.add_argument("folder", type=Path, help="where runs lie")
    parser.add_argument("--members", type=int, default=8, help="models whose log-odds are averaged (default 8)")
    parser.add_argument("--passes", type=int, default=3, help="over the training part, each with new rows (default 3)")
    parser.add_argument("--choose", action="store_true", help="judge on the last tenth of the training part")
    asked = parser.parse_args(given)
    data, judged = split(asked.log, asked.folder, choose=asked.choose)
    run = train(data, asked.folder, asked.members, asked.passes)
    print(json.dumps(dict(run.evaluate(judged)), indent=2))


if __name__ == "__main__":
    main()

"""Caser through the cache learns what a plain PyTorch Caser learns from the same examples of MovieLens.

The plain one has four `nn.Embedding` tables and convolutions as the paper draws them. Both have the same first
weights and dropout masks. Here on the first users; all of them are the four commands of `examples/caser_movielens.py`.
"""

import itertools
import json
import lzma
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # torch's usual name

from bagpipe.config.load import load_job
from bagpipe.metrics.ranking import Ranking, rank_users
from bagpipe.models.base import build_model
from bagpipe.models.layers import kept_units, step_setter
from bagpipe.rows.initial import initial_rows
from bagpipe.tables import TableLayout

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "movielens-1m.tsv.xz"
USERS, ITEMS, HISTORY, DIM = 300, 3706, 5, 50
COMMANDS = ROOT / "examples" / "caser_movielens.py"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.exists(), reason=f"the MovieLens sample is not here: {DATA}"),
]


class PlainCaser(nn.Module):
    """The whole model, tables included, from the paper; weights and masks come from outside."""

    def __init__(self, dense: dict[str, torch.Tensor], tables: list[torch.Tensor]) -> None:
        super().__init__()
        self.dense = nn.ParameterDict({k.replace(".", "_"): v.clone() for k, v in dense.items()})
        parts = [tables[0], tables[1], tables[2][:, :-1], tables[2][:, -1:]]
        self.user, self.item, self.w2, self.b2 = (
            nn.Embedding.from_pretrained(t.clone(), False, sparse=True) for t in parts
        )

    def state(self, user: torch.Tensor, history: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        w, image = self.dense, self.item(history)[:, None]
        vertical = F.conv2d(image, w["vertical_weight"][:, None, :, None], w["vertical_bias"]).squeeze(2)
        parts = [vertical.transpose(1, 2).flatten(1)]
        for h in range(HISTORY):
            kernel = w[f"horizontal_{h}_weight"].transpose(1, 2)[:, None]
            across = F.conv2d(image, kernel, w[f"horizontal_{h}_bias"]).squeeze(3).clamp(min=0)
            parts.append(across.amax(2))
        features = torch.cat(parts, 1)
        features = features if kept is None else features * kept / 0.5
        z = (features @ w["fc_weight"].T + w["fc_bias"]).clamp(min=0)
        return torch.cat([z, self.user(user)], 1)

    def forward(
        self, user: torch.Tensor, history: torch.Tensor, items: torch.Tensor, kept: torch.Tensor
    ) -> torch.Tensor:
        state = self.state(user, history, kept)
        return torch.einsum("blz,bz->bl", self.w2(items), state) + self.b2(items).squeeze(2)


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def batches(path: Path, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    with path.open() as file:
        while part := [json.loads(line) for line in itertools.islice(file, size)]:
            users, histories = (torch.tensor([x["sparse"][n] for x in part]) for n in range(2))
            candidates = torch.tensor([x["label"] + x["dense"] for x in part])
            labels = torch.tensor([[1.0] * len(x["label"]) + [0.0] * len(x["dense"]) for x in part])
            yield users.squeeze(1), histories, candidates, labels


def train_plain(path: Path) -> tuple[list[float], PlainCaser]:
    """The example's job, in plain PyTorch."""
    spec = load_job(ROOT / "examples" / "caser-movielens.yaml").spec
    ours = build_model(spec.model, TableLayout.of(spec.embedding.tables), 0, 6, spec.seed)
    set_step = step_setter(ours, spec.seed)
    first: list[torch.Tensor] = []
    for number, table in enumerate(spec.embedding.tables):
        rows, dim = table.num_embeddings, table.embedding_dim
        first.append(torch.from_numpy(initial_rows(spec.seed, number, range(rows), dim, rows**-0.5)))
    model = PlainCaser(ours.state_dict(), first)
    dense = torch.optim.Adam(model.dense.parameters(), lr=spec.optimizer.lr, weight_decay=spec.optimizer.weight_decay)
    tables = [p for name, p in model.named_parameters() if not name.startswith("dense")]
    sparse = torch.optim.SparseAdam(tables, lr=spec.embedding.optimizer.lr)
    losses = []
    for step, (user, history, items, labels) in enumerate(batches(path, spec.batch_size)):
        set_step(step, 0)
        width = model.dense["fc_weight"].shape[1]
        kept = kept_units(ours.dropout.key, 0, len(user), width, 0.5, torch.device("cpu"))  # type: ignore[union-attr,arg-type]
        s = torch.sigmoid(model(user, history, items, kept))
        loss = -s[labels == 1].log().mean() - (1 - s[labels == 0]).log().mean()
        dense.zero_grad()
        sparse.zero_grad()
        loss.backward()
        dense.step()
        sparse.step()
        losses.append(loss.item())
    return losses, model


def ranked(model: PlainCaser, folder: Path) -> Ranking:
    visits = [np.array(v) for v in json.loads((folder / "visits.json").read_text())["visits"]]
    seen = [v[: int(len(v) * 0.8)] for v in visits]
    with torch.no_grad():
        history = torch.from_numpy(np.stack([v[-HISTORY:] for v in seen]))
        state = model.state(torch.arange(len(visits)), history, None)
        scores = (state @ model.w2.weight.T + model.b2.weight.squeeze(1)).numpy()
    wanted = [np.setdiff1d(v[len(had) :], had) for v, had in zip(visits, seen, strict=True)]
    return rank_users(scores, seen, wanted)


def figures(text: str, name: str) -> list[float]:
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return [float(word) for word in line.split() if word.startswith("0.")]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_equals_a_plain_caser_and_ranks_alike(tmp_path: Path) -> None:
    """Losses of every step to rounding; precision, recall and MAP at 10 of the exported model likewise."""
    lines = lzma.decompress(DATA.read_bytes()).splitlines(keepends=True)
    ratings = tmp_path / "ratings.tsv"
    ratings.write_bytes(b"".join(line for line in lines if int(line.split(b"\t", 1)[0]) < USERS))
    run(str(COMMANDS), "prepare", str(ratings), str(tmp_path), "1")
    settings = (f"spec.data.path={tmp_path}/train.jsonl", "spec.logEvery=1")
    run("-m", "bagpipe", "run", "examples/caser-movielens.yaml", "--run-dir", str(tmp_path / "run"),
        *(word for setting in settings for word in ("--set", setting)))  # fmt: skip
    run("-m", "bagpipe", "export", str(tmp_path / "run"), str(tmp_path / "model"), "--all-rows")
    records: list[dict[str, Any]] = [
        json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    losses, model = train_plain(tmp_path / "train.jsonl")
    found = [record["loss"] for record in records if "loss" in record]
    assert len(found) == len(losses) > 50
    np.testing.assert_allclose(found, losses, rtol=1e-3)
    plain = ranked(model, tmp_path)
    expected = [plain.precision, plain.recall, plain.mean_average_precision]
    through_cache = figures(run(str(COMMANDS), "rank", str(tmp_path), str(tmp_path / "model")), "caser")
    assert through_cache == pytest.approx(expected, abs=0.002)
    assert min(through_cache) > 0

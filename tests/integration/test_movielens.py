"""SASRec and two towers on MovieLens: what the example makes of it trains as plain PyTorch does, and is ranked.

The plain ones have `nn.Embedding` tables, torch's attention and layer norms, and SparseAdam and Adam.
"""

import importlib.util
import json
import lzma
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from plain_weights import Plain
from torch.nn import functional as F  # noqa: N812  # torch's usual name

from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.config.load import load_job
from bagpipe.export.write import export_model
from bagpipe.testing.threads import ThreadedRun, run_in_threads

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "movielens-1m.tsv.xz"
USERS, STEPS = 40, 8

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.exists(), reason=f"the MovieLens sample is not here: {DATA}"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]
_spec = importlib.util.spec_from_file_location("movielens_example", ROOT / "examples" / "movielens.py")
assert _spec is not None and _spec.loader is not None
example: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's files, of the first users."""
    folder: Path = tmp_path_factory.mktemp("movielens")
    with lzma.open(DATA, "rt") as file:
        lines = [line for line in file if int(line.split("\t", 1)[0]) < USERS]
    (folder / "ratings.tsv").write_text("".join(lines))
    example.prepare(folder / "ratings.tsv", folder, 1)
    return folder


def trained(name: str, data: Path, folder: Path, **model: Any) -> tuple[Job, ThreadedRun]:
    """A few steps of the example's job."""
    document = msgspec.to_builtins(load_job(ROOT / "examples" / f"{name}-movielens.yaml"))
    document["spec"]["data"]["path"] = str(data)
    document["spec"]["model"] |= model
    document["spec"] |= {"steps": STEPS, "epochs": None, "batchSize": 32, "logEvery": 1, "lookahead": 4}
    document["spec"]["servers"]["storage"] = "memory"
    job = msgspec.convert(document, Job)
    return job, run_in_threads(job, folder)


def test_sasrec_trains_as_plain_pytorch(work: Path, tmp_path: Path) -> None:
    """Losses of every step to rounding; the exported model and popularity are ranked over the same users."""
    job, run = trained("sasrec", work / "sequences.jsonl", tmp_path / "run", dropout=0.0)
    plain = Plain(job, 0, 20)
    lines = [json.loads(line) for line in (work / "sequences.jsonl").read_text().splitlines()[: 32 * STEPS]]
    losses = []
    for begin in range(0, len(lines), 32):
        part = lines[begin : begin + 32]
        labels = torch.tensor([line["label"] for line in part], dtype=torch.float32)
        losses.append(plain.step(F.binary_cross_entropy_with_logits(sasrec(plain, part), labels)))
    np.testing.assert_allclose(run.losses, losses, rtol=1e-4)
    assert len(losses) == STEPS and losses[-1] < losses[0]
    ranked(run, work, tmp_path / "model", "sasrec")


def sasrec(plain: Plain, part: list[dict[str, Any]]) -> torch.Tensor:
    """With torch's attention over the places that there are, example by example."""
    logits = []
    for line in part:
        history, candidates = (
            F.embedding(torch.tensor(ids), plain.tables["items"], sparse=True) for ids in line["sparse"]
        )
        x = history * history.shape[1] ** 0.5 + plain.w["places"][50 - len(history) :]
        for block in range(2):
            name = f"blocks.{block}"
            inputs = plain.normed(f"{name}.attention_norm", x)
            query, key, value = (plain.affine(f"{name}.{kind}", inputs)[None] for kind in ("query", "key", "value"))
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)[0]
            x = x + plain.affine(f"{name}.out", mixed)
            up = plain.affine(f"{name}.up", plain.normed(f"{name}.place_norm", x)).relu()
            x = x + plain.affine(f"{name}.down", up)
        states = plain.normed("last_norm", x[-10:])
        logits.append((candidates.view(2, 10, -1) * states).sum(2).flatten())
    return torch.stack(logits)


def test_two_towers_train_as_plain_pytorch(work: Path, tmp_path: Path) -> None:
    """Losses of every step to rounding, in-batch negatives and their correction included; all items are ranked."""
    job, run = trained("two-tower", work / "visits.parquet", tmp_path / "run")
    plain = Plain(job, 1, 1)
    rows = pq.read_table(work / "visits.parquet").slice(0, 32 * STEPS).to_pylist()
    losses = []
    for begin in range(0, len(rows), 32):
        part = rows[begin : begin + 32]
        lists = {
            "user": [[r["user"]] for r in part],
            "item": [[r["item"]] for r in part],
            "history": [r["history"] for r in part],
        }
        bags = {name: bag(plain.tables[name], one) for name, one in lists.items()}
        user = tower(plain, "user_tower", torch.cat([bags["user"], bags["history"]], 1))
        item = tower(plain, "item_tower", bags["item"])
        share = torch.tensor([r["log_share"] for r in part])
        terms = F.cross_entropy(user @ item.T / 0.1 - share, torch.arange(len(part)), reduction="none")
        losses.append(plain.step((terms * torch.tensor([r["visited"] for r in part])).mean()))
    np.testing.assert_allclose(run.losses, losses, rtol=1e-4)
    assert len(losses) == STEPS
    ranked(run, work, tmp_path / "model", "two-tower")


def bag(table: torch.Tensor, lists: list[list[int]]) -> torch.Tensor:
    ids = torch.tensor([i for one in lists for i in one], dtype=torch.int64)
    starts = torch.tensor([0, *np.cumsum([len(one) for one in lists])[:-1].tolist()])
    return F.embedding_bag(ids, table, starts, mode="mean", sparse=True)


def tower(plain: Plain, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.normalize(plain.affine(f"{name}.2", plain.affine(f"{name}.0", x).relu()), dim=1)


def ranked(run: ThreadedRun, work: Path, model: Path, name: str) -> None:
    newest = newest_complete(run.run_dir / "checkpoints")
    assert newest is not None
    export_model(newest, model, all_rows=True)
    found = example.rank(work, model)
    assert set(found) == {name, "popularity"}
    assert found[name].users == found["popularity"].users > USERS // 2
    assert 0.0 < found["popularity"].ndcg < found["popularity"].hit_rate

"""How well do a SASRec and two towers rank MovieLens-1M's items after the same steps of plain PyTorch?

    python examples/movielens.py prepare ratings.tsv work/ 3
    PYTHONPATH=examples python benchmarks/movielens_plain.py two-tower work/
    PYTHONPATH=examples python benchmarks/movielens_plain.py sasrec work/

Each reads the examples, the settings and the first weights of `examples/*-movielens.yaml`, and trains on the same
batches in the same order: whole tables and an `nn.Module` in one process, SparseAdam and Adam, one loop, and torch's
own layers, attention and dropout. Nothing of Bagpipe's takes part in a step. Rankings are those of
`examples/movielens.py rank`.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import movielens
import numpy as np
import pyarrow.parquet as pq
import torch
from plain_weights import Plain
from torch.nn import functional as F  # noqa: N812  # torch's usual name

from bagpipe.config.load import load_job
from bagpipe.metrics.ranking import rank_users

EXAMPLES = Path(__file__).parents[1] / "examples"


# ── two towers ────────────────────────────────────────────────────────────────────────────────────


def tower(plain: Plain, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.normalize(plain.affine(f"{name}.2", plain.affine(f"{name}.0", x).relu()), dim=1)


def user_tower(plain: Plain, users: torch.Tensor, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    history = F.embedding_bag(ids, plain.tables["history"], starts, mode="mean", sparse=True)
    own = F.embedding(users, plain.tables["user"], sparse=True)
    return tower(plain, "user_tower", torch.cat([own, history], 1))


def item_tower(plain: Plain, items: torch.Tensor) -> torch.Tensor:
    return tower(plain, "item_tower", F.embedding(items, plain.tables["item"], sparse=True))


def two_tower_losses(plain: Plain, folder: Path, epochs: int) -> Iterator[float]:
    """Of each step: in-batch softmax at the job's temperature, less the items' log shares."""
    table = pq.read_table(folder / "visits.parquet")
    columns = {name: torch.from_numpy(table[name].to_numpy().copy()) for name in ("user", "item", "visited")}
    share = torch.from_numpy(table["log_share"].to_numpy().astype(np.float32))
    lists = table["history"].combine_chunks()
    ids, offsets = torch.from_numpy(lists.values.to_numpy().copy()), lists.offsets.to_numpy().astype(np.int64)
    size, temperature = plain.spec.batch_size, plain.spec.model.temperature
    assert temperature is not None
    for _ in range(epochs):
        for begin in range(0, len(table), size):
            end = min(begin + size, len(table))
            part = slice(begin, end)
            starts = torch.from_numpy(offsets[begin:end] - offsets[begin])
            user = user_tower(plain, columns["user"][part], ids[offsets[begin] : offsets[end]], starts)
            scores = user @ item_tower(plain, columns["item"][part]).T / temperature - share[part]
            terms = F.cross_entropy(scores, torch.arange(end - begin), reduction="none")
            yield plain.step((terms * columns["visited"][part]).mean())


def two_tower_scores(plain: Plain, users: list[np.ndarray], num_items: int) -> np.ndarray:
    histories = [movielens.trained(items)[-movielens.BEFORE :] for items in users]
    starts = torch.from_numpy(np.cumsum([0, *(len(one) for one in histories)])[:-1])
    asked = user_tower(plain, torch.arange(len(users)), torch.from_numpy(np.concatenate(histories)), starts)
    return (asked @ item_tower(plain, torch.arange(num_items)).T).numpy()


# ── SASRec ────────────────────────────────────────────────────────────────────────────────────────


def states(plain: Plain, histories: list[list[int]]) -> torch.Tensor:
    """`[B, S, D]`, every history at the end of its S places; those before it are masked."""
    settings = plain.spec.model
    length, p = settings.sequence_length, settings.dropout
    assert length is not None and p is not None and settings.attention_layers is not None
    padded = np.zeros((len(histories), length), np.int64)
    there = np.zeros((len(histories), length), bool)
    for row, items in enumerate(histories):
        padded[row, length - len(items) :], there[row, length - len(items) :] = items, True
    known = torch.from_numpy(there)
    rows = F.embedding(torch.from_numpy(padded), plain.tables["items"], sparse=True) * known.unsqueeze(2)
    x = F.dropout(rows * rows.shape[2] ** 0.5 + plain.w["places"], p, plain.training)
    # A place before the history sees itself, so that no softmax is over nothing.
    seen = torch.ones(length, length, dtype=torch.bool).tril() & (known.unsqueeze(1) | torch.eye(length).bool())
    for block in range(settings.attention_layers):
        name = f"blocks.{block}"
        inputs = plain.normed(f"{name}.attention_norm", x)
        query, key, value = (plain.affine(f"{name}.{kind}", inputs) for kind in ("query", "key", "value"))
        mixed = F.scaled_dot_product_attention(query, key, value, seen, p if plain.training else 0.0)
        x = x + F.dropout(plain.affine(f"{name}.out", mixed), p, plain.training)
        up = plain.affine(f"{name}.up", plain.normed(f"{name}.place_norm", x)).relu()
        x = x + F.dropout(plain.affine(f"{name}.down", F.dropout(up, p, plain.training)), p, plain.training)
    return x


def sasrec_losses(plain: Plain, folder: Path, epochs: int) -> Iterator[float]:
    """Of each step: binary cross-entropy of the next items and of as many others."""
    size, positions = plain.spec.batch_size, plain.spec.model.positions
    assert positions is not None
    for _ in range(epochs):
        with (folder / "sequences.jsonl").open() as file:
            while part := [json.loads(line) for line in itertools.islice(file, size)]:
                labels = torch.tensor([example["label"] for example in part], dtype=torch.float32)
                candidates = torch.tensor([example["sparse"][1] for example in part])
                at = plain.normed("last_norm", states(plain, [e["sparse"][0] for e in part])[:, -positions:])
                rows = F.embedding(candidates, plain.tables["items"], sparse=True)
                logits = (rows.view(len(part), -1, positions, rows.shape[2]) * at.unsqueeze(1)).sum(3).flatten(1)
                yield plain.step(F.binary_cross_entropy_with_logits(logits, labels))


def sasrec_scores(plain: Plain, users: list[np.ndarray]) -> np.ndarray:
    histories = [movielens.trained(items)[-movielens.LENGTH :].tolist() for items in users]
    last = torch.cat([states(plain, histories[at : at + 256])[:, -1] for at in range(0, len(users), 256)])
    return (plain.normed("last_norm", last) @ plain.tables["items"].T).numpy()


# ── ───────────────────────────────────────────────────────────────────────────────────────────────


def main(name: str, folder: Path) -> None:
    job = load_job(EXAMPLES / f"{name}-movielens.yaml")
    torch.manual_seed(job.spec.seed)
    torch.set_num_threads(1)
    towers = name == "two-tower"
    plain = Plain(job, 1 if towers else 0, 1 if towers else 2 * movielens.POSITIONS)
    losses = (two_tower_losses if towers else sasrec_losses)(plain, folder, job.spec.epochs or 1)
    begun, last = time.monotonic(), 0.0
    for number, last in enumerate(losses, 1):
        if number % 200 == 0:
            print(f"step {number} loss {last:.6f} after {time.monotonic() - begun:.0f} s", flush=True)
    content: dict[str, Any] = json.loads((folder / "visits.json").read_text())
    users = [np.array(items, np.int64) for items in content["visits"]]
    seen = [movielens.trained(items) for items in users]
    wanted = [np.setdiff1d(items[len(had) :], had) for items, had in zip(users, seen, strict=True)]
    plain.training = False
    with torch.no_grad():
        scores = two_tower_scores(plain, users, content["items"]) if towers else sasrec_scores(plain, users)
    result = rank_users(scores, seen, wanted)
    print(
        f"{number} steps, last loss {last:.6f}:  hit rate@10 {result.hit_rate:.4f}  NDCG@10 {result.ndcg:.4f}  "
        f"precision@10 {result.precision:.4f}  recall@10 {result.recall:.4f}  "
        f"MAP@10 {result.mean_average_precision:.4f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("two-tower", "sasrec"), help="the model")
    parser.add_argument("folder", type=Path, help="what `examples/movielens.py prepare` has made")
    main(**vars(parser.parse_args()))

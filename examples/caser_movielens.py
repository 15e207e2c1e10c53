"""Caser on MovieLens: makes the examples of a ratings file, and ranks all items with a trained model.

    python examples/caser_movielens.py prepare ratings.tsv work/ 3
    bagpipe run examples/caser-movielens.yaml --set spec.data.path=work/train.jsonl --run-dir work/run
    bagpipe export work/run work/model --all-rows
    python examples/caser_movielens.py rank work/ work/model

Ratings are lines of user, item, rating and time, separated by tabs (`.xz` or not), numbered from 0. Every rating
counts as one visit. The first 80 % of each user's visits train, the rest is to be found.
"""

import itertools
import json
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from bagpipe.export.tables import load_tables
from bagpipe.metrics.ranking import Ranking, rank_users
from bagpipe.models.caser import Caser
from bagpipe.tables import Table, TableLayout

HISTORY, POSITIVES, NEGATIVES = 5, 3, 3
TRAIN_SHARE = 0.8


def visits(path: Path) -> list[np.ndarray]:
    """Items of each user, in order of time."""
    raw = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    table = np.array(raw.split(), np.int64).reshape(-1, 4)
    table = table[np.lexsort((np.arange(len(table)), table[:, 3], table[:, 0]))]
    cuts = np.searchsorted(table[:, 0], np.arange(table[-1, 0] + 2))
    return [table[a:b, 1] for a, b in itertools.pairwise(cuts)]


def examples(users: list[np.ndarray], num_items: int, passes: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Windows of history and next items over each user's training part, shuffled; each pass has other negatives."""
    draw = np.random.default_rng(seed)
    windows = [
        (user, start)
        for user, items in enumerate(users)
        for start in range(len(trained(items)) - HISTORY - POSITIVES + 1)
    ]
    unknown = [np.setdiff1d(np.arange(num_items), trained(items)) for items in users]
    for _ in range(passes):
        for number in draw.permutation(len(windows)):
            user, start = windows[number]
            window = users[user][start : start + HISTORY + POSITIVES].tolist()
            negatives = draw.choice(unknown[user], NEGATIVES).tolist()
            yield {"label": window[HISTORY:], "dense": negatives, "sparse": [[user], window[:HISTORY]]}


def trained(items: np.ndarray) -> np.ndarray:
    return items[: int(len(items) * TRAIN_SHARE)]


def prepare(ratings: Path, folder: Path, passes: int) -> None:
    """Write `train.jsonl` and `visits.json`."""
    users = visits(ratings)
    num_items = 1 + max(int(items.max()) for items in users if len(items))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.jsonl").open("w") as file:
        for example in examples(users, num_items, passes):
            file.write(json.dumps(example, separators=(",", ":")) + "\n")
    content = {"items": num_items, "visits": [items.tolist() for items in users]}
    (folder / "visits.json").write_text(json.dumps(content))


def scores(model: Path, users: list[np.ndarray]) -> np.ndarray:
    """`[users, items]`: logits of all items after the last training items of each user."""
    description = json.loads((model / "model.json").read_text())
    tables = {name: torch.from_numpy(rows.copy()) for name, rows in load_tables(model).items()}
    layout = TableLayout.of(
        Table(t["name"], t["numEmbeddings"], t["embeddingDim"], tuple(t["featureNames"]), t["pooling"])
        for t in description["tables"]
    )
    caser = Caser(layout, POSITIVES + NEGATIVES, **description["model"]["arguments"])
    caser.load_state_dict(safetensors.torch.load_file(model / "dense.safetensors"))
    caser.eval()
    last = torch.from_numpy(np.stack([trained(items)[-HISTORY:] for items in users]))
    with torch.no_grad():
        state_UZ = caser.state(tables["users"][: len(users)], tables["items"][last])
        logits: np.ndarray = (state_UZ @ tables["itemsOut"][:, :-1].T + tables["itemsOut"][:, -1]).numpy()
    return logits


def rank(folder: Path, model: Path) -> tuple[Ranking, Ranking]:
    """Judge the model and, beside it, the most visited items."""
    content = json.loads((folder / "visits.json").read_text())
    users = [np.array(items, np.int64) for items in content["visits"]]
    seen = [trained(items) for items in users]
    wanted = [np.setdiff1d(items[len(had) :], had) for items, had in zip(users, seen, strict=True)]
    popular = np.bincount(np.concatenate(seen), minlength=content["items"]).astype(np.float64)
    baseline = rank_users(np.broadcast_to(popular, (len(users), len(popular))), seen, wanted)
    return rank_users(scores(model, users), seen, wanted), baseline


def main(arguments: list[str]) -> None:
    match arguments:
        case ["prepare", ratings, folder, passes]:
            prepare(Path(ratings), Path(folder), int(passes))
        case ["rank", folder, model]:
            for name, result in zip(("caser", "popularity"), rank(Path(folder), Path(model)), strict=True):
                print(
                    f"{name:11s} precision@10 {result.precision:.4f}  recall@10 {result.recall:.4f}  "
                    f"MAP@10 {result.mean_average_precision:.4f}  users {result.users}"
                )
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

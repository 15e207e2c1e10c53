"""Examples of MovieLens for DIN, MMoE, two towers and SASRec, and rankings of all items by the last two.

    python examples/movielens.py prepare ratings.tsv work/ 10
    bagpipe run examples/din-movielens.yaml --set spec.data.path=work/ratings.parquet
    bagpipe run examples/mmoe-movielens.yaml --set spec.data.path=work/ratings.parquet
    bagpipe run examples/two-tower-movielens.yaml --set spec.data.path=work/visits.parquet --run-dir work/two-tower
    bagpipe run examples/sasrec-movielens.yaml --set spec.data.path=work/sequences.jsonl --run-dir work/sasrec
    bagpipe export work/sasrec work/model --all-rows
    python examples/movielens.py rank work/ work/model

Ratings are lines of user, item, rating and time, separated by tabs (`.xz` or not), numbered from 0.

`ratings.parquet` has each rating with the items that the user had rated before, in order of time. The other two hold
visits: every rating counts as one, the first 80 % of each user's train, the rest is to be found, as in
`caser_movielens.py`. `visits.parquet` has each visit with those before it and the item's share of all visits;
`sequences.jsonl` (10: passes, each with other negatives) windows of them.
"""

import json
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import safetensors.torch
import torch
from torch import nn

from bagpipe.cache.lookup import Jagged, SparseEmbeddings
from bagpipe.export.tables import load_tables
from bagpipe.metrics.ranking import Ranking, rank_users
from bagpipe.models.sasrec import SelfAttentiveSequence
from bagpipe.models.two_tower import TwoTower
from bagpipe.tables import Table, TableLayout

BEFORE = 20
"""Items before a rating or visit that DIN, MMoE and the two towers see."""
LENGTH, POSITIONS = 50, 10
"""Of a window for SASRec: items, and places at its end that are judged."""
TRAIN_SHARE = 0.8


# ── examples ──────────────────────────────────────────────────────────────────────────────────────


def read(path: Path) -> np.ndarray:
    """`[ratings, 4]` by user, each user's in order of time."""
    raw = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    table = np.array(raw.split(), np.int64).reshape(-1, 4)
    return table[np.lexsort((np.arange(len(table)), table[:, 3], table[:, 0]))]


def users_of(table: np.ndarray) -> list[np.ndarray]:
    """Items of each user, in order of time."""
    return np.split(table[:, 1], np.searchsorted(table[:, 0], np.arange(1, table[-1, 0] + 1)))


def trained(items: np.ndarray) -> np.ndarray:
    """The visits that train."""
    return items[: int(len(items) * TRAIN_SHARE)]


def before(users: list[np.ndarray]) -> pa.Array:
    """For each visit the last items before it, as lists."""
    lists = [items[max(0, at - BEFORE) : at] for items in users for at in range(len(items))]
    offsets = np.concatenate(([0], np.cumsum([len(one) for one in lists])))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.concatenate(lists)))


def ratings(table: np.ndarray) -> pa.Table:
    """Every rating in order of time: liked it if 4 or 5, loved it if 5."""
    columns = {
        "user": table[:, 0],
        "item": table[:, 1],
        "history": before(users_of(table)),
        "liked": (table[:, 2] >= 4).astype(np.int64),
        "loved": (table[:, 2] >= 5).astype(np.int64),
        "time": table[:, 3],
    }
    return pa.table(columns).take(np.argsort(table[:, 3], kind="stable"))


def visits(users: list[np.ndarray], seed: int = 1) -> pa.Table:
    """Every visit that trains, shuffled; `log_share` is that of its item.

    `visited` is 0 for each user's first, before which there is nothing: it is an item for others to be compared with.
    """
    parts = [trained(items) for items in users]
    user, item = np.repeat(np.arange(len(parts)), [len(p) for p in parts]), np.concatenate(parts)
    share = np.bincount(item) / item.size
    columns = {
        "user": user,
        "item": item,
        "history": before(parts),
        "visited": (user == np.roll(user, 1)).astype(np.int64),
        "log_share": np.log(share[item]),
    }
    return pa.table(columns).take(np.random.default_rng(seed).permutation(item.size))


def sequences(users: list[np.ndarray], num_items: int, passes: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Windows over each user's training part, from its end; what came next at each place, and as many that did not."""
    draw = np.random.default_rng(seed)
    parts = [trained(items) for items in users]
    windows = [
        (user, end) for user, items in enumerate(parts) for end in range(len(items) - 1, POSITIONS - 1, -POSITIONS)
    ]
    unknown = [np.setdiff1d(np.arange(num_items), items) for items in parts]
    for _ in range(passes):
        for number in draw.permutation(len(windows)):
            user, end = windows[number]
            items = parts[user]
            following = items[end - POSITIONS + 1 : end + 1].tolist()
            others = draw.choice(unknown[user], POSITIONS).tolist()
            yield {
                "label": [1] * POSITIONS + [0] * POSITIONS,
                "sparse": [items[max(0, end - LENGTH) : end].tolist(), following + others],
            }


def prepare(source: Path, folder: Path, passes: int) -> None:
    """Write the files."""
    table = read(source)
    users, num_items = users_of(table), int(table[:, 1].max()) + 1
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(ratings(table), folder / "ratings.parquet")
    pyarrow.parquet.write_table(visits(users), folder / "visits.parquet")
    with (folder / "sequences.jsonl").open("w") as file:
        for example in sequences(users, num_items, passes):
            file.write(json.dumps(example, separators=(",", ":")) + "\n")
    content = {"items": num_items, "visits": [items.tolist() for items in users]}
    (folder / "visits.json").write_text(json.dumps(content))


# ── rankings ──────────────────────────────────────────────────────────────────────────────────────


def load(folder: Path) -> tuple[nn.Module, TableLayout, dict[str, torch.Tensor]]:
    """The exported model, ready to score, and its tables."""
    description = json.loads((folder / "model.json").read_text())
    layout = TableLayout.of(msgspec.convert(description["tables"], tuple[Table, ...]))
    settings = description["model"]["arguments"]
    if description["model"]["class"] == SelfAttentiveSequence.__name__:
        model: nn.Module = SelfAttentiveSequence(layout, 2 * POSITIONS, **settings)
    elif description["model"]["class"] == TwoTower.__name__:
        model = TwoTower(layout, 1, **settings)
    else:
        sys.exit(f"{folder}: expected a model named sasrec or two-tower, found {description['model']['class']}")
    model.load_state_dict(safetensors.torch.load_file(folder / "dense.safetensors"))
    model.eval()
    return model, layout, {name: torch.from_numpy(rows.copy()) for name, rows in load_tables(folder).items()}


def sasrec_scores(model: SelfAttentiveSequence, tables: dict[str, torch.Tensor], users: list[np.ndarray]) -> np.ndarray:
    """`[users, items]`: products of the state at the end of each training part with all items."""
    states = []
    for items in users:
        last = torch.from_numpy(trained(items)[-LENGTH:])
        rows_1SD = tables["items"][last].unsqueeze(0)
        states.append(model.states(Jagged(rows_1SD, torch.tensor([len(last)])))[0, -1])
    return (torch.stack(states) @ tables["items"].T).numpy()


def two_tower_scores(
    model: TwoTower, layout: TableLayout, tables: dict[str, torch.Tensor], users: list[np.ndarray], num_items: int
) -> np.ndarray:
    """`[users, items]`: products of the users' vectors at the end of their training parts with all items' vectors."""
    histories = [trained(items)[-BEFORE:] for items in users]
    asked = looked_up(layout, tables, {"user": [[u] for u in range(len(users))], "history": histories})
    offered = looked_up(layout, tables, {"item": [[i] for i in range(num_items)]})
    return (model.user(torch.zeros(len(users), 1), asked) @ model.item(offered).T).numpy()


def looked_up(layout: TableLayout, tables: dict[str, torch.Tensor], lists: dict[str, Any]) -> SparseEmbeddings:
    """Rows of these lists of ids by feature; other features have none."""
    count = len(next(iter(lists.values())))
    (group,) = layout.groups
    index, lengths = [], np.zeros((count, len(group.feature_names)), np.int32)
    offset = {f: at for table, at in zip(group.tables, group.offsets, strict=True) for f in table.feature_names}
    for example in range(count):
        for number, feature in enumerate(group.feature_names):
            ids = np.asarray(lists[feature][example] if feature in lists else [], np.int64)
            lengths[example, number] = len(ids)
            index.append(ids + offset[feature])
    rows = torch.cat([tables[table.name] for table in group.tables])
    return SparseEmbeddings.of_lookups(layout, [rows], [(np.concatenate(index).astype(np.int32), lengths)])


def rank(folder: Path, exported: Path) -> dict[str, Ranking]:
    """Judge the model and, beside it, the most visited items."""
    content = json.loads((folder / "visits.json").read_text())
    users = [np.array(items, np.int64) for items in content["visits"]]
    seen = [trained(items) for items in users]
    wanted = [np.setdiff1d(items[len(had) :], had) for items, had in zip(users, seen, strict=True)]
    popular = np.bincount(np.concatenate(seen), minlength=content["items"]).astype(np.float64)
    model, layout, tables = load(exported)
    with torch.no_grad():
        if isinstance(model, SelfAttentiveSequence):
            name, scores = "sasrec", sasrec_scores(model, tables, users)
        else:
            assert isinstance(model, TwoTower)
            name, scores = "two-tower", two_tower_scores(model, layout, tables, users, content["items"])
    return {
        name: rank_users(scores, seen, wanted),
        "popularity": rank_users(np.broadcast_to(popular, (len(users), len(popular))), seen, wanted),
    }


def main(arguments: list[str]) -> None:
    match arguments:
        case ["prepare", source, folder, passes]:
            prepare(Path(source), Path(folder), int(passes))
        case ["rank", folder, exported]:
            for name, result in rank(Path(folder), Path(exported)).items():
                print(
                    f"{name:11s} hit rate@10 {result.hit_rate:.4f}  NDCG@10 {result.ndcg:.4f}  "
                    f"precision@10 {result.precision:.4f}  recall@10 {result.recall:.4f}  "
                    f"MAP@10 {result.mean_average_precision:.4f}  users {result.users}"
                )
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

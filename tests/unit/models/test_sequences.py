"""DIN and SASRec against their papers' formulas, written place by place on plain tensors; and what they refuse."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.model import ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.models.base import build_model
from bagpipe.tables import Table, TableLayout

DIM, ITEMS, BATCH, DENSE, LONGEST = 4, 20, 7, 3, 5
Weights = dict[str, torch.Tensor]


def looked_up(
    layout: TableLayout, lists: dict[str, list[list[int]]], seed: int = 1
) -> tuple[SparseEmbeddings, dict[str, torch.Tensor]]:
    """What a model receives for these lists of ids by feature, and the tables."""
    draw = torch.Generator().manual_seed(seed)
    tables = {t.name: torch.randn(t.num_embeddings, t.embedding_dim, generator=draw) for t in layout.tables}
    groups, lookups = [], []
    for group in layout.groups:
        offset = {f: at for t, at in zip(group.tables, group.offsets, strict=True) for f in t.feature_names}
        rows = zip(*(lists[f] for f in group.feature_names), strict=True)
        listed = [
            [[i + offset[f] for i in one] for f, one in zip(group.feature_names, row, strict=True)] for row in rows
        ]
        index = [i for row in listed for one in row for i in one]
        lengths = np.array([[len(one) for one in row] for row in listed], np.int32).reshape(
            -1, len(group.feature_names)
        )
        groups.append(torch.cat([tables[t.name] for t in group.tables]))
        lookups.append((np.array(index, np.int32), lengths))
    return SparseEmbeddings.of_lookups(layout, groups, lookups), tables


def affine(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def weights_of(model: nn.Module) -> Weights:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def lists_of_items(examples: int, least: int, most: int) -> list[list[int]]:
    draw = np.random.default_rng(6)
    return [draw.integers(0, ITEMS, draw.integers(least, most + 1)).tolist() for _ in range(examples)]


# ── DIN ───────────────────────────────────────────────────────────────────────────────────────────


def din_layout(**pooling: Any) -> TableLayout:
    return TableLayout.of(
        [
            Table("users", 9, 3, ("user",)),
            Table("items", ITEMS, DIM, ("item", "history"), pooling.get("items", "none")),
            Table("shops", 9, 2, ("shop",), "none"),
            Table("shopsSeen", 9, 2, ("shops",), "none"),
        ]
    )


DIN: dict[str, Any] = {
    "target_features": ("item", "shop"),
    "history_features": ("history", "shops"),
    "attention_mlp": (6,),
    "over_mlp": (7, 5),
}


def din_lists(examples: int = BATCH) -> dict[str, list[list[int]]]:
    draw = np.random.default_rng(3)
    one = {f: [[i] for i in draw.integers(0, 9, examples).tolist()] for f in ("user", "item", "shop")}
    histories = [[], *lists_of_items(examples - 1, 0, LONGEST)]
    return one | {"history": histories, "shops": [[i % 9 for i in one] for one in histories]}


def prelu(w: Weights, prefix: str, x: torch.Tensor) -> torch.Tensor:
    """Linear layers with a PReLU between two of them."""
    last = max(int(name.removeprefix(prefix).split(".")[0]) for name in w if name.startswith(prefix))
    for n in range(0, last, 2):
        x = affine(w, f"{prefix}{n}", x)
        x = torch.where(x > 0, x, w[f"{prefix}{n + 1}.weight"] * x)
    return affine(w, f"{prefix}{last}", x)


def plain_din(w: Weights, dense: torch.Tensor, lists: dict[str, Any], tables: Weights) -> torch.Tensor:
    logits = []
    for b in range(len(dense)):
        parts = [dense[b], tables["users"][lists["user"][b][0]]]
        for unit, (target, items, seen, history) in enumerate(
            (("item", "items", "items", "history"), ("shop", "shops", "shopsSeen", "shops"))
        ):
            t = tables[items][lists[target][b][0]]
            interest = torch.zeros_like(t)
            for i in lists[history][b]:
                h = tables[seen][i]
                interest += prelu(w, f"units.{unit}.mlp.", torch.cat([h, t, h - t, h * t])) * h
            parts += [t, interest]
        logits.append(prelu(w, "over_mlp.", torch.cat(parts)))
    return torch.stack(logits)


def test_din_weighs_each_item_of_the_history_by_the_target() -> None:
    """Logits are the paper's, with target and history in one table or in two, and histories that may be empty."""
    model = build_model(ModelConfig(name="din", **DIN), din_layout(), DENSE, 1, seed=4)
    lists, dense = din_lists(), torch.randn(BATCH, DENSE)
    sparse, tables = looked_up(din_layout(), lists)
    assert [] in lists["history"]
    expected = plain_din(weights_of(model), dense, lists, tables)
    torch.testing.assert_close(model(dense, sparse), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("examples", [0, 1])
def test_din_trains_on_next_to_nothing(examples: int) -> None:
    """A slice of no or one example, here with an empty history, gives every weight a gradient."""
    model = build_model(ModelConfig(name="din", **DIN), din_layout(), DENSE, 2, seed=4)
    lists = {
        f: [[] if f in ("history", "shops") else [0]] * examples for f in ("user", "item", "shop", "history", "shops")
    }
    logits = model(torch.randn(examples, DENSE), looked_up(din_layout(), lists)[0])
    logits.sum().backward()
    assert logits.shape == (examples, 2)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_features": ("item",)}, "a target for each history, found 1 targetFeatures and 2 historyFeatures"),
        ({"target_features": ("itme", "shop")}, "expected one of the features user, item, .*, found 'itme'"),
        (
            {"target_features": ("user", "shop")},
            'expected pooling "none" for feature \'user\', found "sum"',
        ),
        ({"target_features": ("shop", "item")}, "target 'shop' and history 'history' of one width, found 2 and 4"),
        ({"target_features": ("item",), "history_features": ("history",)}, "expected feature 'shop', which has"),
    ],
)
def test_din_refuses_what_does_not_pair_up(changes: dict[str, Any], message: str) -> None:
    """One line with the feature and the remedy."""
    with pytest.raises(ConfigError, match=message):
        build_model(ModelConfig(name="din", **DIN | changes), din_layout(), DENSE, 1, seed=4)


def test_din_needs_its_target() -> None:
    """An example without a target, or with two, is refused and not silently taken for the first."""
    model = build_model(ModelConfig(name="din", **DIN), din_layout(), DENSE, 1, seed=4)
    lists = din_lists()
    lists["item"][2] = [1, 2]
    with pytest.raises(ConfigError, match="expected one lookup of target 'item' in every example, found 2"):
        model(torch.randn(BATCH, DENSE), looked_up(din_layout(), lists)[0])


# ── SASRec ────────────────────────────────────────────────────────────────────────────────────────


def sasrec_layout(**changes: Any) -> TableLayout:
    fields = {"feature_names": ("next", "history"), "pooling": "none"} | changes
    return TableLayout.of([Table("items", ITEMS, DIM, **fields)])


SASREC: dict[str, Any] = {
    "history_features": ("history",),
    "sequence_length": LONGEST,
    "positions": 2,
    "attention_heads": 2,
    "dropout": 0.0,
}
LABELS = 6


def sasrec(**changes: Any) -> nn.Module:
    return build_model(ModelConfig(name="sasrec", **SASREC | changes), sasrec_layout(), 0, LABELS, seed=4)


def sasrec_lists(examples: int = BATCH) -> dict[str, list[list[int]]]:
    draw = np.random.default_rng(9)
    return {
        "history": lists_of_items(examples, 2, LONGEST),
        "next": draw.integers(0, ITEMS, (examples, LABELS)).tolist(),
    }


def norm(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    spread = ((x - x.mean()) ** 2).mean()
    return (x - x.mean()) / (spread + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def plain_block(w: Weights, name: str, xs: list[torch.Tensor]) -> list[torch.Tensor]:
    normed = [norm(w, f"{name}.attention_norm", x) for x in xs]
    q, k, v = ([affine(w, f"{name}.{kind}", x) for x in normed] for kind in ("query", "key", "value"))
    out = []
    for t, x in enumerate(xs):
        heads = []
        for part in (slice(0, 2), slice(2, 4)):
            scores = torch.stack([q[t][part] @ k[s][part] / math.sqrt(2) for s in range(t + 1)]).exp()
            heads.append(sum(score * v[s][part] for s, score in enumerate(scores / scores.sum())))
        x = x + affine(w, f"{name}.out", torch.cat(heads))  # type: ignore[arg-type]
        up = affine(w, f"{name}.up", norm(w, f"{name}.place_norm", x)).clamp(min=0)
        out.append(x + affine(w, f"{name}.down", up))
    return out


def plain_sasrec(w: Weights, lists: dict[str, Any], table: torch.Tensor) -> torch.Tensor:
    logits = []
    for history, candidates in zip(lists["history"], lists["next"], strict=True):
        first = LONGEST - len(history)
        xs = [math.sqrt(DIM) * table[i] + w["places"][first + t] for t, i in enumerate(history)]
        for block in range(2):
            xs = plain_block(w, f"blocks.{block}", xs)
        states = [norm(w, "last_norm", x) for x in xs[-2:]]
        logits.append(torch.stack([states[n % 2] @ table[i] for n, i in enumerate(candidates)]))
    return torch.stack(logits)


def test_sasrec_scores_what_comes_next_at_each_place() -> None:
    """Logits are the paper's: each place sees itself and those before it, and judges its own candidates."""
    model, lists = sasrec(), sasrec_lists()
    sparse, tables = looked_up(sasrec_layout(), lists)
    assert len({len(history) for history in lists["history"]}) > 2
    expected = plain_sasrec(weights_of(model), lists, tables["items"])
    torch.testing.assert_close(model(torch.empty(BATCH, 0), sparse), expected, rtol=1e-4, atol=1e-5)


def test_sasrec_drops_the_same_units_with_any_other_examples_in_the_slice() -> None:
    """Masks do not depend on the longest history of a slice."""
    model, lists = sasrec(dropout=0.5), sasrec_lists()
    together = model(torch.empty(BATCH, 0), looked_up(sasrec_layout(), lists)[0])
    shortest = {name: one[:1] for name, one in lists.items()}
    assert len(shortest["history"][0]) < max(map(len, lists["history"]))
    alone = model(torch.empty(1, 0), looked_up(sasrec_layout(), shortest)[0])
    torch.testing.assert_close(alone, together[:1])
    model.eval()
    assert not torch.allclose(model(torch.empty(1, 0), looked_up(sasrec_layout(), shortest)[0]), alone, atol=1e-3)


@pytest.mark.parametrize("examples", [0, 1])
def test_sasrec_trains_on_next_to_nothing(examples: int) -> None:
    """A slice of no or one example gives every weight a gradient."""
    model = sasrec()
    logits = model(torch.empty(examples, 0), looked_up(sasrec_layout(), sasrec_lists(examples))[0])
    logits.sum().backward()
    assert logits.shape == (examples, LABELS)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        ({"pooling": "sum"}, {}, r"expected one table, pooling none, .*found tables items \(next: sum, history: sum\)"),
        ({"feature_names": ("next",)}, {}, r"found tables items \(next: none\) and historyFeatures history"),
        ({}, {"history_features": ("x",)}, "and historyFeatures x"),
        ({}, {"attention_heads": 3}, "expected attentionHeads to divide the width 4, found 3"),
        ({}, {"positions": 4}, "as many candidates for each of 4 positions, at most 5, found 6 labels"),
        ({}, {"positions": 6}, "as many candidates for each of 6 positions, at most 5"),
    ],
)
def test_sasrec_refuses_other_tables(layout: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    """One line with what was found."""
    with pytest.raises(ConfigError, match=message):
        build_model(ModelConfig(name="sasrec", **SASREC | changes), sasrec_layout(**layout), 0, LABELS, seed=4)


@pytest.mark.parametrize(
    ("history", "candidates", "message"),
    [
        ([1, 2, 3, 4, 5, 6], [0] * LABELS, "histories of 2 to 5 items, found 2 to 6"),
        ([1], [0] * LABELS, "histories of 2 to 5 items, found 1 to 5"),
        ([1, 2], [0] * 5, "expected 6 candidates .one a label., found 5"),
    ],
)
def test_sasrec_refuses_other_examples(history: list[int], candidates: list[int], message: str) -> None:
    """A history that is too long or too short, and too few candidates, are named."""
    lists = sasrec_lists()
    lists["history"][3], lists["next"][3] = history, candidates
    with pytest.raises(ConfigError, match=message):
        sasrec()(torch.empty(BATCH, 0), looked_up(sasrec_layout(), lists)[0])

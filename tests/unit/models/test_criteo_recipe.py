"""The recipe of `examples/criteo_recipe.py`: its members are models of their own, its features know no future."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.models.dlrm import DLRM
from bagpipe.tables import Table, TableLayout

EXAMPLES = Path(__file__).parents[3] / "examples"
BATCH, FEATURES, DENSE, FIRST, MEMBERS, DIM = 12, 3, 5, 2, 4, 8


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import criteo_recipe

    return criteo_recipe


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import criteo_features

    return criteo_features


def layout(dim: int) -> TableLayout:
    return TableLayout.of([Table(f"C{n}", 7, dim, (f"C{n}",)) for n in range(FEATURES)])


def looked_up(rows: torch.Tensor, index: np.ndarray) -> SparseEmbeddings:
    return SparseEmbeddings.of_lookups(layout(rows.shape[1]), [rows], [(index, None)])


def test_each_member_is_the_model_that_it_would_be_alone(recipe: Any) -> None:
    """A member's log-odds and gradients, rows' included, are those of a DLRM with its weights and part of the rows."""
    draw = torch.Generator().manual_seed(1)
    together = recipe.Members(layout(DIM * MEMBERS), DENSE, MEMBERS, FIRST)
    rows = torch.randn(7 * FEATURES, DIM * MEMBERS, generator=draw).requires_grad_()
    index = np.random.default_rng(1).integers(0, 7 * FEATURES, BATCH * FEATURES).astype(np.int32)
    dense = torch.randn(BATCH, DENSE, generator=draw)
    labels = (torch.rand(BATCH, 1, generator=draw) < 0.5).float()
    logits_BM = together(dense, looked_up(rows, index))
    together.loss(logits_BM, labels).backward()
    assert rows.grad is not None
    for member in range(MEMBERS):
        seen, part = DENSE if member % 2 else FIRST, slice(member * DIM, (member + 1) * DIM)
        alone = DLRM(layout(DIM), seen, bottom_mlp=(64,), over_mlp=(256,))
        pairs = [("dense_arch", together.dense[member]), ("over_arch", together.over[member])]
        alone.load_state_dict({f"{name}.{k}": v for name, module in pairs for k, v in module.state_dict().items()})
        own = rows.detach()[:, part].clone().requires_grad_()
        logits = alone(dense[:, :seen], looked_up(own, index))
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        torch.testing.assert_close(logits_BM[:, member : member + 1], logits)
        torch.testing.assert_close(rows.grad[:, part], own.grad)
        for name, module in pairs:
            for mine, weight in zip(module.parameters(), getattr(alone, name).parameters(), strict=True):
                torch.testing.assert_close(mine.grad, weight.grad)
    together.eval()
    torch.testing.assert_close(together(dense, looked_up(rows, index)), logits_BM.mean(1, keepdim=True))


def test_features_are_counted_among_earlier_rows(features: Any) -> None:
    """Each row's features are those of a loop over the rows before it, where clicks of the judged part do not count."""
    draw = np.random.default_rng(1)
    codes, labels, num_train = draw.integers(0, 4, 60), draw.integers(0, 2, 60).astype(np.float64), 40
    count, log_odds = features.statistics(codes, labels, num_train)
    for row in range(60):
        before = [r for r in range(row) if codes[r] == codes[row]]
        known = [r for r in before if r < num_train]
        clicks, shown = sum(labels[: min(row, num_train)]), min(row, num_train)
        rate = (clicks + 1.0) / (shown + 4.0)
        smooth = (sum(labels[r] for r in known) + features.SMOOTHING * rate) / (len(known) + features.SMOOTHING)
        expected = np.log(smooth / (1 - smooth)) - np.log(rate / (1 - rate))
        np.testing.assert_allclose([count[row], log_odds[row]], [np.log1p(len(before)), expected], rtol=1e-5, atol=1e-6)


def test_the_recipe_names_columns_that_the_features_have(recipe: Any, features: Any) -> None:
    """Every column of the recipe's jobs is in the table that `criteo_features.py` makes of a log."""
    columns = {"label": pa.array([0, 1] * 10)}
    columns |= {name: pa.array([None, 3, 40, 500] * 5, pa.int64()) for name in features.NUMBERS}
    columns |= {name: pa.array(["a", "b", "", "a"] * 5) for name in features.CATEGORIES}
    made = dict(features.features(pa.table(columns), 18))
    named = recipe.columns()
    dense, sparse = [column["name"] for column in named["dense"]], named["sparse"]
    assert set(named["labels"]) | set(dense) | set(sparse) <= set(made)
    assert (len(dense), len(sparse)) == (13 + 2 * (39 + len(features.PAIRS)), 39)
    assert dense[: len(features.NUMBERS)] == features.NUMBERS
    assert all(column["standardise"] for column in named["dense"])


def test_pairs_of_columns_are_counted_by_both_values(features: Any) -> None:
    """A pair's count is that of the earlier rows that agree in both columns."""
    draw = np.random.default_rng(2)
    columns = {"label": pa.array(draw.integers(0, 2, 50))}
    columns |= {name: pa.array(draw.integers(0, 6, 50)) for name in features.NUMBERS}
    columns |= {name: pa.array([*map(str, draw.integers(0, 3, 50))]) for name in features.CATEGORIES}
    log = pa.table(columns)
    codes, made = features.codes_of(log), dict(features.features(log, 40))
    assert len(features.PAIRS) == 28
    for one, other in features.PAIRS:
        both = [*zip(codes[one], codes[other], strict=True)]
        expected = np.log1p([both[:row].count(both[row]) for row in range(50)])
        np.testing.assert_allclose(made[f"n_{one}{other}"], expected, rtol=1e-6)

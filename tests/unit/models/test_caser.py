"""Caser against its definition, with convolutions as the paper draws them; its loss, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # torch's usual name

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.models.caser import Caser
from bagpipe.tables import Table, TableLayout

DIM, HISTORY, LABELS, BATCH = 4, 5, 3, 7


def layout(out: int = 2 * DIM + 1, pooling: str = "none") -> TableLayout:
    return TableLayout.of(
        [
            Table("users", 9, DIM, ("user",)),
            Table("items", 9, DIM, ("history",), pooling),  # type: ignore[arg-type]
            Table("itemsOut", 9, out, ("candidates",), "none"),
        ]
    )


def looked_up(num_examples: int = BATCH, history: int = HISTORY) -> tuple[SparseEmbeddings, list[torch.Tensor]]:
    """What the model receives; users, histories and candidates as plain tensors beside it."""
    draw = np.random.default_rng(3)
    rows, out = torch.randn(9, DIM), torch.randn(9, 2 * DIM + 1)
    index = draw.integers(0, 9, (num_examples, 1 + history)).astype(np.int32)
    wanted = draw.integers(0, 9, (num_examples, LABELS)).astype(np.int32)
    lengths = np.tile(np.array([[1, history]], np.int32), (num_examples, 1))
    counts = np.full((num_examples, 1), LABELS, np.int32)
    sparse = SparseEmbeddings.of_lookups(
        layout(), [rows, out], [(index.reshape(-1), lengths), (wanted.reshape(-1), counts)]
    )
    picked = rows[torch.from_numpy(index).long()]
    return sparse, [picked[:, 0], picked[:, 1:], out[torch.from_numpy(wanted).long()]]


def model() -> Caser:
    torch.manual_seed(5)
    return Caser(layout(), LABELS, sequence_length=HISTORY, vertical_filters=2, horizontal_filters=3, dropout=0.0)


def plain(w: dict[str, torch.Tensor], user: torch.Tensor, history: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    image = history[:, None]
    down = w["vertical.weight"][:, None, :, None]
    vertical = F.conv2d(image, down, w["vertical.bias"]).squeeze(2)
    parts = [vertical.transpose(1, 2).flatten(1)]
    for h in range(1, HISTORY + 1):
        kernel = w[f"horizontal.{h - 1}.weight"].transpose(1, 2)[:, None]
        across = F.conv2d(image, kernel, w[f"horizontal.{h - 1}.bias"]).squeeze(3).clamp(min=0)
        parts.append(F.max_pool1d(across, across.shape[2]).squeeze(2))
    z = (torch.cat(parts, 1) @ w["fc.weight"].T + w["fc.bias"]).clamp(min=0)
    return (out[:, :, :-1] * torch.cat([z, user], 1)[:, None]).sum(2) + out[:, :, -1]


def test_scores_are_those_of_the_paper() -> None:
    """Vertical and horizontal convolutions of the history's image, beside the user, against each candidate."""
    caser = model()
    sparse, (user, history, out) = looked_up()
    expected = plain(caser.state_dict(), user, history, out)
    torch.testing.assert_close(caser(torch.empty(BATCH, 0), sparse), expected, rtol=1e-4, atol=1e-5)


def test_a_short_history_is_filled_with_zeros() -> None:
    """Fewer items than `sequence_length` score as if rows of zeros followed; also a slice of no example trains."""
    caser = model()
    sparse, (user, history, out) = looked_up(history=2)
    filled = torch.cat([history, torch.zeros(BATCH, HISTORY - 2, DIM)], 1)
    expected = plain(caser.state_dict(), user, filled, out)
    torch.testing.assert_close(caser(torch.empty(BATCH, 0), sparse), expected, rtol=1e-4, atol=1e-5)
    nothing = caser(torch.empty(0, 0), looked_up(num_examples=0)[0])
    (nothing.sum() * 0.0).backward()
    assert nothing.shape == (0, LABELS)
    assert all(p.grad is not None and not p.grad.any() for p in caser.parameters())


def test_the_loss_weighs_positives_and_negatives_alike() -> None:
    """Mean of -log s(x) over positives plus mean of -log(1 - s(x)) over negatives, whatever their numbers."""
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    s = [[1 / (1 + math.exp(-x)) for x in row] for row in logits.tolist()]
    positives = -(math.log(s[0][0]) + math.log(s[1][0])) / 2
    negatives = -sum(math.log(1 - x) for row in s for x in row[1:]) / 4
    assert float(model().loss(logits, labels)) == pytest.approx(positives + negatives, rel=1e-6)


def test_sizes_are_the_originals() -> None:
    """Width 50, 10 items, 16 and 64 filters: 3.98 M weights with the output table of 36,902 items."""
    table = [Table("u", 71_177, 50, ("u",)), Table("i", 36_902, 50, ("i",), "none")]
    caser = Caser(TableLayout.of([*table, Table("o", 36_902, 101, ("o",), "none")]), LABELS)
    assert sum(p.numel() for p in caser.parameters()) + 36_902 * 101 == pytest.approx(3.98e6, rel=0.002)


def test_other_data_is_refused() -> None:
    """Tables of other shapes, histories that are too long, and too few candidates name the remedy."""
    with pytest.raises(ConfigError, match=r"candidates \(width 2 D \+ 1.*found users \(4, 1 features: sum\)"):
        Caser(layout(out=8), LABELS)
    with pytest.raises(ConfigError, match="expected three tables"):
        Caser(layout(pooling="sum"), LABELS)
    with pytest.raises(ConfigError, match=r"at most 5 items in a history, found 6; raise model\.sequenceLength"):
        model()(torch.empty(BATCH, 0), looked_up(history=6)[0])
    with pytest.raises(ConfigError, match="expected 4 candidates"):
        Caser(layout(), 4, sequence_length=HISTORY)(torch.empty(BATCH, 0), looked_up()[0])

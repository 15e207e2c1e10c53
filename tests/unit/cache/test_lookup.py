"""Lookups: what a model receives, and which gradient each row gets, compared with torch bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bagpipe.cache.lookup import Lookups, SparseEmbeddings, gather_rows, lookup
from bagpipe.errors import ConfigError
from bagpipe.tables import Pooling, Table, TableLayout

DIMS = (1, 3, 8, 16, 17, 33, 48, 128)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def random_rows(rng: np.random.Generator, count: int, dim: int) -> torch.Tensor:
    rows = rng.standard_normal((count, dim)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.05] = -0.0
    return torch.from_numpy(rows)


def batch_order_sum(indices: torch.Tensor, values: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Gradients of lookups added one by one in batch order."""
    out = torch.full((num_rows, values.shape[1]), -0.0)
    for i, value in zip(indices.tolist(), values, strict=True):
        out[i] += value
    return out


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_pooling_equals_embedding_bag_to_the_bit(dim: int, mode: str) -> None:
    """Forward and each lookup's gradient are EmbeddingBag's; a row's lookups are added in batch order."""
    rng = np.random.default_rng(dim)
    num_examples, num_rows = 60, 40
    lengths = rng.integers(0, 7, num_examples).astype(np.int32)
    indices = rng.integers(0, num_rows, int(lengths.sum())).astype(np.int32)
    weights = random_rows(rng, num_rows, dim)
    upstream = random_rows(rng, num_examples, dim)

    bag = nn.EmbeddingBag(num_rows, dim, mode=mode, sparse=True, _weight=weights.clone())
    offsets = torch.from_numpy(np.cumsum(lengths) - lengths)
    expected = bag(torch.from_numpy(indices).long(), offsets.long())
    expected.backward(upstream)

    rows = weights.clone().requires_grad_()
    pooled, _ = lookup(rows, indices, lengths[:, None], [mode])  # type: ignore[list-item]
    pooled.backward(upstream[:, None])

    assert same_bits(pooled[:, 0].detach(), expected.detach())
    assert bag.weight.grad is not None and rows.grad is not None
    of_lookups = bag.weight.grad
    assert same_bits(
        rows.grad,
        batch_order_sum(of_lookups._indices()[0], of_lookups._values(), num_rows),
    )


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_gradients_equal_torchs_coalesce_where_its_order_cannot_matter(
    mode: str,
) -> None:
    """With at most two lookups of a row, the sum is torch's own coalesced gradient to the bit."""
    rng = np.random.default_rng(5)
    indices = rng.permutation(np.repeat(np.arange(50), 2)).astype(np.int32)
    lengths = np.full(20, 5, np.int32)
    weights, upstream = random_rows(rng, 50, 16), random_rows(rng, 20, 16)
    bag = nn.EmbeddingBag(50, 16, mode=mode, sparse=True, _weight=weights.clone())
    bag(torch.from_numpy(indices).long().view(20, 5)).backward(upstream)
    rows = weights.clone().requires_grad_()
    pooled, _ = lookup(rows, indices, lengths[:, None], [mode])  # type: ignore[list-item]
    pooled.backward(upstream[:, None])
    assert bag.weight.grad is not None and rows.grad is not None
    assert same_bits(rows.grad, bag.weight.grad.coalesce().values())


@given(seed=st.integers(0, 2**32 - 1), wide=st.booleans(), dim=st.sampled_from([1, 4, 9]))
@settings(max_examples=40, deadline=None)
def test_one_lookup_each_is_the_jagged_case_with_lengths_one(seed: int, wide: bool, dim: int) -> None:
    """Both loops, both index types, and gradients that are slices of wider tensors give the same bits."""
    rng = np.random.default_rng(seed)
    b, t, k = int(rng.integers(0, 9)), int(rng.integers(1, 5)), int(rng.integers(1, 12))
    inverse = rng.integers(0, k, b * t)
    weights, upstream = (
        random_rows(rng, k, dim),
        random_rows(rng, b * (t + 1), dim).view(b, t + 1, dim),
    )
    results = []
    for lengths, kind in ((None, np.uint16), (np.ones((b, t), np.int32), np.int32)):
        rows = weights.clone().requires_grad_()
        pooled, _ = lookup(rows, inverse.astype(kind), lengths, ["sum"] * t)
        pooled.backward(upstream[:, 1:] if wide else upstream[:, 1:].contiguous())
        results.append((pooled.detach(), rows.grad))
    (first, first_grad), (second, second_grad) = results
    assert first_grad is not None and second_grad is not None
    assert same_bits(first, second)
    assert same_bits(first_grad, second_grad)
    assert same_bits(
        first_grad,
        batch_order_sum(torch.from_numpy(inverse), upstream[:, 1:].reshape(-1, dim), k),
    )


LAYOUT = TableLayout.of(
    [
        Table("user", 10, 4, ("user",)),
        Table("clicked", 10, 4, ("clicked", "bought"), "none"),
        Table("tags", 10, 4, ("tags",), "mean"),
        Table("place", 10, 2, ("place",)),
    ]
)
LENGTHS = np.array([[1, 2, 0, 2], [0, 3, 1, 1]], np.int32)
INVERSE = np.array([0, 1, 2, 3, 3, 3, 4, 0, 1, 2], np.int32)


def mixed() -> tuple[SparseEmbeddings, torch.Tensor, torch.Tensor]:
    rows = torch.arange(20.0).reshape(5, 4).requires_grad_()
    places = torch.tensor([[7.0, 8.0]]).requires_grad_()
    lookups = [(INVERSE, LENGTHS), (np.zeros(2, np.uint16), None)]
    return SparseEmbeddings.of_lookups(LAYOUT, [rows, places], lookups), rows, places


def test_features_are_found_by_name_over_widths_and_poolings() -> None:
    """Pooled features give [B, D]; features without pooling give padded rows and lengths."""
    sparse, rows, places = mixed()
    assert sparse.features == ("user", "clicked", "bought", "tags", "place")
    assert sparse.num_examples == 2
    assert torch.equal(sparse["user"], torch.stack([rows[0], torch.zeros(4)]))
    assert torch.equal(sparse["tags"], torch.stack([rows[3], rows[2]]))
    assert torch.equal(sparse["place"], places.expand(2, 2))
    clicked, bought = sparse.jagged("clicked"), sparse.jagged("bought")
    assert clicked.lengths_B.tolist() == [2, 3] and bought.lengths_B.tolist() == [0, 1]
    assert torch.equal(
        clicked.padded_BkD,
        torch.stack([torch.stack([rows[1], rows[2], torch.zeros(4)]), rows[[3, 4, 0]]]),
    )
    assert torch.equal(bought.padded_BkD, torch.stack([torch.zeros(1, 4), rows[[1]]]))
    assert sparse.concatenated().shape == (2, 4 + 4 + 2)


def test_features_of_one_table_are_pooled_each_in_its_way() -> None:
    """Sum by the table's default, mean and a list by the features' own names, of the same rows; so are gradients."""
    own: dict[str, Pooling] = {"average": "mean", "history": "none"}
    layout = TableLayout.of([Table("item", 10, 4, ("total", "average", "history"), feature_pooling=own)])
    rows = torch.arange(20.0).reshape(5, 4).requires_grad_()
    lengths, inverse = np.full((1, 3), 2, np.int32), np.array([1, 3] * 3, np.int32)
    sparse = SparseEmbeddings.of_lookups(layout, [rows], [(inverse, lengths)])
    assert torch.equal(sparse["total"], rows[[1]] + rows[[3]])
    assert torch.equal(sparse["average"], (rows[[1]] + rows[[3]]) / 2)
    assert torch.equal(sparse.jagged("history").padded_BkD[0], rows[[1, 3]])
    (sparse["total"] + 10 * sparse["average"] + 100 * sparse.jagged("history").padded_BkD[:, 0]).sum().backward()
    assert rows.grad is not None
    assert rows.grad[:, 0].tolist() == [0.0, 106.0, 0.0, 6.0, 0.0]


def test_gradients_flow_from_every_kind_of_feature() -> None:
    """A row used pooled and unpooled gets both gradients; padding gets none."""
    sparse, rows, _ = mixed()
    (sparse["tags"].sum() + (10 * sparse.jagged("clicked").padded_BkD).sum()).backward()
    assert rows.grad is not None
    assert rows.grad[:, 0].tolist() == [10.0, 10.0, 11.0, 11.0, 10.0]


def test_asking_in_the_wrong_way_names_the_right_one() -> None:
    """Wrong feature, pooled read as jagged and the reverse, and stacking several widths are refused."""
    sparse, _, _ = mixed()
    with pytest.raises(ConfigError, match=r"'users'.*|user, clicked"):
        sparse["users"]
    with pytest.raises(ConfigError, match=r"jagged\('clicked'\)"):
        sparse["clicked"]
    with pytest.raises(ConfigError, match=r"\['user'\]"):
        sparse.jagged("user")
    with pytest.raises(ConfigError, match="widths 4, 2"):
        sparse.stacked()


def test_gather_rows_is_a_differentiable_index() -> None:
    """`gather_rows` is `rows[index]` with gradients added up."""
    rows = torch.arange(6.0).reshape(3, 2).requires_grad_()
    out = gather_rows(rows, np.array([2, 0, 2], np.int32))
    assert torch.equal(out, rows[[2, 0, 2]])
    out.backward(torch.ones(3, 2))
    assert rows.grad is not None and rows.grad[:, 0].tolist() == [1.0, 0.0, 2.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_lookup_agrees_with_the_cpu() -> None:
    """The torch path on a GPU pools and differentiates as the compiled one, up to rounding."""
    _compare_devices("cuda")


def test_torch_path_agrees_with_the_compiled_one() -> None:
    """The path for other devices, run on the CPU, pools and differentiates alike."""
    _compare_devices("cpu")


def _compare_devices(device: str) -> None:
    from bagpipe.cache.lookup_torch import lookup_torch

    rng = np.random.default_rng(3)
    pooling = ("mean", "none", "sum")
    lengths = rng.integers(0, 4, (30, 3)).astype(np.int32)
    inverse = rng.integers(0, 12, int(lengths.sum())).astype(np.uint16)
    weights = random_rows(rng, 12, 8)
    for of_lookups in (None, rng.integers(0, 3, inverse.size).astype(np.float32)):
        compiled, other = weights.clone().requires_grad_(), weights.clone().to(device).requires_grad_()
        results = []
        for rows, look_up in ((compiled, lookup), (other, lookup_torch)):
            pooled, jagged = look_up(rows, inverse, lengths, pooling, of_lookups)
            ((pooled**2).sum() + (3 * jagged).sum()).backward()
            assert rows.grad is not None
            results.append((pooled.detach().cpu(), rows.grad.cpu()))
        torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("dim", DIMS)
def test_weighted_pooling_equals_torch_to_the_bit(dim: int, mode: str) -> None:
    """Forward and gradients are those of sum(w * x), by sum(w) for a mean; weights of 0 and empty bags count."""
    rng = np.random.default_rng(dim)
    lengths = rng.integers(0, 5, (40, 1)).astype(np.int32)
    indices = rng.integers(0, 20, int(lengths.sum())).astype(np.uint16)
    weights = (rng.integers(0, 4, indices.size) / np.float32(3)).astype(np.float32)
    start, upstream = random_rows(rng, 20, dim), random_rows(rng, 40, dim)

    plain = start.clone().requires_grad_()
    found = plain[torch.from_numpy(indices).long()]
    found.retain_grad()
    bags, at, found_rows = [], 0, found.unbind(0)
    for count in lengths[:, 0].tolist():
        total, weight = torch.zeros(dim), torch.zeros(())
        for row, one in zip(found_rows[at : at + count], torch.from_numpy(weights[at : at + count]), strict=True):
            total, weight = total + one * row, weight + one
        bags.append(total / weight if mode == "mean" and weight > 0 else total)
        at += count
    expected = torch.stack(bags)
    expected.backward(upstream)

    rows = start.clone().requires_grad_()
    pooled, _ = lookup(rows, indices, lengths, [mode], weights)  # type: ignore[list-item]
    pooled.backward(upstream[:, None])
    assert same_bits(pooled[:, 0].detach(), expected.detach())
    assert found.grad is not None and rows.grad is not None
    assert same_bits(rows.grad, batch_order_sum(torch.from_numpy(indices.astype(np.int64)), found.grad, 20))


def test_weights_of_lookups_that_are_not_pooled_are_handed_to_the_model() -> None:
    """`jagged` gives rows as they are, and their weights padded like them; with pooling they are multiplied."""
    rows = torch.arange(20.0).reshape(5, 4).requires_grad_()
    places = torch.tensor([[7.0, 8.0]])
    weights = np.arange(10, dtype=np.float32)
    lookups = [Lookups(INVERSE, LENGTHS, weights), Lookups(np.zeros(2, np.uint16))]
    sparse = SparseEmbeddings.of_lookups(LAYOUT, [rows, places], lookups)
    clicked = sparse.jagged("clicked")
    assert clicked.weights_Bk is not None
    assert clicked.weights_Bk.tolist() == [[1.0, 2.0, 0.0], [5.0, 6.0, 7.0]]
    assert torch.equal(clicked.padded_BkD, mixed()[0].jagged("clicked").padded_BkD)
    assert torch.equal(sparse["user"][0], 0 * rows[0])
    assert torch.equal(sparse["tags"], torch.stack([(3 * rows[3] + 4 * rows[3]) / 7, 9 * rows[2] / 9]))
    weights_N = sparse.weights("clicked")
    assert weights_N is not None and weights_N.tolist() == [1.0, 2.0, 5.0, 6.0, 7.0]
    assert mixed()[0].jagged("clicked").weights_Bk is None and mixed()[0].weights("clicked") is None

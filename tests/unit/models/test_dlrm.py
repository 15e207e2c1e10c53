"""DLRM compared with its definition, pair by pair."""

import math

import numpy as np
import pytest
import torch

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.models.dlrm import DLRM, InteractionArch
from bagpipe.tables import Table, TableLayout


def layout(widths: tuple[int, ...] = (4, 4, 4)) -> TableLayout:
    return TableLayout.of([Table(f"t{i}", 9, width, (f"t{i}",)) for i, width in enumerate(widths)])


def embeddings(num_examples: int, rows_KD: torch.Tensor) -> SparseEmbeddings:
    inverse = np.random.default_rng(0).integers(0, rows_KD.shape[0], num_examples * 3).astype(np.int32)
    return SparseEmbeddings.of_lookups(layout(), [rows_KD], [(inverse, None)])


@pytest.mark.parametrize(("batch", "vectors", "dim"), [(1, 2, 1), (5, 4, 3), (2, 7, 8)])
def test_interaction_is_every_pair_once(batch: int, vectors: int, dim: int) -> None:
    """Values and gradients are those of the dot products of all pairs i > j, in that order."""
    ours = torch.randn(batch, vectors, dim, dtype=torch.float64, requires_grad=True)
    plain = ours.detach().clone().requires_grad_()
    interaction = InteractionArch(vectors)
    expected = torch.stack([(plain[:, i] * plain[:, j]).sum(1) for i in range(vectors) for j in range(i)], dim=1)
    found = interaction(ours)
    assert interaction.num_pairs == expected.shape[1]
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours.grad, plain.grad)


def test_logits_follow_the_definition() -> None:
    """Dense vector beside all its products with embeddings, through the over arch."""
    model = DLRM(layout(), num_dense=5, bottom_mlp=(6,), over_mlp=(7,))
    rows = torch.randn(9, 4, requires_grad=True)
    dense, sparse = torch.randn(11, 5), embeddings(11, rows)
    assert model.dense_arch is not None
    bottom = model.dense_arch(dense)
    vectors = [bottom, *(sparse[f"t{i}"] for i in range(3))]
    products = [(vectors[i] * vectors[j]).sum(1, keepdim=True) for i in range(4) for j in range(i)]
    expected = model.over_arch(torch.cat([bottom, *products], dim=1))
    logits = model(dense, sparse)
    assert logits.shape == (11, 1)
    torch.testing.assert_close(logits, expected)
    logits.sum().backward()
    assert rows.grad is not None and rows.grad.abs().sum() > 0


def test_without_dense_features_embeddings_stand_alone() -> None:
    """`num_dense = 0` builds, trains and uses every embedding."""
    model = DLRM(layout(), num_dense=0, num_labels=2, over_mlp=(7,))
    rows = torch.randn(9, 4, requires_grad=True)
    logits = model(torch.empty(6, 0), embeddings(6, rows))
    assert logits.shape == (6, 2)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_an_empty_slice_is_a_forward_pass_like_any_other() -> None:
    """A trainer whose slice of a short batch is empty gives no logits and zero gradients."""
    model = DLRM(layout(), num_dense=5)
    logits = model(torch.empty(0, 5), embeddings(0, torch.randn(9, 4, requires_grad=True)))
    (logits.sum() * 0.0).backward()
    assert logits.shape == (0, 1)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_first_weights_are_the_papers() -> None:
    """W ~ N(0, sqrt(2 / (in + out))), b ~ N(0, sqrt(1 / out)), also after the interaction."""
    torch.manual_seed(0)
    model = DLRM(layout(), num_dense=50, bottom_mlp=(400, 300), over_mlp=(500,))
    assert model.dense_arch is not None
    layer = model.dense_arch.layers[2]
    assert isinstance(layer, torch.nn.Linear)
    assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / 700), rel=0.02)
    assert float(layer.bias.detach().std()) == pytest.approx(math.sqrt(1 / 300), rel=0.1)


def test_saved_weights_are_weights_only() -> None:
    """Index tables are no part of a checkpoint."""
    assert all(name.endswith(("weight", "bias")) for name in DLRM(layout(), num_dense=5).state_dict())


def test_tables_that_cannot_interact_are_refused() -> None:
    """Several widths, and features without pooling, name the table or widths and the remedy."""
    with pytest.raises(ConfigError, match="found 4, 8; give all tables one embeddingDim"):
        DLRM(layout((4, 8)), num_dense=5)
    unpooled = TableLayout.of([Table("a", 9, 4, ("a",)), Table("clicks", 9, 4, ("clicks",), "none")])
    with pytest.raises(ConfigError, match='found "none" for feature clicks; change its pooling'):
        DLRM(unpooled, num_dense=5)

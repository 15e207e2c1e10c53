"""Losses that compare examples equal plain loops over them, and so do their gradients."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bagpipe.config.model import ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.models.loss import loss_of

LOSS = loss_of(nn.Identity(), ModelConfig(loss="pairwise"))
SOFTMAX = loss_of(nn.Identity(), ModelConfig(loss="in-batch-softmax"))


CHOICE = loss_of(nn.Identity(), ModelConfig(loss="softmax"))


@settings(deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3), max_size=5),
    chosen=st.lists(st.sampled_from([0, 1, 2, None]), min_size=5, max_size=5),
    weighted=st.booleans(),
)
def test_softmax_is_a_loop_over_candidates(rows: list[list[float]], chosen: list[int | None], weighted: bool) -> None:
    """One of three candidates, or none, which is a term of 0; with weights of 0 and without examples."""
    outputs = torch.tensor(rows, dtype=torch.float32).reshape(-1, 3).requires_grad_()
    labels, weights = torch.zeros(len(rows), 3), torch.tensor([0.0, 2.0, 1.0, 0.0, 0.5])[: len(rows)]
    terms = []
    for number, (scores, one) in enumerate(zip(rows, chosen, strict=False)):
        if one is not None:
            labels[number, one] = 1.0
        terms.append(0.0 if one is None else math.log(sum(map(math.exp, scores))) - scores[one])
    counts = weights.tolist() if weighted else [1.0] * len(rows)
    expected = sum(t * c for t, c in zip(terms, counts, strict=True)) / sum(counts) if sum(counts) else 0.0
    loss = CHOICE(outputs, labels, weights if weighted else None)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    loss.backward()
    assert outputs.grad is not None and bool(torch.isfinite(outputs.grad).all())


def slow_pairwise(
    outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None, groups: torch.Tensor | None
) -> torch.Tensor:
    """One pair after the other."""
    total, terms = 0.0, torch.zeros((), dtype=torch.float64)
    for i in range(len(outputs)):
        for j in range(len(outputs)):
            if labels[i] > labels[j] and (groups is None or groups[i] == groups[j]):
                weight = 1.0 if weights is None else float(weights[i]) * float(weights[j])
                terms = terms - weight * torch.log(torch.sigmoid((outputs[i] - outputs[j]).double()))
                total += weight
    return terms / total if total else terms


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.floats(-3, 3, width=32),
            st.sampled_from([0.0, 0.5, 1.0]),
            st.sampled_from([0.0, 0.5, 2.0]),
            st.integers(0, 2),
        ),
        max_size=7,
    ),
    weighted=st.booleans(),
    grouped=st.booleans(),
)
def test_pairwise_is_a_loop_over_pairs(
    rows: list[tuple[float, float, float, int]], weighted: bool, grouped: bool
) -> None:
    """With equal labels, with weights of 0, with groups of one example, and with no pair, which is a loss of 0."""
    table = np.array(rows, np.float64).reshape(-1, 4)
    outputs = torch.tensor(table[:, :1], dtype=torch.float32, requires_grad=True)
    labels, weights = torch.tensor(table[:, 1:2]).float(), torch.tensor(table[:, 2]).float() if weighted else None
    groups = torch.tensor(table[:, 3]).long() if grouped else None
    loss = LOSS(outputs, labels, weights, groups)
    again = outputs.detach().clone().requires_grad_()
    expected = slow_pairwise(again[:, 0], labels[:, 0], weights, groups)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    (found,) = torch.autograd.grad(loss, outputs)
    (wanted,) = torch.autograd.grad(expected, again, allow_unused=True) if expected.requires_grad else (None,)
    torch.testing.assert_close(found, torch.zeros_like(found) if wanted is None else wanted, atol=1e-5, rtol=1e-4)


def test_each_label_has_its_own_pairs() -> None:
    """Two labels are the mean of two losses, multiplied by their factors first."""
    torch.manual_seed(1)
    outputs, labels = torch.randn(6, 2), (torch.rand(6, 2) < 0.5).float()
    alone = [LOSS(outputs[:, one : one + 1], labels[:, one : one + 1]) for one in (0, 1)]
    torch.testing.assert_close(LOSS(outputs, labels), (alone[0] + alone[1]) / 2)
    weighed = loss_of(nn.Identity(), ModelConfig(loss="pairwise", task_weights=(1.0, 0.25)))
    torch.testing.assert_close(weighed(outputs, labels), (alone[0] + 0.25 * alone[1]) / 2)


@pytest.mark.parametrize("weighted", [False, True])
def test_in_batch_softmax_is_a_loop_over_examples(weighted: bool) -> None:
    """Each user against every item of the slice; an example with label 0 is a negative alone."""
    torch.manual_seed(2)
    products, labels = torch.randn(5, 5), torch.tensor([[1.0], [0.0], [1.0], [0.3], [1.0]])
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0]) if weighted else None
    counts = [1.0] * 5 if weights is None else weights.tolist()
    total = 0.0
    for i in range(5):
        shares = [math.exp(float(x)) for x in products[i]]
        total -= counts[i] * float(labels[i]) * math.log(shares[i] / sum(shares))
    assert float(SOFTMAX(products, labels, weights)) == pytest.approx(total / sum(counts), rel=1e-5)
    assert float(SOFTMAX(products[:0, :0], labels[:0])) == 0.0


def test_other_shapes_are_refused() -> None:
    """One line names the model and what it should give."""
    labels = torch.ones(4, 1)
    with pytest.raises(
        ConfigError, match=r"model Identity: the loss in-batch-softmax expects outputs of shape \[4, 4\]"
    ):
        SOFTMAX(torch.zeros(4, 1), labels)
    with pytest.raises(ConfigError, match="in-batch-softmax: expected one label, found 2"):
        SOFTMAX(torch.zeros(4, 4), torch.ones(4, 2))
    with pytest.raises(ConfigError, match=r"expected logits of shape \[4, 1\]"):
        LOSS(torch.zeros(4), labels)


@pytest.mark.parametrize("loss", [None, "mse", "softmax", "pairwise"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_outputs_that_are_no_real_numbers_are_named(loss: Any, dtype: torch.dtype) -> None:
    """torch said which of its kernels lacks the type, or rounded in silence."""
    chosen = loss_of(nn.Identity(), ModelConfig(loss=loss))
    with pytest.raises(ConfigError, match=f"model Identity: forward: expected floating-point numbers, found {dtype}"):
        chosen(torch.ones(4, 2, dtype=dtype), torch.ones(4, 2))

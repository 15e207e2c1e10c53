"""What a loop's own `evaluate` may give, and which losses it may train on."""

import numpy as np
import pytest
import torch

from bagpipe.errors import ConfigError, UserCodeError
from bagpipe.trainer.loop_words import backward, loss_to_train, reported_loss, scored


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (np.zeros((3, 1)), "ndarray"),
        ((torch.zeros(3, 1),), "tuple"),
        (torch.zeros(3, 1, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(3, 1, dtype=torch.bool), "torch.bool"),
        (torch.zeros(3), r"\[3\]"),
    ],
    ids=["array", "tuple", "complex", "bool", "shape"],
)
def test_what_is_no_logits_is_told(given: object, found: str) -> None:
    """In one line; it was an attribute error, or figures of something else."""
    with pytest.raises(ConfigError, match=rf"evaluate: expected .*logits of shape \[3, 1\], found {found}"):
        scored(given, [3, 1])
    out = scored(torch.full((3, 1), 0.5, dtype=torch.bfloat16, requires_grad=True), [3, 1])
    assert out.dtype == np.float32 and out.tolist() == [[0.5]] * 3


WEIGHT = torch.ones(2, requires_grad=True)


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (0.5, "float 0.5; compute it of the model's outputs, without float"),
        (3, "int 3;"),
        (None, "NoneType None;"),
        (WEIGHT * 2, r"a tensor of shape \[2\]; take the mean over the examples"),
        (torch.tensor(3), "a tensor of torch.int64;"),
        (WEIGHT.sum().detach(), "one that depends on no row and no weight that is trained; .* without detach"),
    ],
)
def test_a_loss_that_trains_nothing_is_told(loss: object, found: str) -> None:
    """In one line with the loop's own; it was an error of torch's, or an attribute that a number does not have."""
    said = rf"^{__file__}:\d+ \(test_\w+\): session.train: expected the loss, a tensor of one number .*, found {found}"
    with pytest.raises(UserCodeError, match=said):
        loss_to_train(loss)


def test_a_batch_is_trained_on_once() -> None:
    """Torch's own words about a graph that is gone come with the place, and with what to do."""
    loss = loss_to_train((WEIGHT * WEIGHT).sum())
    backward(loss, 0.5)
    assert WEIGHT.grad is not None and WEIGHT.grad.tolist() == [1.0, 1.0]
    with pytest.raises(UserCodeError, match=rf"^{__file__}:\d+ .*second time.*: add its losses up$"):
        backward(loss, 0.5)


def test_a_loss_that_is_told_is_a_number() -> None:
    """Of any type that Python makes one of; a tensor of several, or a text, was an error of Python's or torch's."""
    assert reported_loss(torch.tensor([0.5], dtype=torch.bfloat16)) == reported_loss(np.float32(0.5)) == 0.5
    for loss, found in ((torch.zeros(2), r"a tensor of shape \[2\]"), (None, "NoneType"), ("low", "str")):
        with pytest.raises(UserCodeError, match=rf"^{__file__}:\d+ .*expected the batch's mean loss, .*found {found}$"):
            reported_loss(loss)

"""What a model gives where it is evaluated: float32, or one line that says what was found instead."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.model import ModelConfig
from bagpipe.errors import DataError, UserCodeError
from bagpipe.models.precision import forward_of
from bagpipe.standalone.model import outputs_of

NO_ROWS = cast("SparseEmbeddings", None)


class Gives(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, _dense: torch.Tensor, _sparse: SparseEmbeddings) -> Any:
        return self.value


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        ((torch.zeros(3, 1), None), "tuple"),
        ({"logits": torch.zeros(3, 1)}, "dict"),
        (np.zeros((3, 1)), "ndarray"),
        (torch.zeros(3, 1, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(3, 1, dtype=torch.bool), "torch.bool"),
    ],
    ids=["tuple", "dict", "ndarray", "complex", "bool"],
)
def test_outputs_of_an_evaluation_that_are_no_numbers_are_refused_by_name(
    value: Any, found: str, precision: Any
) -> None:
    """In evaluation no loss looks at them: each was an attribute error of ours, or figures of something else."""
    model, forward = Gives(value), forward_of(ModelConfig(precision=precision))
    assert forward(model.train(), torch.zeros(3, 1), NO_ROWS) is value
    with pytest.raises(UserCodeError, match=f"model Gives: forward: expected .* found {found}; return one output"):
        forward(model.eval(), torch.zeros(3, 1), NO_ROWS)
    with pytest.raises(DataError, match=f"the model gives {found}; expected a tensor"):
        outputs_of(value, 3, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_outputs_of_another_width_become_float32(dtype: torch.dtype) -> None:
    """Training, evaluation and an export take the same numbers, whatever floats the model computes in."""
    value = torch.tensor([[0.5], [-2.0]], dtype=dtype)
    out = forward_of(ModelConfig())(Gives(value).eval(), torch.zeros(2, 1), NO_ROWS)
    assert out.dtype == torch.float32
    assert np.array_equal(outputs_of(value, 2, 1), out.numpy())


def test_an_export_says_which_outputs_fit_no_label() -> None:
    """Numbers that cannot be laid out as one for each label are told with both shapes."""
    with pytest.raises(DataError, match=r"the model gives \[3, 2\] for 3 examples of 1 labels"):
        outputs_of(torch.zeros(3, 2), 3, 1)

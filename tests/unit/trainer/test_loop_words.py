"""What a loop's own `evaluate` may give."""

import numpy as np
import pytest
import torch

from bagpipe.errors import ConfigError
from bagpipe.trainer.loop_words import scored


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

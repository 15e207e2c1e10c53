"""A slice without examples: of a last batch that has fewer examples than there are trainers.

Its trainer takes part in the step, as all must, but no model has to make something of no examples: many cannot, such as
one that reshapes with `view(len(x), -1)` or takes a maximum.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def nothing_to_compute(model: nn.Module, rows: Callable[[Any], Sequence[torch.Tensor]], step: Any) -> Iterator[None]:
    """Inside, the model gives no logits, `[0, 1]`, from which backward reaches the rows; DDP adds the weights.

    Args:
        rows: of a step, as leaves.
    """

    def forward(*_: object) -> torch.Tensor:
        return torch.stack([leaf.sum() for leaf in rows(step)]).sum().view(1, 1).expand(0, 1)

    before = vars(model).get("forward")
    model.forward = forward
    try:
        yield
    finally:
        del model.forward
        if before is not None:
            model.forward = before

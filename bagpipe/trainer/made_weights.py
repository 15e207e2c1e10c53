"""Refuses a model that makes, replaces, freezes or frees weights while it is trained: they would not be trained.

The optimizer, the sum over trainers and the checkpoints go by the weights that the model had when it was built. One
that `forward` makes at its first call, for instance, would keep its first value, in silence, on each trainer another.
"""

from torch import nn

from bagpipe.errors import UserCodeError
from bagpipe.trainer.user_code import definition_of


class MadeWeights:
    """The dense weights as they are when the optimizer is made."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._weights = dict(model.named_parameters())
        self._trained = {name: weight.requires_grad for name, weight in self._weights.items()}

    def check(self, step: int) -> None:
        """Check that the model still has these weights.

        Args:
            step: number of steps trained, this one included.

        Raises:
            UserCodeError: names the first weight that is another.
        """
        changed = self._changed()
        if changed is None:
            return
        where = definition_of(self._model) or type(self._model).__name__
        raise UserCodeError(
            f"{where}: {changed} by step {step}, after the optimizer was made, so it would not be trained as it "
            "should; make all weights in the constructor, change them in place, and freeze them with "
            "spec.optimizer.overrides"
        )

    def _changed(self) -> str | None:
        now = dict(self._model.named_parameters())
        for name in [*self._weights, *now]:
            if name not in now:
                return f"weight {name} was removed"
            if name not in self._weights:
                return f"weight {name} was made"
            if now[name] is not self._weights[name]:
                return f"weight {name} was replaced"
            if now[name].requires_grad != self._trained[name]:
                return f"weight {name} was {'frozen' if self._trained[name] else 'freed'}"
        return None

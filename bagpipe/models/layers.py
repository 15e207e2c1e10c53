"""Layers that several models share: MLPs, and dropout and batch normalisation that keep a run reproducible.

First weights of linear layers are those of DLRM's paper: W ~ N(0, sqrt(2 / (in + out))), b ~ N(0, sqrt(1 / out)).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from bagpipe.errors import ConfigError
from bagpipe.tables import TableLayout

_MASK = (1 << 64) - 1
_MULTIPLIER = 0x94D049BB133111EB
_STRIDE = 0x9E3779B97F4A7C15


def mlp(num_inputs: int, widths: Sequence[int], *, last_is_linear: bool) -> nn.Sequential:
    """Linear layers with ReLU after each; none after the last if that is linear."""
    layers: list[nn.Module] = []
    for number, width in enumerate(widths):
        layers.append(linear(num_inputs, width))
        if not last_is_linear or number < len(widths) - 1:
            layers.append(nn.ReLU())
        num_inputs = width
    return nn.Sequential(*layers)


def linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    """A linear layer with first weights as stated above."""
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / (num_inputs + num_outputs)))
    nn.init.normal_(layer.bias, 0.0, math.sqrt(1.0 / num_outputs))
    return layer


def xavier(layer: nn.Linear) -> nn.Linear:
    """The layer with a matrix from Xavier's normal distribution and a bias of zero."""
    nn.init.xavier_normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def width_and_features(layout: TableLayout, model: str) -> tuple[int, int]:
    """The one width of all tables and the number of features.

    Raises:
        ConfigError: tables of several widths, or one without pooling.
    """
    widths = sorted({t.embedding_dim for t in layout.tables})
    if len(widths) != 1:
        found = ", ".join(map(str, widths)) or "no tables"
        raise ConfigError(
            f"model {model}: expected tables of one width, because vectors of different widths have no dot product; "
            f"found {found}; give all tables one embeddingDim or use a model of your own (model.entrypoint)"
        )
    check_pooled(layout, model)
    return widths[0], sum(len(t.feature_names) for t in layout.tables)


def check_pooled(layout: TableLayout, model: str) -> None:
    """Check that every feature is pooled.

    Raises:
        ConfigError: a feature has pooling "none".
    """
    for feature, pooling in layout.feature_pooling.items():
        if pooling == "none":
            raise ConfigError(
                f'model {model}: expected pooling "sum" or "mean", found "none" for feature {feature}; '
                "change its pooling or use a model of your own (model.entrypoint)"
            )


# ── dropout ───────────────────────────────────────────────────────────────────────────────────────


class Dropout(nn.Module):
    """Dropout whose mask is a pure function of (seed, step, layer, example of the global batch, unit).

    torch's own dropout draws from the process's one generator: a resumed run, another number of trainers, or two
    trainers in one process would draw other masks. `step_setter` tells this one the step and the example.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.key, self.first_example = 0, 0

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`[B, ...]` to the same shape; the identity outside training."""
        if not self.training or self.p == 0.0:
            return inputs
        kept = kept_units(self.key, self.first_example, inputs.shape[0], inputs[:1].numel(), self.p, inputs.device)
        return inputs * kept.view(inputs.shape) * (1.0 / (1.0 - self.p))


def kept_units(
    key: int, first_example: int, num_examples: int, num_units: int, p: float, device: torch.device
) -> torch.Tensor:
    """`[num_examples, num_units]` booleans, each true with probability 1 - p: a hash of its place, not a stream."""
    begin = first_example * num_units
    place = torch.arange(begin, begin + num_examples * num_units, device=device)
    kept = _mixed(place * _signed(_STRIDE) + _signed(key)).bitwise_and_(0xFFFFFF) >= round(p * (1 << 24))
    return kept.view(num_examples, num_units)


def step_setter(model: nn.Module, seed: int) -> Callable[[int, int], None]:
    """A function of (step, first example of the slice) that sets every `Dropout` of the model."""
    layers = [module for module in model.modules() if isinstance(module, Dropout)]

    def set_step(step: int, first_example: int) -> None:
        for number, layer in enumerate(layers):
            layer.key = hashed(hashed(hashed(seed) + step) + number)
            layer.first_example = first_example

    return set_step


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """The finaliser of splitmix64, roughly: two rounds are enough for a mask. Works in place."""
    for _ in range(2):
        x ^= (x >> 32) & 0xFFFFFFFF
        x *= _signed(_MULTIPLIER)
    x ^= (x >> 32) & 0xFFFFFFFF
    return x


def hashed(value: int) -> int:
    """64 bits that differ in about half their places for values that differ at all."""
    x = (value + _STRIDE) & _MASK
    for _ in range(2):
        x = ((x ^ (x >> 32)) * _MULTIPLIER) & _MASK
    return x ^ (x >> 32)


def _signed(value: int) -> int:
    """The same 64 bits as a signed integer, which is what torch multiplies (and lets overflow)."""
    return value - (1 << 64) if value >> 63 else value


# ── batch normalisation ───────────────────────────────────────────────────────────────────────────


class BatchNorm(nn.modules.batchnorm._BatchNorm):  # noqa: SLF001  # the public classes differ by a check of the shape
    """Batch normalisation over `[B, C, ...]`; a slice too small to have a variance uses the running statistics.

    Statistics are those of a trainer's own slice, as in DDP, so results depend on the number of trainers.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:  # noqa: A002  # torch's name
        pass

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # torch's name
        if self.training and input.numel() // self.num_features < 2:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)

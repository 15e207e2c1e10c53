"""FGCNN (Liu et al. 2019): convolutions over the list of fields make new features, then all pairs interact.

    for each channel number C: features -> Conv(kernel x 1) -> BatchNorm -> Tanh -> max pool
                               -> Linear, Tanh -> `recombined` new features for each that is left
    v     = fields and new features
    logit = MLP([products <v_i, v_j> of all pairs, v])

With 39 fields and the default range 14, 16, 18, 20 channels leave 20, 10, 5, 3 features: 39 + 76 = 115 vectors.
Dense features are not used; let them be looked up (`data.numericBins`, which gives Criteo its 39 fields).

Shapes: `B` examples, `C` channels, `H` features left, `D` embedding_dim, `L` labels.
"""

from collections.abc import Sequence

import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.models.base import register_model
from bagpipe.models.dlrm import InteractionArch, OverArch
from bagpipe.models.layers import BatchNorm, linear, width_and_features
from bagpipe.tables import TableLayout

CHANNELS = tuple(range(10, 27, 2))
"""From which `filter_range` takes a part."""


class FeatureGeneration(nn.Module):
    """One convolution and the new features made from it."""

    def __init__(
        self,
        channels: tuple[int, int],
        height: int,
        dim: int,
        kernel: int,
        pool: int,
        recombined: int,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(*channels, kernel_size=(kernel, 1), padding=(kernel // 2, 0))
        self.norm = BatchNorm(channels[1]) if batch_norm else nn.Identity()
        self.pool = nn.MaxPool2d((pool, 1), ceil_mode=True)
        self.height, self.dim, self.num_new = -(-height // pool), dim, -(-height // pool) * recombined
        self.recombine = linear(channels[1] * self.height * dim, self.num_new * dim)

    def forward(self, maps_BCHD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The pooled maps, input of the next convolution, and the new features `[B, new, D]`."""
        pooled_BCHD = self.pool(torch.tanh(self.norm(self.conv(maps_BCHD))))
        new = torch.tanh(self.recombine(pooled_BCHD.flatten(1)))
        return pooled_BCHD, new.view(-1, self.num_new, self.dim)


@register_model("fgcnn")
class FGCNN(nn.Module):
    """The whole model.

    Args:
        over_mlp: widths of the last MLP; the labels' number is appended.
        filter_range: `first-last`, inclusive, of `CHANNELS`: one convolution each.
        conv_kernel: fields that a convolution sees at once.
        pool_size: fields of which pooling keeps the largest value.
        recombined: new features for each field that pooling leaves.

    Raises:
        ConfigError: tables of several widths or without pooling, an empty range, an even kernel.
    """

    def __init__(
        self,
        layout: TableLayout,
        num_labels: int = 1,
        over_mlp: Sequence[int] = (4096, 2048, 1024, 512),
        filter_range: str = "2-5",
        conv_kernel: int = 7,
        pool_size: int = 2,
        recombined: int = 2,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        dim, num_features = width_and_features(layout, "fgcnn")
        if conv_kernel % 2 == 0:
            raise ConfigError(f"model fgcnn: expected an odd convKernel, found {conv_kernel}; use {conv_kernel + 1}")
        layers, before, height = [], 1, num_features
        for channels in channels_of(filter_range):
            layer = FeatureGeneration(
                (before, channels), height, dim, conv_kernel, pool_size, recombined, batch_norm=batch_norm
            )
            layers.append(layer)
            before, height = channels, layer.height
        self.generation = nn.ModuleList(layers)
        num_vectors = num_features + sum(layer.num_new for layer in layers)
        self.interaction_arch = InteractionArch(num_vectors)
        self.over_arch = OverArch(self.interaction_arch.num_pairs + num_vectors * dim, over_mlp, num_labels)

    def forward(self, _dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        fields_BTD = sparse.stacked()
        maps, vectors = fields_BTD.unsqueeze(1), [fields_BTD]
        for layer in self.generation:
            maps, new = layer(maps)
            vectors.append(new)
        vectors_BCD = torch.cat(vectors, dim=1)
        interactions = self.interaction_arch(vectors_BCD)
        logits_BL: torch.Tensor = self.over_arch(torch.cat([interactions, vectors_BCD.flatten(1)], dim=1))
        return logits_BL


def channels_of(filter_range: str) -> tuple[int, ...]:
    """`2-5` as 14, 16, 18, 20.

    Raises:
        ConfigError: not `first-last` within 0 and 8.
    """
    first, dash, last = filter_range.partition("-")
    whole = dash and first.isdecimal() and last.isdecimal()
    chosen = CHANNELS[int(first) : int(last) + 1] if whole else ()
    if not chosen or int(last) >= len(CHANNELS):
        raise ConfigError(
            f"model fgcnn: expected filterRange as first-last within 0-{len(CHANNELS) - 1}, found {filter_range!r}; "
            "the original's is 2-5"
        )
    return chosen

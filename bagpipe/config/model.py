"""Settings of the dense model: which one, its sizes and its options. Part of the single source (`bagpipe/config/document.py`).

A setting that is left out takes the model's own default, which its class states; one that the model does not
have is refused.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from bagpipe.config import bounds
from bagpipe.config.pods import Section

_Widths = tuple[bounds.Units, ...]

MODEL_SETTINGS: dict[str, tuple[str, ...]] = {
    "dlrm": ("bottomMlp", "overMlp", "interaction", "interactionItself"),
    "wdl": ("bottomMlp", "deepInputs"),
    "dcn": ("bottomMlp", "overMlp", "crossLayers", "crossRank"),
    "deepfm": ("overMlp", "dropout", "batchNorm"),
    "fgcnn": ("overMlp", "filterRange", "convKernel", "poolSize", "recombined", "batchNorm"),
    "caser": ("sequenceLength", "verticalFilters", "horizontalFilters", "dropout"),
}
"""Which settings each shipped model has; its class takes the same names (a test holds them together)."""

OWN_LOSS = ("caser",)
"""Shipped models whose loss is part of their definition."""


class ModelConfig(Section):
    """The dense model. It receives pooled embeddings and knows nothing of caching."""

    name: Annotated[
        str,
        Meta(
            description="A registered model: dlrm, wdl, dcn, deepfm, fgcnn, caser, or one added with `register_model`."
        ),
    ] = "dlrm"
    entrypoint: Annotated[
        str | None, Meta(description="A model of your own as `package.module:Class`; replaces `name`.")
    ] = None
    args: Annotated[dict[str, Any], Meta(description="Keyword arguments for the model's constructor.")] = {}
    bottom_mlp: Annotated[
        _Widths | None,
        Meta(
            description="Widths of the MLP over dense features. dlrm (default 512, 256) and dcn (1024, 512, 256, 64): the embedding "
            "width is appended; wdl: the deep part (256, 256, 256)."
        ),
    ] = None
    over_mlp: Annotated[
        _Widths | None,
        Meta(
            description="Widths of the last MLP; the single logit is appended. dlrm (default 512, 256), dcn (1024, 512, 256), "
            "deepfm (64, 64, 64), fgcnn (4096, 2048, 1024, 512)."
        ),
    ] = None
    interaction: Annotated[
        Literal["dot", "cat"] | None,
        Meta(description="dlrm: dot products of all pairs of vectors (the default), or the vectors side by side."),
    ] = None
    interaction_itself: Annotated[
        bool | None,
        Meta(description="dlrm with interaction dot: also each vector's product with itself (default false)."),
    ] = None
    deep_inputs: Annotated[
        Literal["dense", "all"] | None,
        Meta(description="wdl: the deep part sees the dense features (the default), or the embeddings too."),
    ] = None
    cross_layers: Annotated[bounds.Layers | None, Meta(description="dcn: layers of the cross net (default 2).")] = None
    cross_rank: Annotated[bounds.Units | None, Meta(description="dcn: rank of each cross layer's matrix (default 8).")] = None
    filter_range: Annotated[
        Annotated[str, Meta(pattern="^[0-8]-[0-8]$")] | None,
        Meta(
            description="fgcnn: first and last of the convolutions with 10, 12, ..., 26 channels, from 0 (default 2-5: 14, 16, 18, 20)."
        ),
    ] = None
    conv_kernel: Annotated[
        bounds.Features | None, Meta(description="fgcnn: features that a convolution sees at once; odd (default 7).")
    ] = None
    pool_size: Annotated[
        bounds.PooledFeatures | None,
        Meta(description="fgcnn: features of which pooling keeps the largest value (default 2)."),
    ] = None
    recombined: Annotated[
        bounds.Features | None,
        Meta(description="fgcnn: new features made from each feature that is left after pooling (default 2)."),
    ] = None
    sequence_length: Annotated[
        bounds.Items | None,
        Meta(description="caser: items of the history, at most; shorter ones are filled with zeros (default 10)."),
    ] = None
    vertical_filters: Annotated[bounds.Units | None, Meta(description="caser: vertical filters (default 16).")] = None
    horizontal_filters: Annotated[
        bounds.Units | None,
        Meta(description="caser: horizontal filters of each height from 1 to `sequenceLength` (default 64)."),
    ] = None
    dropout: Annotated[
        bounds.Fraction | None,
        Meta(
            description="deepfm, caser: share of the activations set to zero while training (default 0.5). Masks depend on seed, step and example alone."
        ),
    ] = None
    batch_norm: Annotated[
        bool | None,
        Meta(
            description="deepfm, fgcnn: normalise by the statistics of each trainer's slice, which depend on the number of trainers (default true)."
        ),
    ] = None
    loss: Annotated[
        Literal["bce", "mse", "squared-error", "poisson"] | None,
        Meta(
            description="bce: binary cross-entropy of the logits (the default); mse: squared error of the probability; squared-error: of the output itself, "
            "for any value; poisson: for counts, the output is the logarithm of the expected one. caser has its own."
        ),
    ] = None
    task_weights: Annotated[
        tuple[bounds.RateOrZero, ...],
        Meta(description="Factor of each label's loss, in the order of the labels; empty: 1 each. Not for a model with a loss of its own."),
    ] = ()

"""Settings of the dense model: its name, its sizes and its options. Part of the single source (`bagpipe/config/document.py`).

A setting that is left out takes the model's own default, which its class states; one that the model does not have is
refused.
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
    "dcnv2": ("overMlp", "crossLayers", "crossStructure"),
    "autoint": ("overMlp", "attentionLayers", "attentionHeads", "attentionDim"),
    "din": ("targetFeatures", "historyFeatures", "attentionMlp", "overMlp"),
    "two-tower": ("itemFeatures", "towerMlp", "temperature", "normalise", "negatives", "logQ"),
    "mmoe": ("experts", "expertMlp", "towerMlp"),
    "sasrec": ("historyFeatures", "sequenceLength", "positions", "attentionLayers", "attentionHeads", "dropout"),
}
"""Which settings each shipped model has; its class takes the same names (a test holds them together)."""

OWN_LOSS = ("caser",)
"""Shipped models whose loss is part of their definition."""


class ModelConfig(Section):
    """The dense model. It receives pooled embeddings and knows nothing of caching."""

    name: Annotated[
        str,
        Meta(
            description="A registered model: dlrm, wdl, dcn, deepfm, fgcnn, caser, dcnv2, autoint, din, two-tower, mmoe, sasrec, or one added with `register_model`."
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
            "deepfm (64, 64, 64), fgcnn (4096, 2048, 1024, 512), din (200, 80), dcnv2: the deep part (768, 768); autoint: a deep part beside the attention (none)."
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
    cross_layers: Annotated[bounds.Layers | None, Meta(description="dcn (default 2), dcnv2 (3): layers of the cross net.")] = None
    cross_structure: Annotated[
        Literal["parallel", "stacked"] | None,
        Meta(description="dcnv2: the deep part beside the cross net (the default), or behind it."),
    ] = None
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
        Meta(description="caser (default 10), sasrec (50): items of the history, at most; shorter ones are filled up."),
    ] = None
    vertical_filters: Annotated[bounds.Units | None, Meta(description="caser: vertical filters (default 16).")] = None
    horizontal_filters: Annotated[
        bounds.Units | None,
        Meta(description="caser: horizontal filters of each height from 1 to `sequenceLength` (default 64)."),
    ] = None
    dropout: Annotated[
        bounds.Fraction | None,
        Meta(
            description="deepfm, caser (default 0.5), sasrec (0.2): share of the activations set to zero while training. Masks depend on seed, step and example alone."
        ),
    ] = None
    batch_norm: Annotated[
        bool | None,
        Meta(
            description="deepfm, fgcnn: normalise by the statistics of each trainer's slice, which depend on the number of trainers (default true)."
        ),
    ] = None
    attention_layers: Annotated[
        bounds.Layers | None, Meta(description="autoint (default 3), sasrec (2): layers of self-attention.")
    ] = None
    attention_heads: Annotated[
        bounds.Units | None, Meta(description="autoint (default 2), sasrec (1): heads of each layer; sasrec: they divide the width.")
    ] = None
    attention_dim: Annotated[bounds.Units | None, Meta(description="autoint: units of each head (default 16).")] = None
    attention_mlp: Annotated[
        _Widths | None,
        Meta(description="din: widths of the MLP that weighs an item of the history against the target (default 80, 40); the weight is appended."),
    ] = None
    target_features: Annotated[
        tuple[str, ...] | None,
        Meta(description="din: the item in question, one lookup an example; with several histories one for each. May share its history's table."),
    ] = None
    history_features: Annotated[
        tuple[str, ...] | None,
        Meta(description="din: the user's last items, one feature for each target; sasrec: the one feature that is the history. Their tables have pooling none."),
    ] = None
    item_features: Annotated[
        tuple[str, ...] | None,
        Meta(description="two-tower: features of the item's tower; all others, and dense features, are the user's."),
    ] = None
    tower_mlp: Annotated[
        _Widths | None,
        Meta(description="two-tower: widths of each tower, its vector's last (default 64, 32); mmoe: of each label's own MLP, the logit is appended (64)."),
    ] = None
    temperature: Annotated[bounds.Rate | None, Meta(description="two-tower: divides the product of the towers' vectors (default 1).")] = None
    normalise: Annotated[
        bool | None, Meta(description="two-tower: give each tower's vector length one, so that the product is a cosine (default false).")
    ] = None
    negatives: Annotated[
        Literal["none", "in-batch"] | None,
        Meta(description="two-tower: in-batch: its loss is the softmax over the items of the slice, which depends on the number of trainers (default none)."),
    ] = None
    log_q: Annotated[
        bool | None,
        Meta(description="two-tower with negatives in-batch: the last dense feature is the logarithm of the item's share of the examples (`count: log-share` of `data.columns.dense`), and corrects the softmax (default false)."),
    ] = None
    experts: Annotated[bounds.Units | None, Meta(description="mmoe: experts that the labels share (default 8).")] = None
    expert_mlp: Annotated[_Widths | None, Meta(description="mmoe: widths of each expert (default 256, 128).")] = None
    positions: Annotated[
        bounds.Items | None,
        Meta(description="sasrec: places at the end of the history whose next items are candidates; they divide the number of labels (default 1)."),
    ] = None
    precision: Annotated[
        Literal["float32", "bfloat16"],
        Meta(
            description="bfloat16: the model runs under torch.autocast; weights, rows, the loss and every update stay in float32."
        ),
    ] = "float32"
    loss: Annotated[
        Literal["bce", "mse", "squared-error", "poisson", "softmax", "pairwise", "in-batch-softmax"] | None,
        Meta(
            description="bce: binary cross-entropy of the logits (the default); mse: squared error of the probability; squared-error: of the output itself, "
            "for any value; poisson: for counts, the output is the logarithm of the expected one; softmax: the labels of an example are candidates, one of which was chosen (the item and sampled negatives); pairwise: each pair of examples of a trainer's slice with other labels, in one group of `data.columns.group` where there is one; "
            "in-batch-softmax: each example's user against the items of all examples of the slice, for a model that gives [B, B] in training. The last two depend on the number of trainers. caser has its own."
        ),
    ] = None
    task_weights: Annotated[
        tuple[bounds.RateOrZero, ...],
        Meta(description="Factor of each label's loss, in the order of the labels; empty: 1 each. Not for a model with a loss of its own."),
    ] = ()

"""What the losses that a job can choose require of labels, and which figures an evaluation has with each. No torch.

The formulas are in `bagpipe.models.loss`. A model's own loss may take any label, and is in no table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from bagpipe.config.model import OWN_LOSS, ModelConfig
from bagpipe.errors import ConfigError

Figures = Literal["clicks", "values", "counts", "choices"]
"""What the model's output is. clicks: the log-odds of a probability; values: the value itself; counts: the logarithm of
an expected count; choices: a score that orders the candidates of one example and says nothing of other examples'."""


CHOICE = "softmax"
"""The loss whose labels are candidates of one example."""
LARGEST = 3.4028234663852886e38
"""The largest finite float32, the type of labels."""


@dataclass(frozen=True, slots=True)
class LossKind:
    """One loss of the job document; labels lie in [least, greatest]."""

    name: str
    figures: Figures
    least: float = 0.0
    greatest: float = 1.0
    instead: str = "set loss squared-error or poisson for values, or make labels of 0 and 1 by a rule in data.columns"
    """What to do about a label outside."""


LOSSES = {
    kind.name: kind
    for kind in (
        LossKind("bce", "clicks"),
        LossKind("mse", "clicks"),
        LossKind("pairwise", "clicks"),
        LossKind("in-batch-softmax", "clicks"),
        LossKind(CHOICE, "choices", instead="give 1 to the candidate that was chosen and 0 to the others"),
        LossKind("squared-error", "values", -LARGEST, LARGEST, "remove the example"),
        LossKind("poisson", "counts", 0.0, LARGEST, "use the loss squared-error for values of any sign"),
    )
}


LABEL_KINDS: dict[Figures, tuple[str, ...]] = {
    "clicks": ("binary",),
    "values": ("binary", "count", "real"),
    "counts": ("binary", "count"),
    "choices": ("binary",),
}
"""Kinds of label columns (`data.columns.labels[].kind`) that a loss with such figures takes."""


def loss_kind(model: ModelConfig) -> LossKind | None:
    """The loss that the job trains for; None where only the model knows whether it brings its own."""
    if model.loss is not None:
        return LOSSES[model.loss]
    if model.entrypoint is not None or model.name in OWN_LOSS:
        return None
    return LOSSES["bce"]


def label_findings(model: ModelConfig, num_labels: int) -> Iterator[tuple[str, str]]:
    """Candidates of which there is only one, and `taskWeights` that are not one for each label: setting and problem."""
    if model.loss == CHOICE and num_labels < 2:
        yield (
            "spec.model.loss",
            f"softmax: the labels are candidates, one of which was chosen, but the data has {num_labels}; name more",
        )
    given = len(model.task_weights)
    if given and given != num_labels:
        yield (
            "spec.model.taskWeights",
            f"{given} factors, but the data has {num_labels} labels; give one for each label",
        )


def check_labels(model: ModelConfig, num_labels: int) -> None:
    """Refuse a job whose loss does not fit the number of its labels.

    Raises:
        ConfigError: the first of `label_findings`.
    """
    for setting, problem in label_findings(model, num_labels):
        raise ConfigError(f"{setting}: {problem}")


def task_names(model: ModelConfig, label_names: Sequence[str]) -> Sequence[str]:
    """Names of the tasks that have figures of their own: the labels, or the one task whose candidates they are."""
    return label_names[:1] if labels_are_candidates(model, len(label_names)) else label_names


def labels_are_candidates(model: ModelConfig, num_labels: int) -> bool:
    """Whether the labels of an example belong to candidates of one task, and not to a task each."""
    of_model = model.entrypoint is None and model.name in OWN_LOSS
    return num_labels > 1 and (of_model or model.loss == CHOICE)

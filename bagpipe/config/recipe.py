"""Settings of a training recipe: optimizers and how their learning rates change. Part of the single source
(`bagpipe/config/document.py`).
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, structs

from bagpipe.config import bounds
from bagpipe.config.pods import Section

OWN_SCHEDULES: dict[str, tuple[str, ...]] = {
    "constant": (),
    "step": ("every", "milestones", "gamma"),
    "cosine": ("decaySteps", "finalFactor"),
    "polynomial": ("decaySteps", "finalFactor", "power"),
}
"""Schedules of our own, and which settings each has beside the warm-up."""

TORCH_SCHEDULES = (
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "SequentialLR",
    "StepLR",
)
"""Classes of `torch.optim.lr_scheduler` that depend on the step alone (a test holds them and torch's together)."""


class Schedule(Section):
    """How a learning rate changes: `lr` times a factor that depends on the number of the step alone."""

    name: Annotated[str, Meta(description="constant; step: times `gamma` again and again; cosine: half a wave down to `finalFactor`; polynomial: (1 - share of `decaySteps` done)^`power`; or a class of torch.optim.lr_scheduler, such as OneCycleLR, with `args`.")] = "constant"
    warmup_steps: Annotated[bounds.StepsOrNever, Meta(description="Steps in which the factor first rises in a straight line to 1. What follows counts from their end.")] = 0
    warmup_from: Annotated[bounds.RateOrZero, Meta(description="Where that line begins: step s of n has the factor from + (1 - from)(s + 1)/n.")] = 0.0
    decay_steps: Annotated[bounds.Steps | None, Meta(description="cosine, polynomial: steps until `finalFactor` is reached, which then stays. none: to the job's last step.")] = None
    final_factor: Annotated[bounds.RateOrZero, Meta(description="cosine, polynomial: factor at the end.")] = 0.0
    power: Annotated[bounds.Exponent, Meta(description="polynomial: 1 is a straight line.")] = 1.0
    every: Annotated[bounds.Steps | None, Meta(description="step: steps between two changes.")] = None
    milestones: Annotated[tuple[bounds.Steps, ...], Meta(description="step: instead of `every`, the steps at which it changes, rising.")] = ()
    gamma: Annotated[bounds.Rate, Meta(description="step: factor of each change.")] = 0.1
    args: Annotated[dict[str, Any], Meta(description="torch's classes: arguments of the constructor. `schedulers` is a list of {name, args}; `lr_lambda` is `package.module:function`.")] = {}


class RowOptimizer(Section):
    """How rows are updated. State belongs to the row and travels with it."""

    name: Annotated[Literal["sgd", "adagrad", "rowwise-adagrad", "adam"], Meta(description="Equal to torch's own sparse result: SGD, Adagrad, torchrec's row-wise Adagrad, SparseAdam.")] = "adagrad"
    lr: Annotated[bounds.Rate, Meta(description="Learning rate.")] = 0.01
    momentum: Annotated[bounds.Fraction, Meta(description="sgd only: momentum, which acts on a row only at steps that use it.")] = 0.0
    eps: Annotated[bounds.Rate, Meta(description="adagrad, rowwise-adagrad, adam: added to the denominator.")] = 1e-10
    beta1: Annotated[bounds.Fraction, Meta(description="adam: decay of the first moment.")] = 0.9
    beta2: Annotated[bounds.Fraction, Meta(description="adam: decay of the second moment.")] = 0.999
    initial_accumulator: Annotated[bounds.RateOrZero, Meta(description="adagrad, rowwise-adagrad: starting value of the accumulator.")] = 0.0
    weight_decay: Annotated[bounds.RateOrZero, Meta(description="Decoupled and lazy: a row is multiplied by 1 - rate x weightDecay at each step that uses it, before its update.")] = 0.0
    clip_value: Annotated[bounds.Rate | None, Meta(description="Each number of a row's gradient is clamped to [-clipValue, clipValue], after the sum over trainers.")] = None
    clip_norm: Annotated[bounds.Rate | None, Meta(description="A row's gradient that is longer is scaled to this length, after `clipValue`; row by row.")] = None
    schedule: Schedule = Schedule()


class RowOptimizerChange(Section):
    """What differs from `embedding.optimizer`; settings that are left out stay. With another `name`, settings that only the old optimizer has are dropped."""

    name: Annotated[Literal["sgd", "adagrad", "rowwise-adagrad", "adam"] | None, Meta(description="Another optimizer. Rows of one width have room for the one with most state.")] = None
    lr: Annotated[bounds.Rate | None, Meta(description="Learning rate.")] = None
    momentum: Annotated[bounds.Fraction | None, Meta(description="sgd only.")] = None
    eps: Annotated[bounds.Rate | None, Meta(description="adagrad, rowwise-adagrad, adam.")] = None
    beta1: Annotated[bounds.Fraction | None, Meta(description="adam.")] = None
    beta2: Annotated[bounds.Fraction | None, Meta(description="adam.")] = None
    initial_accumulator: Annotated[bounds.RateOrZero | None, Meta(description="adagrad, rowwise-adagrad.")] = None
    weight_decay: Annotated[bounds.RateOrZero | None, Meta(description="Decoupled and lazy.")] = None
    clip_value: Annotated[bounds.Rate | None, Meta(description="Bound of each number of a row's gradient.")] = None
    clip_norm: Annotated[bounds.Rate | None, Meta(description="Bound of the length of a row's gradient.")] = None
    schedule: Schedule | None = None


def changed_optimizer(optimizer: RowOptimizer, change: RowOptimizerChange) -> RowOptimizer:
    """The optimizer with what the change gives."""
    given = {name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not None}
    if given.get("name", optimizer.name) != optimizer.name:
        every = ("lr", "weight_decay", "clip_value", "clip_norm", "schedule")
        optimizer = RowOptimizer(**{name: getattr(optimizer, name) for name in every})
    return structs.replace(optimizer, **given)


class TableOverride(Section):
    """What is different for some tables."""

    tables: Annotated[tuple[str, ...], Meta(min_length=1, description="Names of tables, or patterns with * and ?. One that no table matches is an error.")]
    optimizer: RowOptimizerChange = RowOptimizerChange()
    init_scale: Annotated[bounds.RateOrZero | None, Meta(description="As `embedding.initScale`, for these tables; 0: rows begin as zeros.")] = None
    frozen: Annotated[bool | None, Meta(description="Rows are read and never updated.")] = None
    init_from: Annotated[str | None, Meta(description="File of first vectors for the one table that `tables` names: .npy [rows, width], or Parquet with `vector` and `row` or `value`. The oracle reads it.")] = None


class WarmStart(Section):
    """Weights of another run to begin with, as far as they fit. What was taken is printed, and kept as `warm-start.txt`."""

    run: Annotated[str, Meta(min_length=1, description="Its run directory, or one of its checkpoints. The oracle, and trainers for dense weights, read from it.")]
    tables: Annotated[dict[str, str], Meta(description="Tables that had another name there: the name here, then the one there.")] = {}


class DenseOverride(Section):
    """What is different for some dense weights."""

    parameters: Annotated[tuple[str, ...], Meta(min_length=1, description="Names of parameters of the model, or patterns with * and ?. One that none matches is an error.")]
    lr: Annotated[bounds.Rate | None, Meta(description="Learning rate.")] = None
    weight_decay: Annotated[bounds.RateOrZero | None, Meta(description="Weight decay.")] = None
    frozen: Annotated[bool | None, Meta(description="They are never updated.")] = None


class Average(Section):
    """An exponential moving average of the dense weights, which is what is evaluated, exported and predicted with."""

    decay: Annotated[bounds.Fraction, Meta(description="Share of the average that stays at each step; the first step's weights begin it.")] = 0.999


class DenseOptimizer(Section):
    """How the dense weights are updated (torch.optim)."""

    name: Annotated[Literal["sgd", "adagrad", "adam", "adamw"], Meta(description="torch.optim class.")] = "adam"
    lr: Annotated[bounds.Rate, Meta(description="Learning rate.")] = 0.001
    momentum: Annotated[bounds.Fraction, Meta(description="sgd only.")] = 0.0
    weight_decay: Annotated[bounds.RateOrZero, Meta(description="As in torch.optim: adamw decouples it, the others add it to the gradient.")] = 0.0
    clip_value: Annotated[bounds.Rate | None, Meta(description="Each number of the gradients is clamped to [-clipValue, clipValue], after the mean over trainers.")] = None
    clip_norm: Annotated[bounds.Rate | None, Meta(description="All dense gradients together are scaled to this length if they are longer, after `clipValue`. Rows do not count.")] = None
    schedule: Schedule = Schedule()
    overrides: Annotated[tuple[DenseOverride, ...], Meta(description="For some of the weights. All that match a weight apply to it, later ones last.")] = ()
    average: Annotated[Average | None, Meta(description="none: the weights themselves are evaluated.")] = None

"""A schedule is a pure function of the step, and torch's classes give torch's rates, whatever step comes first."""

import inspect
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from bagpipe.config.document import DataConfig, DenseOptimizer, EmbeddingConfig, JobSpec, RowOptimizer
from bagpipe.config.recipe import TORCH_SCHEDULES, Schedule
from bagpipe.config.recipe_rules import schedule_findings
from bagpipe.errors import ConfigError
from bagpipe.oracle.sizing.steps import settle_schedules
from bagpipe.trainer.dense import dense_optimizer
from bagpipe.trainer.schedules import DenseSchedule, factor, row_learning_rate

ARGS: dict[str, dict[str, Any]] = {
    "ChainedScheduler": {
        "schedulers": [
            {"name": "LinearLR", "args": {"total_iters": 4}},
            {"name": "ExponentialLR", "args": {"gamma": 0.9}},
        ]
    },
    "CosineAnnealingLR": {"T_max": 7},
    "CosineAnnealingWarmRestarts": {"T_0": 3, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3},
    "ExponentialLR": {"gamma": 0.9},
    "LambdaLR": {"lr_lambda": "math:cos"},
    "MultiStepLR": {"milestones": [2, 5, 6]},
    "MultiplicativeLR": {"lr_lambda": "math:cos"},
    "OneCycleLR": {"max_lr": 0.3, "total_steps": 12},
    "SequentialLR": {
        "schedulers": [{"name": "LinearLR", "args": {"total_iters": 3}}, {"name": "StepLR", "args": {"step_size": 2}}],
        "milestones": [3],
    },
    "StepLR": {"step_size": 3},
}
STEPS = 11


def made_by_hand(name: str, args: dict[str, Any], optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    import math

    made = {
        k: [made_by_hand(p["name"], p["args"], optimizer) for p in v] if k == "schedulers" else v
        for k, v in args.items()
    }
    if "lr_lambda" in made:
        made["lr_lambda"] = math.cos
    return getattr(lr_scheduler, name)(optimizer=optimizer, **made)


def test_every_class_of_torch_is_known() -> None:
    """Every scheduler that depends on the step alone can be named; the one that needs a metric cannot."""
    classes = {
        name
        for name, kind in vars(lr_scheduler).items()
        if inspect.isclass(kind) and issubclass(kind, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert set(TORCH_SCHEDULES) == classes - {"LRScheduler", "ReduceLROnPlateau"}


@pytest.mark.parametrize("name", TORCH_SCHEDULES)
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_torchs_classes_give_torchs_settings(name: str, kind: str) -> None:
    """Rates, momenta and betas of each step are those of a plain loop, also where a run begins in the middle."""
    config = DenseOptimizer(name=kind, lr=0.05, momentum=0.9 if kind == "sgd" else 0.0)
    schedule = Schedule(name=name, args=ARGS.get(name, {}))
    plain = dense_optimizer(config, torch.nn.Linear(2, 1))
    scheduler = made_by_hand(name, ARGS.get(name, {}), plain)
    expected = []
    for _ in range(STEPS):
        expected.append(
            {k: plain.param_groups[0][k] for k in ("lr", "momentum", "betas") if k in plain.param_groups[0]}
        )
        plain.step()
        scheduler.step()
    assert len({e["lr"] for e in expected}) > 1
    for first in (0, 7):
        optimizer = dense_optimizer(config, torch.nn.Linear(2, 1))
        ours = DenseSchedule(schedule, optimizer)
        for step in range(first, STEPS):
            ours.set(step)
            assert {k: optimizer.param_groups[0][k] for k in expected[step]} == expected[step]
    rate = row_learning_rate(RowOptimizer(name="sgd", lr=0.05, schedule=schedule))
    if kind == "sgd":
        assert [rate(step) for step in (4, 2, 10)] == [expected[step]["lr"] for step in (4, 2, 10)]


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Schedule(), [1, 1, 1]),
        (Schedule(warmup_steps=4), [0.25, 0.5, 0.75, 1, 1]),
        (Schedule(warmup_steps=2, warmup_from=0.5), [0.75, 1, 1]),
        (Schedule(name="step", every=2, gamma=0.5), [1, 1, 0.5, 0.5, 0.25]),
        (Schedule(name="step", milestones=(1, 3), gamma=0.5, warmup_steps=1, warmup_from=0.25), [1, 1, 0.5, 0.5, 0.25]),
        (Schedule(name="polynomial", decay_steps=4, final_factor=0.5), [1, 0.875, 0.75, 0.625, 0.5, 0.5]),
        (Schedule(name="polynomial", decay_steps=2, power=2.0, warmup_steps=1), [1, 1, 0.25, 0, 0]),
        (Schedule(name="cosine", decay_steps=2), [1, 0.5, 0, 0]),
        (Schedule(name="cosine", decay_steps=2, final_factor=0.5), [1, 0.75, 0.5, 0.5]),
    ],
)
def test_our_own_are_the_formulas_of_the_reference_page(schedule: Schedule, factors: list[float]) -> None:
    """The factor of each step, by hand."""
    assert [factor(schedule, step) for step in range(len(factors))] == pytest.approx(factors, abs=1e-15)


@pytest.mark.parametrize(
    ("schedule", "named"),
    [
        (Schedule(name="cosin"), "did you mean 'cosine'"),
        (Schedule(name="OneCycle"), "did you mean 'OneCycleLR'"),
        (Schedule(name="ReduceLROnPlateau"), "needs a metric"),
        (Schedule(name="step"), "either every or milestones"),
        (Schedule(name="step", every=3, milestones=(4,)), "either every or milestones"),
        (Schedule(name="step", milestones=(4, 4)), "rising steps"),
        (Schedule(warmup_from=0.5), "without warmupSteps"),
        (Schedule(power=2.0), "with schedule constant"),
        (Schedule(args={"gamma": 1}), "for classes of torch"),
        (Schedule(name="StepLR", warmup_steps=3), "takes all of it from args"),
    ],
)
def test_what_has_no_effect_is_refused_by_name(schedule: Schedule, named: str) -> None:
    """Contradictions, misspelt names and settings of another schedule."""
    assert any(named in problem for _, problem in schedule_findings("s", schedule))


@pytest.mark.parametrize(
    ("schedule", "named"),
    [
        (Schedule(name="StepLR"), "step_size"),
        (Schedule(name="StepLR", args={"stepsize": 3}), "stepsize"),
        (Schedule(name="LambdaLR", args={"lr_lambda": "nowhere:f"}), "nowhere"),
        (Schedule(name="SequentialLR", args={"schedulers": [3], "milestones": []}), "list of {name, args}"),
        (Schedule(name="ChainedScheduler", args={"schedulers": [{"name": "Plateau"}]}), "found 'Plateau'"),
    ],
)
def test_arguments_that_torch_refuses_are_a_mistake_in_the_job(schedule: Schedule, named: str) -> None:
    """One line that names the setting, not torch's traceback."""
    with pytest.raises(ConfigError, match=r"^spec.embedding.optimizer.schedule.args") as error:
        row_learning_rate(RowOptimizer(schedule=schedule))
    assert named in str(error.value)


def test_a_schedule_that_ends_early_says_so() -> None:
    """OneCycleLR knows its last step."""
    rate = row_learning_rate(RowOptimizer(schedule=Schedule(name="OneCycleLR", args={"max_lr": 1, "total_steps": 3})))
    assert rate(2) < rate(1)
    with pytest.raises(ConfigError, match="OneCycleLR at step 4"):
        rate(4)


def test_a_decay_without_a_length_ends_with_the_job() -> None:
    """Warm-up and decay together take all of the job's steps; where nobody knows them, they must be given."""
    row = RowOptimizer(schedule=Schedule(name="polynomial"))
    spec = JobSpec(
        data=DataConfig(),
        embedding=EmbeddingConfig(optimizer=row),
        optimizer=DenseOptimizer(schedule=Schedule(name="cosine", warmup_steps=3)),
    )
    settled = settle_schedules(spec, 20)
    assert settled.optimizer.schedule.decay_steps == 17
    assert settled.embedding.optimizer.schedule.decay_steps == 20
    assert settle_schedules(settled, 99) == settled
    assert settle_schedules(JobSpec(data=DataConfig()), None) == JobSpec(data=DataConfig())
    for steps, named in ((None, "decaySteps: missing"), (3, "leave none of the job's 3")):
        with pytest.raises(ConfigError, match=named):
            settle_schedules(spec, steps)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("StepLR", {"step_size": 0}),
        ("StepLR", {"step_size": "3"}),
        ("CosineAnnealingLR", {"T_max": 0}),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "step_size_up": 0}),
    ],
)
def test_arguments_with_which_torch_cannot_count_are_refused_by_their_setting(name: str, args: dict[str, Any]) -> None:
    """A division by zero in torch's class was an error of the library."""
    with pytest.raises(ConfigError, match=rf"spec.embedding.optimizer.schedule.*{name}"):
        row_learning_rate(RowOptimizer(lr=0.1, schedule=Schedule(name=name, args=args)))(1)

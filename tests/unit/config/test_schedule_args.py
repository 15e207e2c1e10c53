"""Arguments of torch's schedules are checked by name before any role starts, without torch."""

import inspect

import pytest
from torch.optim import lr_scheduler

from bagpipe.config.load import parse_job
from bagpipe.config.recipe import TORCH_SCHEDULES
from bagpipe.config.schedule_args import ARGUMENTS
from bagpipe.errors import ConfigError

JOB = """
spec:
  data: {format: synthetic}
  %s: {schedule: {name: %s, args: %s}}
"""


def test_every_class_is_known() -> None:
    """What may stand in a job is what is checked."""
    assert set(ARGUMENTS) == set(TORCH_SCHEDULES)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_are_those_of_torch(name: str) -> None:
    """Required ones are the constructor's without a default, the others have one."""
    parameters = inspect.signature(getattr(lr_scheduler, name)).parameters.values()
    free = [p for p in parameters if p.name not in ("optimizer", "last_epoch", "scale_fn")]
    needed = tuple(p.name for p in free if p.default is p.empty)
    assert ARGUMENTS[name] == (needed, tuple(p.name for p in free if p.name not in needed))


WRONG = [
    (
        "OneCycleLR",
        "{max_lr: 0.1, totl_steps: 9}",
        ".totl_steps: torch's OneCycleLR has none; did you mean 'total_steps'",
    ),
    ("OneCycleLR", "{total_steps: 9}", ": torch's OneCycleLR needs max_lr"),
    ("OneCycleLR", "{max_lr: 0.1, epochs: 9}", ": torch's OneCycleLR needs total_steps"),
    ("StepLR", "{step_size: 3, last_epoch: 4}", ".last_epoch: torch's StepLR has none; it takes step_size, gamma"),
    ("SequentialLR", "{milestones: [3], schedulers: 5}", ".schedulers: expected a list"),
    ("ChainedScheduler", "{schedulers: [{name: SetpLR}]}", ".schedulers[0]: expected {name, args}"),
    ("ChainedScheduler", "{schedulers: [{name: StepLR, args: 3}]}", ".schedulers[0].args: expected arguments"),
    ("ChainedScheduler", "{schedulers: [{name: StepLR}]}", ".schedulers[0].args: torch's StepLR needs step_size"),
]


@pytest.mark.parametrize(("name", "args", "said"), WRONG)
@pytest.mark.parametrize("where", ["optimizer", "embedding.optimizer"])
def test_a_wrong_argument_is_refused_when_the_job_is_read(where: str, name: str, args: str, said: str) -> None:
    """For dense weights and for rows, in a schedule within another one too."""
    text = JOB % ("optimizer", name, args)
    if where != "optimizer":
        text = text.replace("optimizer: {", "embedding: {optimizer: {", 1).rstrip() + "}\n"
    with pytest.raises(ConfigError) as refused:
        parse_job(text, "job.yaml")
    assert f"spec.{where}.schedule.args{said}" in str(refused.value)


def test_arguments_that_fit_are_accepted() -> None:
    """Also where total steps are told as epochs of so many steps."""
    fitting = "{max_lr: 0.1, epochs: 2, steps_per_epoch: 5}"
    parts = "{milestones: [4], schedulers: [{name: LinearLR}, {name: StepLR, args: {step_size: 2}}]}"
    for name, args in (("OneCycleLR", fitting), ("SequentialLR", parts)):
        assert parse_job(JOB % ("optimizer", name, args), "job.yaml").spec.optimizer.schedule.name == name

"""The dense part of the reference's step, as a plain PyTorch loop has it: every weight a parameter group of its own."""

from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bagpipe.config.recipe import DenseOptimizer
from bagpipe.testing.reference_schedules import scheduler_of

CLASSES = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


class ReferenceDense:
    """Clipping, optimizer, scheduler and average, in that order."""

    def __init__(self, config: DenseOptimizer, model: nn.Module) -> None:
        self.config, self.model = config, model
        groups: list[dict[str, Any]] = []
        for name, parameter in model.named_parameters():
            lr, decay = config.lr, config.weight_decay
            for one in config.overrides:
                if any(fnmatchcase(name, pattern) for pattern in one.parameters):
                    lr, decay = one.lr or lr, decay if one.weight_decay is None else one.weight_decay
                    parameter.requires_grad_(not one.frozen)
            if parameter.requires_grad:
                groups.append({"params": [parameter], "lr": lr, "weight_decay": decay})
        self.parameters = [group["params"][0] for group in groups]
        more = {"momentum": config.momentum} if config.name == "sgd" else {}
        self.optimizer = CLASSES[config.name](groups, lr=config.lr, **more) if groups else None
        self.averaged: AveragedModel | None = None
        if config.average is not None:
            average = get_ema_multi_avg_fn(config.average.decay)  # type: ignore[no-untyped-call]  # torch has not annotated it
            self.averaged = AveragedModel(model, multi_avg_fn=average)
        self.scheduler = scheduler_of(config.schedule, self.optimizer) if self.optimizer else None

    def step(self) -> None:
        """Update the weights with the parameters' gradients."""
        if self.optimizer is None or self.scheduler is None:
            return
        if self.config.clip_value is not None:
            nn.utils.clip_grad_value_(self.parameters, self.config.clip_value)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)

    def pass_over(self) -> None:
        """A step that is skipped: only the scheduler goes on."""
        if self.scheduler is not None:
            self.scheduler.step()

    def averages(self, model: nn.Module) -> dict[str, torch.Tensor] | None:
        """The model's `state_dict` with the averages of its weights."""
        if self.averaged is None:
            return None
        weights = dict(self.averaged.module.named_parameters())
        return {name: weights.get(name, value).detach().clone() for name, value in model.state_dict().items()}

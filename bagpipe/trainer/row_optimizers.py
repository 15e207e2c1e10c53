"""The row optimizer that equals a class of torch.optim: turns arguments of `init_cache` into a job's settings."""

from typing import Any

import msgspec
import torch

from bagpipe.config.document import RowOptimizer
from bagpipe.config.recipe import Schedule
from bagpipe.config.recipe_rules import row_optimizer_findings
from bagpipe.errors import ConfigError

_ADAM = ("adam", {"lr": 0.001, "eps": 1e-8}, {"lr": "lr", "eps": "eps"})
_ROW_OPTIMIZERS: dict[type[torch.optim.Optimizer], tuple[str, dict[str, float], dict[str, str]]] = {
    torch.optim.SGD: ("sgd", {"lr": 0.001}, {"lr": "lr", "momentum": "momentum"}),
    torch.optim.Adagrad: (
        "adagrad",
        {"lr": 0.01, "eps": 1e-10},
        {"lr": "lr", "eps": "eps", "initial_accumulator_value": "initial_accumulator"},
    ),
    torch.optim.SparseAdam: _ADAM,
    torch.optim.Adam: _ADAM,
}
"""(name here, torch's defaults, torch's options by our names); `betas` is taken apart below."""


def row_optimizer(kind: type[torch.optim.Optimizer] | None, options: dict[str, Any]) -> RowOptimizer | None:
    """The row optimizer that equals a torch.optim class on sparse gradients.

    Args:
        options: torch's, and `schedule`: a `Schedule`, or a mapping as in a job file.

    Raises:
        ConfigError: no row optimizer equals it, it lacks an option, or an option contradicts another.
    """
    if kind is None:
        return None
    if kind not in _ROW_OPTIMIZERS:
        names = ", ".join(k.__name__ for k in _ROW_OPTIMIZERS)
        found = getattr(kind, "__name__", repr(kind))
        raise ConfigError(
            f"init_cache: emb_optim {found} has no sparse form here; use one of {names}, classes of torch.optim"
        )
    name, defaults, fields = _ROW_OPTIMIZERS[kind]
    values: dict[str, Any] = dict(defaults)
    for option, value in options.items():
        if option == "betas" and name == "adam":
            values["beta1"], values["beta2"] = value
        elif option == "schedule":
            values["schedule"] = _schedule(value)
        elif option in fields:
            values[fields[option]] = value
        else:
            known = [*sorted(fields), *(["betas"] if name == "adam" else []), "schedule"]
            raise ConfigError(f"init_cache: emb_optim_params: {kind.__name__} takes {known} here, not {option!r}")
    values = {field: value.item() if hasattr(value, "item") else value for field, value in values.items()}
    try:
        made = RowOptimizer(name=name, **values)  # type: ignore[arg-type]  # the table holds the literal's values only
        made = msgspec.convert(msgspec.to_builtins(made), RowOptimizer)  # checks types and bounds
    except (TypeError, msgspec.ValidationError) as error:
        raise ConfigError(f"init_cache: emb_optim_params: {error}") from None
    for where, problem in row_optimizer_findings("emb_optim_params", made):
        raise ConfigError(f"init_cache: {where}: {problem}")
    return made


def _schedule(value: Any) -> Schedule:
    try:
        return value if isinstance(value, Schedule) else msgspec.convert(value, Schedule)
    except msgspec.ValidationError as error:
        raise ConfigError(f"init_cache: emb_optim_params: schedule: {error}") from None

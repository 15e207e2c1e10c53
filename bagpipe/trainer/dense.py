"""The dense model's optimizer, and its weights and optimizer state in files.

Saved state is safetensors and JSON; nothing that is loaded can run code.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bagpipe.checkpoint.dense_files import DENSE_WEIGHTS
from bagpipe.config.document import DenseOptimizer
from bagpipe.errors import CheckpointError, ConfigError
from bagpipe.lowlevel.atomic_files import raise_unless_file_at_fault, write_whole
from bagpipe.standalone.tensors import check_weights

OPTIMIZER_TENSORS = "dense_optimizer.safetensors"
OPTIMIZER_SETTINGS = "dense_optimizer.json"


# ── optimizer ─────────────────────────────────────────────────────────────────────────────────────


def dense_optimizer(config: DenseOptimizer, model: nn.Module) -> torch.optim.Optimizer | None:
    """The job's optimizer of dense weights, from torch.optim; None where there is nothing to train.

    Weights that the job freezes require no gradient from here on. The others form a parameter group for each pair of
    rate and weight decay, in the order of the model.

    Raises:
        ConfigError: an override names no weight of the model.
    """
    groups = _groups(config, model)
    if not groups:
        return None
    match config.name:
        case "sgd":
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr=config.lr)
        case "adam":
            return torch.optim.Adam(groups, lr=config.lr)
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.lr)


def _groups(config: DenseOptimizer, model: nn.Module) -> list[dict[str, Any]]:
    named = list(model.named_parameters())
    _check_overrides(config, [name for name, _ in named])
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        lr, weight_decay, frozen = config.lr, config.weight_decay, False
        for one in config.overrides:
            if any(fnmatchcase(name, pattern) for pattern in one.parameters):
                lr = lr if one.lr is None else one.lr
                weight_decay = weight_decay if one.weight_decay is None else one.weight_decay
                frozen = frozen if one.frozen is None else one.frozen
        if frozen:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            groups.setdefault((lr, weight_decay), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def _check_overrides(config: DenseOptimizer, names: Sequence[str]) -> None:
    for number, override in enumerate(config.overrides):
        for pattern in override.parameters:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(
                    f"spec.optimizer.overrides[{number}].parameters: {pattern!r} matches no dense weight; "
                    f"the model has {', '.join(names) or 'none'}"
                )


# ── saved state ───────────────────────────────────────────────────────────────────────────────────


class _Saved(msgspec.Struct, forbid_unknown_fields=True):
    """`dense_optimizer.json`."""

    optimizer: str
    """Name of the torch.optim class."""
    groups: list[dict[str, Any]]
    """Parameter groups without their parameters."""
    params: list[list[int]]
    """Parameters of each group, by number."""
    state: dict[str, dict[str, Any]]
    """What is not a tensor in each parameter's state."""


def save_dense(model: nn.Module, optimizer: torch.optim.Optimizer | None, directory: Path) -> list[str]:
    """Write weights and optimizer state; returns the names of the files. Bits are kept.

    Raises:
        OSError: the disk is full or failed.
    """
    write_weights(model, directory / DENSE_WEIGHTS)
    if optimizer is None:
        return [DENSE_WEIGHTS]
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for number, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}.{name}"] = value
            else:
                values.setdefault(str(number), {})[name] = value
    groups = [{k: _plain(v) for k, v in g.items() if k != "params"} for g in state["param_groups"]]
    saved = _Saved(type(optimizer).__name__, groups, [g["params"] for g in state["param_groups"]], values)
    write_whole(directory / OPTIMIZER_TENSORS, _packed(tensors))
    write_whole(directory / OPTIMIZER_SETTINGS, msgspec.json.format(msgspec.json.encode(saved), indent=1))
    return [DENSE_WEIGHTS, OPTIMIZER_TENSORS, OPTIMIZER_SETTINGS]


def check_savable(model: nn.Module) -> None:
    """Refuse, before there is anything to lose, a model with something in its `state_dict` that cannot be saved.

    Raises:
        ConfigError: names it.
    """
    for name, value in _unwrapped(model).state_dict().items():
        found = _unsavable(value)
        if found is not None:
            raise ConfigError(
                f"model {type(model).__name__}: {name} of its state_dict is {found}, which a checkpoint cannot hold; "
                "keep it out of the state_dict (persistent=False, no get_extra_state), or as a dense tensor"
            )


def _unsavable(value: Any) -> str | None:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        return f"a tensor of layout {value.layout}" if value.layout is not torch.strided else "a tensor of another form"
    try:
        safetensors.torch.save({"": torch.empty(0, dtype=value.dtype)})
    except (KeyError, safetensors.SafetensorError):
        return f"a tensor of {value.dtype}"
    return None


def load_dense(model: nn.Module, optimizer: torch.optim.Optimizer | None, directory: Path) -> None:
    """Load what `save_dense` wrote into the model and its optimizer.

    Raises:
        CheckpointError: a file is missing or corrupt, or of another model or optimizer.
    """
    weights = read_weights(model, directory / DENSE_WEIGHTS)
    state = _saved_state(optimizer, directory) if optimizer is not None else None
    _unwrapped(model).load_state_dict(weights)
    if optimizer is not None and state is not None:
        optimizer.load_state_dict(state)


def take_dense(model: nn.Module, path: Path) -> str:
    """Load the file's tensors that the model has in name and shape; returns a table that says of each if it was taken.

    Raises:
        CheckpointError: the file is missing or corrupt.
    """
    own, found = _unwrapped(model).state_dict(), _read(path)
    fitting = {name: found[name] for name in own if name in found and found[name].shape == own[name].shape}
    _unwrapped(model).load_state_dict(own | fitting)
    lines = []
    for name in sorted(own.keys() | found.keys()):
        if name in fitting:
            lines.append(f"{name}  taken")
        elif name in own and name in found:
            lines.append(f"{name}  as made here: {list(found[name].shape)} there, {list(own[name].shape)} here")
        else:
            lines.append(f"{name}  {'as made here: not there' if name in own else 'not taken: no such weight here'}")
    return "\n".join(lines) + "\n"


def _saved_state(optimizer: torch.optim.Optimizer, directory: Path) -> dict[str, Any]:
    """The saved optimizer's state, as `load_state_dict` takes it."""
    tensors, path = _read(directory / OPTIMIZER_TENSORS), directory / OPTIMIZER_SETTINGS
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
    except (OSError, msgspec.MsgspecError) as error:
        raise_unless_file_at_fault(path, error)
        raise CheckpointError(f"{path}: cannot be read ({error}); use another checkpoint") from None
    own = optimizer.state_dict()["param_groups"]
    if saved.optimizer != type(optimizer).__name__ or saved.params != [g["params"] for g in own]:
        counts = [len(g["params"]) for g in own]
        raise CheckpointError(
            f"{path}: holds {saved.optimizer} with groups of {[len(p) for p in saved.params]} parameters, "
            f"this job has {type(optimizer).__name__} with {counts}; resume with the settings of the checkpoint"
        )
    state: dict[int, dict[str, Any]] = {int(number): dict(entries) for number, entries in saved.state.items()}
    for key, tensor in sorted(tensors.items()):
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    groups = [
        {**{k: _as_in(g[k], v) for k, v in group.items() if k in g}, "params": params}
        for g, group, params in zip(own, saved.groups, saved.params, strict=True)
    ]
    return {"state": state, "param_groups": groups}


def write_weights(model: nn.Module, path: Path) -> None:
    """Every tensor of the model's `state_dict`, bit for bit.

    Raises:
        OSError: the disk is full or failed.
    """
    write_whole(path, _packed(_unwrapped(model).state_dict()))


def read_weights(model: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """What `write_weights` wrote, for a model of the same tensors.

    Raises:
        CheckpointError: the file is missing or corrupt, or of another model.
    """
    weights = _read(path)
    check_weights(str(path), _unwrapped(model).state_dict(), weights)
    return weights


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def _packed(tensors: dict[str, torch.Tensor]) -> bytes:
    """Copies, because safetensors refuses tensors that share memory (tied weights)."""
    return safetensors.torch.save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()})


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise_unless_file_at_fault(path, error)
        raise CheckpointError(f"{path}: cannot be read ({error}); use another checkpoint") from None


def _plain(value: Any) -> Any:
    """A parameter group's setting as JSON has it."""
    return value.item() if isinstance(value, torch.Tensor) else value


def _as_in(own: Any, saved: Any) -> Any:
    """JSON has lists only; Adam's betas are a tuple."""
    return tuple(saved) if isinstance(own, tuple) else saved

"""The dense model across trainers: gradients are averaged in rank order, so that the result is exact.

DDP averages by an all-reduce, and an all-reduce adds in the order of its ring: with three or more ranks
each part of a bucket is added in another order, which changes when DDP rebuilds its buckets after the
first step, and so after a resume. Contract X1 needs one order. A communication hook gives it: every
element is the sum over ranks 0, 1, 2, ... divided by their number, wherever it lies in a bucket.

Two ranks need nothing special, because a + b = b + a. More than two exchange parts (each rank sums one
part of every bucket in order) and gather the sums: the traffic of a ring all-reduce.

Saved state is safetensors and JSON; nothing that is loaded can run code.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bagpipe.config import DenseOptimizer
from bagpipe.errors import CheckpointError, PeerLost
from bagpipe.trainer.backward import at_the_end

WEIGHTS = "dense.safetensors"
OPTIMIZER_TENSORS = "dense_optimizer.safetensors"
OPTIMIZER_SETTINGS = "dense_optimizer.json"
BUCKET_MIB = 0.5
"""Gradients reduced together. DDP's own 25 MiB hold a whole recommendation model: nothing would leave before the end of
the backward pass. A bucket costs some tenths of a millisecond, half a MiB travels for 4 ms at 1 Gbit/s."""


# ── reduction ─────────────────────────────────────────────────────────────────────────────────────


def wrap_dense(model: nn.Module, process_group: dist.ProcessGroup | None) -> nn.Module:
    """The model whose backward pass averages gradients over the group in rank order.

    Alone, or with nothing to train, it is the model itself.

    Buffers that training changes (running means) are rank 0's at every step, as DDP does it.
    """
    if process_group is None or process_group.size() == 1 or not any(p.requires_grad for p in model.parameters()):
        return model
    # Buffers that are not saved are constants (index tables); broadcasting them would cost every step.
    saved = model.state_dict().keys()
    constants = [name for name, _ in model.named_buffers() if name not in saved]
    set_ignored: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model  # noqa: SLF001  # DDP's only way
    set_ignored(model, constants)
    parallel = DistributedDataParallel(model, process_group=process_group, bucket_cap_mb=BUCKET_MIB)
    if process_group.size() == 2:
        parallel.register_comm_hook(process_group, _average_two)
    else:
        parallel.register_comm_hook(RankOrderReducer(process_group), RankOrderReducer.reduce)
    return parallel


def share_buffers(model: nn.Module, process_group: dist.ProcessGroup | None) -> None:
    """Give every rank the buffers of rank 0, as DDP does before a training step: all evaluate one model.

    Raises:
        PeerLost: a peer is gone or silent.
    """
    if process_group is None or process_group.size() == 1:
        return
    saved = model.state_dict().keys()
    buffers = [buffer for name, buffer in model.named_buffers() if name in saved]
    try:
        for buffer in buffers:
            process_group.broadcast([buffer]).wait()
    except RuntimeError as error:
        raise PeerLost(f"buffers were not shared before evaluation: {str(error).splitlines()[0]}") from error


@contextmanager
def dense_reduction(rank: int, step: int) -> Iterator[None]:
    """Around a backward pass: a broken or silent peer becomes PeerLost; other errors stay as they are."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            reason = str(error).splitlines()[0]
            raise PeerLost(f"trainer {rank}: dense gradients of step {step} were not reduced: {reason}") from error
        raise


# DDP checks that a hook's annotation is `dist.GradBucket`, which torch's types do not know.
def _average_two(
    group: dist.ProcessGroup,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    work = group.allreduce([bucket.buffer()], dist.AllreduceOptions())

    def average(future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
        return future.value()[0].div_(2)

    averaged: torch.futures.Future[torch.Tensor] = work.get_future().then(average)
    return averaged


class RankOrderReducer:
    """A DDP communication hook for three or more ranks.

    Parts are exchanged as soon as a bucket is full, under the rest of the backward pass. When that has nothing left to
    compute, the sums start to be gathered; rows are exchanged meanwhile, and DDP gets its gradients last (callbacks run
    in the order they were asked for). Ranks start collectives in the same order, because DDP reduces buckets by index
    and everything else happens at the end.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group, self._world = group, group.size()
        self._exchanging: list[_Bucket] = []
        self._gathering: list[_Bucket] = []

    def __repr__(self) -> str:
        under_way = len(self._exchanging) + len(self._gathering)
        return f"RankOrderReducer(world={self._world}, pending={under_way})"

    def reduce(
        self,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[torch.Tensor]:
        buffer = bucket.buffer()
        padded = buffer
        if buffer.numel() % self._world:
            padded = buffer.new_zeros(-(-buffer.numel() // self._world) * self._world)
            padded[: buffer.numel()] = buffer
        parts = torch.empty_like(padded)
        work = self._group.alltoall_base(parts, padded, [], [])
        devices = [] if buffer.device.type == "cpu" else [buffer.device]
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future(devices=devices)
        self._exchanging.append(_Bucket(future, buffer.numel(), padded, parts, work))
        if bucket.index() == 0:
            at_the_end(self._gather)
        if bucket.is_last():
            at_the_end(self._hand_over)
        return future

    def _gather(self) -> None:
        """Sum this rank's part of every bucket and send it to the others."""
        self._gathering, self._exchanging = self._exchanging, []
        for bucket in self._gathering:
            bucket.work.wait()
            total, *others = bucket.parts.view(self._world, -1)
            for other in others:
                total.add_(other)
            total.div_(self._world)
            bucket.work = self._group.allgather([list(bucket.padded.view(self._world, -1))], [total])

    def _hand_over(self) -> None:
        gathering, self._gathering = self._gathering, []
        for bucket in gathering:
            bucket.work.wait()
            bucket.future.set_result(bucket.padded[: bucket.count])


@dataclass(slots=True)
class _Bucket:
    """Gradients under way. The tensors are kept because a collective reads and writes them until its work is done."""

    future: torch.futures.Future[torch.Tensor]
    count: int
    """Numbers in the bucket, without the padding."""
    padded: torch.Tensor
    """First this rank's gradients, in the end everybody's sums."""
    parts: torch.Tensor
    """This rank's part, from every rank."""
    work: dist.Work


# ── optimizer ─────────────────────────────────────────────────────────────────────────────────────


def dense_optimizer(config: DenseOptimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The job's optimizer of dense weights, from torch.optim."""
    match config.name:
        case "sgd":
            return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
        case "adagrad":
            return torch.optim.Adagrad(parameters, lr=config.lr, weight_decay=config.weight_decay)
        case "adam":
            return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)


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


def save_dense(model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path) -> list[str]:
    """Write weights and optimizer state; returns the names of the files. Bits are kept.

    Raises:
        OSError: the disk is full or failed.
    """
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
    _write(directory / WEIGHTS, _packed(_unwrapped(model).state_dict()))
    _write(directory / OPTIMIZER_TENSORS, _packed(tensors))
    _write(directory / OPTIMIZER_SETTINGS, msgspec.json.format(msgspec.json.encode(saved), indent=1))
    return [WEIGHTS, OPTIMIZER_TENSORS, OPTIMIZER_SETTINGS]


def load_dense(model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Load what `save_dense` wrote into the model and its optimizer.

    Raises:
        CheckpointError: a file is missing or corrupt, or of another model or optimizer.
    """
    weights, tensors = _read(directory / WEIGHTS), _read(directory / OPTIMIZER_TENSORS)
    path = directory / OPTIMIZER_SETTINGS
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
    except (OSError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); use another checkpoint") from None
    own = optimizer.state_dict()["param_groups"]
    if saved.optimizer != type(optimizer).__name__ or saved.params != [g["params"] for g in own]:
        counts = [len(g["params"]) for g in own]
        raise CheckpointError(
            f"{path}: holds {saved.optimizer} with groups of {[len(p) for p in saved.params]} parameters, "
            f"this job has {type(optimizer).__name__} with {counts}; resume with the settings of the checkpoint"
        )
    _check_weights(directory / WEIGHTS, _unwrapped(model).state_dict(), weights)
    _unwrapped(model).load_state_dict(weights)
    state: dict[int, dict[str, Any]] = {int(number): dict(entries) for number, entries in saved.state.items()}
    for key, tensor in sorted(tensors.items()):
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    groups = [
        {**{k: _as_in(g[k], v) for k, v in group.items() if k in g}, "params": params}
        for g, group, params in zip(own, saved.groups, saved.params, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def _packed(tensors: dict[str, torch.Tensor]) -> bytes:
    """Copies, because safetensors refuses tensors that share memory (tied weights)."""
    return safetensors.torch.save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()})


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); use another checkpoint") from None


def _check_weights(path: Path, own: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    for name in sorted(own.keys() | found.keys()):
        here = list(own[name].shape) if name in own else "nothing"
        there = list(found[name].shape) if name in found else "nothing"
        if here != there:
            raise CheckpointError(
                f"{path}: weight {name}: expected {here}, found {there}; resume with the model of the checkpoint"
            )


def _plain(value: Any) -> Any:
    """A parameter group's setting as JSON has it."""
    return value.item() if isinstance(value, torch.Tensor) else value


def _as_in(own: Any, saved: Any) -> Any:
    """JSON has lists only; Adam's betas are a tuple."""
    return tuple(saved) if isinstance(own, tuple) else saved

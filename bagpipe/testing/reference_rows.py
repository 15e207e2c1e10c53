"""The tables of the reference: a dict of records, updated by torch.optim where it has the optimizer."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn

from bagpipe.batch import Floats, Keys
from bagpipe.config.document import JobSpec, RowOptimizer
from bagpipe.config.recipe import changed_optimizer
from bagpipe.rows.initial import initial_rows, row_scale
from bagpipe.rows.record import initial_state, state_width
from bagpipe.tables import WidthGroup
from bagpipe.testing.reference_schedules import row_rates


class _Table:
    """The settings of one table, written out independently of `bagpipe.rows.recipe`."""

    def __init__(self, spec: JobSpec, name: str) -> None:
        embedding = spec.embedding
        self.optimizer, self.scale, self.frozen = embedding.optimizer, embedding.init_scale, False
        for one in embedding.overrides:
            if not any(fnmatchcase(name, pattern) for pattern in one.tables):
                continue
            self.optimizer = changed_optimizer(self.optimizer, one.optimizer)
            if one.init_scale is not None:
                self.scale = one.init_scale
            if one.frozen is not None:
                self.frozen = one.frozen
        self.rates = row_rates(self.optimizer)


class ReferenceRows:
    """The tables of one width group: a record for every row that was ever looked up."""

    def __init__(self, group: WidthGroup, spec: JobSpec) -> None:
        self.group, self.spec = group, spec
        self.tables = [_Table(spec, table.name) for table in group.tables]
        self.records: dict[int, torch.Tensor] = {}

    def named(self) -> Iterator[tuple[tuple[str, int], Floats]]:
        for key, record in self.records.items():
            member, row = self._place(key)
            yield (self.group.tables[member].name, row), record.numpy()

    def begin_with(self, records: Mapping[tuple[str, int], Floats]) -> None:
        """Begin with rows of an earlier training, by (table name, row)."""
        for (name, row), record in records.items():
            for member, table in enumerate(self.group.tables):
                if table.name == name:
                    self.records[self.group.offsets[member] + row] = torch.from_numpy(record.copy())

    def weights(self, keys: Keys) -> torch.Tensor:
        dim = self.group.embedding_dim
        for key in keys.tolist():
            if key not in self.records:
                self.records[key] = self._born(key)
        return torch.stack([self.records[k][:dim] for k in keys.tolist()]) if keys.size else torch.empty((0, dim))

    def update(self, gradients: list[dict[int, torch.Tensor]], step: int) -> None:
        """Sum over ranks in their order, scale, apply; table by table."""
        dim, used = self.group.embedding_dim, sorted(set().union(*gradients))
        for member, table in enumerate(self.tables):
            rate = next(table.rates)
            keys = [key for key in used if self._place(key)[0] == member]
            if not keys or table.frozen:
                continue
            total = torch.stack([self._sum([g[key] for g in gradients if key in g], len(gradients)) for key in keys])
            total = torch.stack([_clipped(gradient, table.optimizer) for gradient in total])
            records = torch.stack([self.records[key] for key in keys])
            end = dim + state_width(table.optimizer, dim)
            weights, state = records[:, :dim], records[:, dim:end]
            if table.optimizer.weight_decay:
                weights = weights * (1 - rate * table.optimizer.weight_decay)
            weights, state = _updated(table.optimizer, weights, state, total, step, rate)
            self.records |= dict(zip(keys, torch.cat([weights, state, records[:, end:]], dim=1), strict=True))

    def _sum(self, parts: list[torch.Tensor], world_size: int) -> torch.Tensor:
        if world_size == 1:
            return parts[0]
        total = torch.zeros_like(parts[0])
        for part in parts:
            total = total + part
        mean = self.spec.embedding.gradient_reduction == "mean"
        return total * torch.tensor(1.0 / world_size) if mean else total

    def _born(self, key: int) -> torch.Tensor:
        member, row = self._place(key)
        table, dim = self.tables[member], self.group.embedding_dim
        scale = row_scale(self.group.tables[member].num_embeddings, table.scale)
        widest = max(state_width(one.optimizer, dim) for one in self.tables)
        record = np.full(dim + widest, initial_state(table.optimizer), np.float32)
        record[:dim] = initial_rows(self.spec.seed, self.group.table_indices[member], [row], dim, scale)[0]
        return torch.from_numpy(record)

    def _place(self, key: int) -> tuple[int, int]:
        """(table of the group, row of the table)."""
        member = max(i for i, offset in enumerate(self.group.offsets) if offset <= key)
        return member, key - self.group.offsets[member]


def _clipped(gradient_D: torch.Tensor, optimizer: RowOptimizer) -> torch.Tensor:
    """One row's gradient, as torch clips the gradient of a parameter."""
    row = nn.Parameter(torch.empty_like(gradient_D))
    row.grad = gradient_D.clone()
    if optimizer.clip_value is not None:
        nn.utils.clip_grad_value_([row], optimizer.clip_value)
    if optimizer.clip_norm is not None:
        row.grad.mul_(torch.clamp(optimizer.clip_norm / (torch.linalg.vector_norm(row.grad) + 1e-6), max=1.0))
    return row.grad


def _updated(
    optimizer: RowOptimizer, weights: torch.Tensor, state: torch.Tensor, gradients: torch.Tensor, step: int, lr: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """New weights and state of rows that were all used in this step: torch.optim's where it has the optimizer."""
    dim = weights.shape[1]
    parameter = nn.Parameter(weights.clone())
    rows = torch.arange(len(weights)).unsqueeze(0)
    parameter.grad = torch.sparse_coo_tensor(rows, gradients, parameter.shape, is_coalesced=True, check_invariants=True)
    match optimizer.name:
        case "sgd" if optimizer.momentum:
            state = optimizer.momentum * state + gradients
            return torch.add(weights, state, alpha=-lr), state
        case "sgd":
            torch.optim.SGD([parameter], lr=lr).step()
            return parameter.detach(), state
        case "rowwise-adagrad":
            state = state + gradients.pow(2).mean(dim=1, keepdim=True)
            return torch.add(weights, gradients / (state.sqrt() + optimizer.eps), alpha=-lr), state
        case "adagrad":
            adagrad = torch.optim.Adagrad([parameter], lr=lr, eps=optimizer.eps)
            adagrad.state[parameter]["sum"] = state.clone()
            adagrad.step()
            return parameter.detach(), adagrad.state[parameter]["sum"]
        case "adam":
            adam = torch.optim.SparseAdam(
                [parameter], lr=lr, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps
            )
            moments = {"exp_avg": state[:, :dim].clone(), "exp_avg_sq": state[:, dim:].clone()}
            adam.state[parameter] = {"step": step, **moments}
            adam.step()  # type: ignore[no-untyped-call]  # torch has not annotated it
            after = adam.state[parameter]
            return parameter.detach(), torch.cat([after["exp_avg"], after["exp_avg_sq"]], dim=1)

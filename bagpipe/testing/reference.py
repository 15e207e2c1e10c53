"""The reference that every run must equal bit for bit: synchronous training without a cache (contract X1 in
`docs/contracts.md`).

For each step: take every row of the step from its table, forward and backward on each rank's slice, sum row gradients
in rank order, update, put the rows back. One process, plain torch (`embedding_bag`, `torch.optim` on sparse gradients),
a dict for tables: slow and obvious on purpose, and without the code that it checks. It shares with a run only the first
values of rows, the model with its loss and dropout, and the settings of the dense optimizer.

torch leaves one thing open: `coalesce` adds the gradients of a row that was looked up more than twice
in the order of an unstable sort. Here they are added in the order of the batch.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bagpipe.batch import Batch, Floats, Lengths, SparseBlock
from bagpipe.cache.aligned import aligned
from bagpipe.cache.lookup import GroupEmbeddings, SparseEmbeddings
from bagpipe.config.document import JobSpec
from bagpipe.models.base import build_model
from bagpipe.models.layers import step_setter
from bagpipe.models.loss import Loss, loss_of
from bagpipe.tables import TableLayout, WidthGroup
from bagpipe.testing.reference_dense import ReferenceDense
from bagpipe.testing.reference_rows import ReferenceRows
from bagpipe.trainer.loop import num_threads


@dataclass(frozen=True, slots=True)
class ReferenceRun:
    """What training left behind."""

    losses: list[float]
    """Of each step: the mean over the global batch."""
    records: dict[tuple[str, int], Floats]
    """Weights and optimizer state of every row that was looked up, by (table name, row)."""
    dense: dict[str, torch.Tensor]
    """The dense model's `state_dict`."""
    average: dict[str, torch.Tensor] | None = None
    """The same with averaged weights, where the job keeps an average."""


@dataclass(frozen=True, slots=True)
class ReferenceStart:
    """Weights to begin with."""

    records: dict[tuple[str, int], Floats]
    """As in `ReferenceRun`; rows that are not in it begin with their first values."""
    dense: dict[str, torch.Tensor]


def train_reference(
    batches: Iterable[Batch],
    layout: TableLayout,
    spec: JobSpec,
    *,
    num_dense: int,
    num_labels: int = 1,
    world_size: int = 1,
    begin_with: "ReferenceStart | None" = None,
) -> ReferenceRun:
    """Train on `batches` with `world_size` virtual trainers that share one model and one set of tables.

    torch uses as many threads as each trainer of a run does; afterwards as many as before.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads(spec, world_size))
    try:
        return _train(batches, layout, spec, num_dense, num_labels, world_size, begin_with)
    finally:
        torch.set_num_threads(before)


def _train(
    batches: Iterable[Batch],
    layout: TableLayout,
    spec: JobSpec,
    num_dense: int,
    num_labels: int,
    world_size: int,
    begin_with: "ReferenceStart | None",
) -> ReferenceRun:
    model = build_model(spec.model, layout, num_dense, num_labels, spec.seed)
    if begin_with is not None:
        model.load_state_dict(model.state_dict() | begin_with.dense)
    dense = ReferenceDense(spec.optimizer, model)
    loss, set_step = loss_of(model, spec.model), step_setter(model, spec.seed)
    tables = [ReferenceRows(group, spec) for group in layout.groups]
    for rows in tables:
        rows.begin_with(begin_with.records if begin_with is not None else {})
    losses = []
    for step, batch in enumerate(batches):
        shares = [_share(batch, rank, world_size) for rank in range(world_size)]
        buffers = [buffer.clone() for buffer in model.buffers()]
        results = []
        for rank, share in _each_rank(model, shares):
            first = rank * batch.num_examples // world_size
            parts: list[tuple[Batch, _Result]] = []
            for number in range(spec.micro_batches):
                part = _share(share, number, spec.micro_batches)
                if part.num_examples or not parts:
                    set_step(step, first + number * share.num_examples // spec.micro_batches)
                    parts.append((part, _backward(model, spec, loss, part, tables, _counts(batch), world_size)))
            results.append(_added_up(parts, _counts(share)))
        _reduce_dense(model, results)
        if spec.not_finite == "skip" and not all(map(_is_finite, results)):
            _load(list(model.buffers()), buffers)
            dense.pass_over()
        else:
            dense.step()
            for number, rows in enumerate(tables):
                rows.update([r.row_gradients[number] for r in results], step)
        told = [r.loss * _counts(share) for r, share in zip(results, shares, strict=True)]
        losses.append(sum(told) / _counts(batch))
    records = {name_row: record for rows in tables for name_row, record in rows.named()}
    return ReferenceRun(
        losses, records, {name: t.clone() for name, t in model.state_dict().items()}, dense.averages(model)
    )


# ── one rank's part of a step ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Result:
    loss: float
    dense_gradients: list[torch.Tensor]
    row_gradients: list[dict[int, torch.Tensor]]
    """By key, for each width group."""


def _is_finite(result: _Result) -> bool:
    rows = [gradient for group in result.row_gradients for gradient in group.values()]
    return math.isfinite(result.loss) and all(bool(torch.isfinite(g).all()) for g in result.dense_gradients + rows)


def _each_rank(model: nn.Module, shares: list[Batch]) -> Iterator[tuple[int, Batch]]:
    """Ranks in turn. Every rank begins with the same buffers (running means); those that rank 0 changed remain."""
    saved = model.state_dict().keys()
    buffers = [buffer for name, buffer in model.named_buffers() if name in saved]
    before = [buffer.clone() for buffer in buffers]
    for rank, share in enumerate(shares):
        yield rank, share
        if rank == 0:
            after = [buffer.clone() for buffer in buffers]
        _load(buffers, before)
    _load(buffers, after)


def _load(buffers: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)


def _backward(
    model: nn.Module,
    spec: JobSpec,
    loss_function: Loss,
    share: Batch,
    tables: list[ReferenceRows],
    whole: float,
    world_size: int,
) -> _Result:
    keys = [np.unique(block.keys_N) for block in share.sparse]
    leaves = [rows.weights(k).requires_grad_() for rows, k in zip(tables, keys, strict=True)]
    embeddings = [
        _look_up(rows.group, leaf, torch.from_numpy(np.searchsorted(k, block.keys_N)), block, share.num_examples)
        for rows, leaf, k, block in zip(tables, leaves, keys, share.sparse, strict=True)
    ]
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=spec.model.precision == "bfloat16"):
        logits = model(aligned(share.dense_BF), SparseEmbeddings(embeddings, share.num_examples))
    weights = None if share.weights_B is None else aligned(share.weights_B)
    groups = None if share.groups_B is None else torch.from_numpy(share.groups_B.copy())
    loss = loss_function(logits.float(), aligned(share.labels_BL), weights, groups)
    # The mean of the slices' means, weighted by what each slice counts, is the mean of the global batch.
    (loss * (_counts(share) * world_size / whole)).backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
    dense = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    rows_grads = [
        dict(zip(k.tolist(), _in_batch_order(leaf), strict=True)) for k, leaf in zip(keys, leaves, strict=True)
    ]
    return _Result(float(loss.detach()), dense, rows_grads)


def _added_up(parts: list[tuple[Batch, _Result]], whole: float) -> _Result:
    """The parts of one slice: their gradients in order, and the mean of their losses."""
    if len(parts) == 1:
        return parts[0][1]
    results = [result for _, result in parts]
    dense = [functools.reduce(torch.add, one) for one in zip(*(r.dense_gradients for r in results), strict=True)]
    rows: list[dict[int, torch.Tensor]] = []
    for groups in zip(*(r.row_gradients for r in results), strict=True):
        total: dict[int, torch.Tensor] = {}
        for gradients in groups:
            for key, gradient in gradients.items():
                total[key] = total[key] + gradient if key in total else gradient
        rows.append(total)
    return _Result(sum(r.loss * _counts(part) for part, r in parts) / whole, dense, rows)


def _counts(batch: Batch) -> float:
    """What a batch or slice counts in a mean: its examples, or the sum of their weights."""
    return batch.num_examples if batch.weights_B is None else float(batch.weights_B.sum(dtype=np.float64))


def _look_up(
    group: WidthGroup, rows_KD: torch.Tensor, index_N: torch.Tensor, block: SparseBlock, num_examples: int
) -> GroupEmbeddings:
    """torch's own bags, one call for each way of pooling; every lookup keeps its place in the batch."""
    pooling = group.pooling
    lengths_BT = block.lengths_BT
    if lengths_BT is None:
        lengths_BT = np.ones((num_examples, len(pooling)), np.int32)
    if block.weights_N is not None:
        return _look_up_weighted(group, rows_KD, index_N, lengths_BT, torch.from_numpy(block.weights_N))
    feature_N = np.repeat(np.tile(np.arange(len(pooling)), num_examples), lengths_BT.reshape(-1))
    pooled_BTD = rows_KD.new_zeros((num_examples, len(pooling), group.embedding_dim))
    for mode in ("sum", "mean"):
        columns = np.array([t for t, p in enumerate(pooling) if p == mode], np.int64)
        if columns.size == 0:
            continue
        counts = torch.from_numpy(lengths_BT[:, columns].astype(np.int64).reshape(-1))
        bags = functional.embedding_bag(
            index_N[torch.from_numpy(np.isin(feature_N, columns))],
            rows_KD,
            torch.cumsum(counts, 0) - counts,
            mode=mode,
            sparse=True,
        )
        bags_BTD = bags.view(num_examples, columns.size, group.embedding_dim)
        pooled_BTD = pooled_BTD.index_copy(1, torch.from_numpy(columns), bags_BTD)
    unpooled = [t for t, p in enumerate(pooling) if p == "none"]
    jagged_JD = functional.embedding(index_N[torch.from_numpy(np.isin(feature_N, unpooled))], rows_KD, sparse=True)
    pooled = [t for t, p in enumerate(pooling) if p != "none"]
    return GroupEmbeddings(group.feature_names, pooling, pooled_BTD[:, pooled], jagged_JD, lengths_BT)


def _look_up_weighted(
    group: WidthGroup, rows_KD: torch.Tensor, index_N: torch.Tensor, lengths_BT: Lengths, weights_N: torch.Tensor
) -> GroupEmbeddings:
    """Bags with weights, one after another, by their definition: sum(w * x), for mean divided by sum(w)."""
    pooling = group.pooling
    found = functional.embedding(index_N, rows_KD, sparse=True).unbind(0)
    bags, jagged, at = [], [rows_KD.new_zeros(group.embedding_dim)], 0
    for counts in lengths_BT.tolist():
        for way, count in zip(pooling, counts, strict=True):
            x, w = found[at : at + count], weights_N[at : at + count]
            at += count
            if way == "none":
                jagged += x
                continue
            total, weight = rows_KD.new_zeros(group.embedding_dim), w.new_zeros(())
            for row, one in zip(x, w, strict=True):
                total, weight = total + one * row, weight + one
            bags.append(total / weight if way == "mean" and weight > 0 else total)
    pooled_BTD = torch.stack([rows_KD.new_zeros(group.embedding_dim), *bags])[1:]
    pooled_BTD = pooled_BTD.view(len(lengths_BT), -1, group.embedding_dim)
    return GroupEmbeddings(
        group.feature_names, pooling, pooled_BTD, torch.stack(jagged)[1:], lengths_BT, weights_N.numpy()
    )


def _in_batch_order(leaf: torch.Tensor) -> torch.Tensor:
    """The sparse gradient as one sum for each row of `leaf`, from -0.0, which changes nothing it is added to."""
    total = torch.full_like(leaf, -0.0, requires_grad=False)
    if leaf.grad is None:
        return torch.zeros_like(total)
    # The public accessors ask for a coalesced gradient, whose sums have been taken already.
    indices, values = leaf.grad._indices()[0], leaf.grad._values()  # noqa: SLF001  # see above
    for index, value in zip(indices.tolist(), values, strict=True):
        total[index] += value
    return total


def _share(batch: Batch, rank: int, world_size: int) -> Batch:
    """Rank r's contiguous part of the global batch."""
    first, last = (r * batch.num_examples // world_size for r in (rank, rank + 1))
    blocks = tuple(_part(block, batch.num_examples, first, last) for block in batch.sparse)
    weights = None if batch.weights_B is None else batch.weights_B[first:last]
    groups = None if batch.groups_B is None else batch.groups_B[first:last]
    dense, labels = batch.dense_BF[first:last], batch.labels_BL[first:last]
    return Batch(batch.cursor, batch.end, dense, labels, blocks, weights, groups)


def _part(block: SparseBlock, num_examples: int, first: int, last: int) -> SparseBlock:
    if block.lengths_BT is None:
        each = block.keys_N.size // max(num_examples, 1)
        return SparseBlock(block.keys_N[first * each : last * each])
    lookups = [int(block.lengths_BT[:n].sum(dtype=np.int64)) for n in (first, last)]
    chosen = slice(*lookups)
    weights_N = None if block.weights_N is None else block.weights_N[chosen]
    return SparseBlock(block.keys_N[chosen], block.lengths_BT[first:last], weights_N)


# ── reductions and updates ────────────────────────────────────────────────────────────────────────


def _reduce_dense(model: nn.Module, results: list[_Result]) -> None:
    """((rank 0 + rank 1) + rank 2 ...) / world size."""
    for number, parameter in enumerate(model.parameters()):
        if not parameter.requires_grad:
            continue
        total = results[0].dense_gradients[number]
        for other in results[1:]:
            total = total + other.dense_gradients[number]
        parameter.grad = total / len(results)

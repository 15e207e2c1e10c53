"""From batches to the plans of a whole run: which step is planned when, and which one checkpoints.

Pure: takes an iterator of batches, yields one `BatchPlan` per trainer and step. A batch is cut into
contiguous slices, rank r of W getting examples r*n//W to (r+1)*n//W, so a short last batch is shared
as evenly as a full one.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Batch, Keys, SparseBlock
from bagpipe.oracle.plan.planner import GroupPlanner, Lookups
from bagpipe.plan import BatchPlan, GroupPlan
from bagpipe.tables import TableLayout

NO_KEYS: Keys = np.zeros(0, np.int64)


def slice_bounds(num_examples: int, world_size: int) -> npt.NDArray[np.int64]:
    """First example of each rank's slice, and the end: `[world_size + 1]`."""
    return np.arange(world_size + 1, dtype=np.int64) * num_examples // world_size


def slice_lookups(block: SparseBlock, examples: npt.NDArray[np.int64], num_features: int) -> Lookups:
    """Cut one width group's lookups at the slice bounds `examples` (both are example-major)."""
    if block.lengths_BT is None:
        return Lookups(block.keys_N, examples * num_features, (None,) * (examples.size - 1))
    ends = np.concatenate(([0], block.lengths_BT.sum(axis=1, dtype=np.int64).cumsum()))
    lengths = tuple(block.lengths_BT[a:b] for a, b in itertools.pairwise(examples.tolist()))
    return Lookups(block.keys_N, ends[examples], lengths)


class TrainingSchedule:
    """Plans for training, one tuple of per-rank `BatchPlan`s for each step.

    Args:
        layout: the tables, in width groups.
        world_size: number of trainers.
        lookahead: future batches in view (0: uncached).
        slots: cache slots of each width group at every trainer; None: as many as it takes.
        first_step: step of the first batch.
        total_steps: step at which to end, or None for the end of the batches.
        checkpoint_every: steps between checkpoints (0: only after the last step).
        validate_every: steps between evaluations of the validation part (0: only after the last step; None: never).
        save_validated: a checkpoint is taken wherever that part is evaluated.
        with_keys: fill `GroupPlan.keys_K`.
    """

    def __init__(
        self,
        layout: TableLayout,
        *,
        world_size: int,
        lookahead: int,
        slots: Sequence[int | None],
        first_step: int = 0,
        total_steps: int | None = None,
        checkpoint_every: int = 0,
        validate_every: int | None = None,
        save_validated: bool = False,
        with_keys: bool = False,
    ) -> None:
        self.layout, self.world_size, self.lookahead = layout, world_size, lookahead
        self.step, self.total_steps, self.checkpoint_every = first_step, total_steps, checkpoint_every
        self.validate_every, self.save_validated = validate_every, save_validated
        self.with_keys = with_keys
        self.stopping = False
        """Set to end after a checkpoint at the next step planned."""
        self.planners = [
            GroupPlanner(
                num_rows=group.num_rows,
                world_size=world_size,
                lookahead=lookahead,
                cache_rows=rows,
                first_step=first_step,
            )
            for group, rows in zip(layout.groups, slots, strict=True)
        ]

    def plans(self, batches: Iterable[Batch]) -> Iterator[tuple[BatchPlan, ...]]:
        """Read ahead, plan, and end with a checkpoint whatever ends the run.

        One batch more than the view is read, so that the last step is known when it is planned.
        """
        source = iter(batches)
        view: deque[Batch] = deque()
        following = self._read(source, pushed=self.step)
        while following is not None or view:
            while following is not None and len(view) <= self.lookahead:
                self._push(following)
                # The planner has what it needs of the lookups; only `with_keys` needs their keys once more.
                view.append(following if self.with_keys else without_keys(following))
                following = self._read(source, pushed=self.step + len(view))
            ends = following is None and len(view) == 1
            # A stop causes no evaluation: a resumed run evaluates at the same steps as one that was never stopped.
            validates = self.validate_every is not None and (ends or _due(self.validate_every, self.step))
            saves = _due(self.checkpoint_every, self.step) or (validates and self.save_validated)
            last = self.stopping or ends
            yield self._plan(view.popleft(), checkpoint=last or saves, validates=validates)
            if last:
                return

    def _read(self, source: Iterator[Batch], *, pushed: int) -> Batch | None:
        if self.total_steps is not None and pushed >= self.total_steps:
            return None
        return next(source, None)

    def _push(self, batch: Batch) -> None:
        examples = slice_bounds(batch.num_examples, self.world_size)
        for group, block, planner in zip(self.layout.groups, batch.sparse, self.planners, strict=True):
            planner.push(slice_lookups(block, examples, len(group.feature_names)))

    def _plan(self, batch: Batch, *, checkpoint: bool, validates: bool) -> tuple[BatchPlan, ...]:
        groups = [planner.plan(checkpoint=checkpoint or validates) for planner in self.planners]
        if self.with_keys:
            groups = [add_keys(plans, block) for plans, block in zip(groups, batch.sparse, strict=True)]
        plans = assemble(batch, self.step, groups, training=True, checkpoint=checkpoint, validates=validates)
        self.step += 1
        return plans


def _due(every: int, step: int) -> bool:
    return every > 0 and (step + 1) % every == 0


class EvaluationSchedule:
    """Plans for evaluation: every trainer reads for itself, nothing is updated or written back.

    Without updates there is nothing to keep coherent, so each trainer has a planner of its own.
    """

    def __init__(
        self,
        layout: TableLayout,
        *,
        world_size: int,
        lookahead: int,
        slots: Sequence[int | None],
        first_step: int,
        with_keys: bool = False,
    ) -> None:
        """Args: as those of `TrainingSchedule`."""
        self.with_keys = with_keys
        self.layout, self.world_size, self.lookahead, self.step = layout, world_size, lookahead, first_step
        self.fetch_after = first_step - 1
        """Every row is read as the last training step left it."""
        self.planners = [
            [
                GroupPlanner(
                    num_rows=group.num_rows, world_size=1, lookahead=lookahead, cache_rows=rows, first_step=first_step
                )
                for _ in range(world_size)
            ]
            for group, rows in zip(layout.groups, slots, strict=True)
        ]

    def plans(self, batches: Iterable[Batch]) -> Iterator[tuple[BatchPlan, ...]]:
        view: deque[Batch] = deque()
        for batch in batches:
            self._push(batch)
            view.append(batch)
            if len(view) > self.lookahead:
                yield self._plan(view.popleft())
        while view:
            yield self._plan(view.popleft())

    def _push(self, batch: Batch) -> None:
        examples = slice_bounds(batch.num_examples, self.world_size)
        for group, block, planners in zip(self.layout.groups, batch.sparse, self.planners, strict=True):
            whole = slice_lookups(block, examples, len(group.feature_names))
            for rank, planner in enumerate(planners):
                begin, end = int(whole.bounds[rank]), int(whole.bounds[rank + 1])
                planner.push(
                    Lookups(whole.keys_N[begin:end], np.array([0, end - begin], np.int64), (whole.lengths[rank],))
                )

    def _plan(self, batch: Batch) -> tuple[BatchPlan, ...]:
        groups = [
            tuple(replace_after(planner.plan()[0], self.fetch_after) for planner in planners)
            for planners in self.planners
        ]
        if self.with_keys:
            groups = [add_keys(plans, block) for plans, block in zip(groups, batch.sparse, strict=True)]
        plans = assemble(batch, self.step, groups, training=False, checkpoint=False)
        self.step += 1
        return plans


def replace_after(plan: GroupPlan, after: int) -> GroupPlan:
    """The same plan with its fetches answered only once `after` has been written back."""
    return dataclasses.replace(plan, fetch_after=after)


def add_keys(plans: tuple[GroupPlan, ...], block: SparseBlock) -> tuple[GroupPlan, ...]:
    """The same plans with the key of every distinct row, read off the lookups."""
    keyed, begin = [], 0
    for plan in plans:
        keys_K = np.empty(plan.slots_K.size, np.int64)
        keys_K[plan.inverse_N] = block.keys_N[begin : begin + plan.inverse_N.size]
        keyed.append(dataclasses.replace(plan, keys_K=keys_K))
        begin += plan.inverse_N.size
    return tuple(keyed)


def without_keys(batch: Batch) -> Batch:
    """The batch with the weights of its lookups, and nothing else of them."""
    if all(block.weights_N is None for block in batch.sparse):
        return dataclasses.replace(batch, sparse=())
    blocks = tuple(SparseBlock(NO_KEYS, None, block.weights_N) for block in batch.sparse)
    return dataclasses.replace(batch, sparse=blocks)


def add_weights(plans: tuple[GroupPlan, ...], block: SparseBlock) -> tuple[GroupPlan, ...]:
    """The same plans, each with the weights of its lookups."""
    if block.weights_N is None:
        return plans
    ends = np.cumsum([plan.inverse_N.size for plan in plans])
    shares = np.split(block.weights_N, ends[:-1])
    return tuple(dataclasses.replace(plan, weights_N=share) for plan, share in zip(plans, shares, strict=True))


def assemble(
    batch: Batch,
    step: int,
    groups: Sequence[tuple[GroupPlan, ...]],
    *,
    training: bool,
    checkpoint: bool,
    validates: bool = False,
) -> tuple[BatchPlan, ...]:
    """Put each rank's slice of the examples beside its decisions; `groups[g][r]` is rank r's share."""
    if batch.sparse:
        groups = [add_weights(plans, block) for plans, block in zip(groups, batch.sparse, strict=True)]
    world_size = len(groups[0])
    bounds = slice_bounds(batch.num_examples, world_size).tolist()
    total_weight = None if batch.weights_B is None else float(batch.weights_B.sum(dtype=np.float64))
    return tuple(
        BatchPlan(
            step=step,
            rank=rank,
            num_examples=batch.num_examples,
            first_example=bounds[rank],
            end=batch.end,
            training=training,
            checkpoint=checkpoint,
            validates=validates,
            dense_BF=batch.dense_BF[bounds[rank] : bounds[rank + 1]],
            labels_BL=batch.labels_BL[bounds[rank] : bounds[rank + 1]],
            groups=tuple(group[rank] for group in groups),
            weights_B=None if batch.weights_B is None else batch.weights_B[bounds[rank] : bounds[rank + 1]],
            total_weight=total_weight,
            groups_B=None if batch.groups_B is None else batch.groups_B[bounds[rank] : bounds[rank + 1]],
        )
        for rank in range(world_size)
    )

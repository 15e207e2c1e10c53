"""The rows that a trainer holds: one slab of records, addressed by slot.

A record is a row's weights followed by its optimizer state, so that state belongs to the row and
never to a slot. Rows come in and go out as numpy arrays (the network's side); `weights` hands the
gathered weights of a step to the model as a leaf tensor. The cache knows no keys, no steps and no
sockets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from bagpipe.batch import Floats
from bagpipe.cache.optimizers import BLOCK_ROWS, LearningRate, RowUpdater, gather, gather_sums, scatter
from bagpipe.config.document import RowOptimizer
from bagpipe.plan import Indices, Slots


@dataclass(frozen=True, slots=True)
class Reduction:
    """How a row's gradient follows from its sum over `num_trainers` (`embedding.gradientReduction`)."""

    num_trainers: int
    mean: bool

    @property
    def scale(self) -> np.float32:
        return np.float32(1.0 / self.num_trainers if self.mean else 1.0)

    @property
    def zero(self) -> np.float32:
        """What a sum begins with: 0, or with one trainer -0.0, which changes no number that is added to it."""
        return np.float32(0.0 if self.num_trainers > 1 else -0.0)


class EmbeddingCache(Protocol):
    """One width group's cache; `K` rows, `D` embedding_dim, `R` record width, all float32."""

    embedding_dim: int
    record_width: int

    def weights(self, slots_K: Slots) -> torch.Tensor:
        """A copy of these rows' weights `[K, D]` on the cache's device, as a leaf tensor that requires gradients."""

    def store_records(self, slots: Slots, records_KR: Floats) -> None:
        """Overwrite whole records."""

    def store_values(self, slots: Slots, values_KD: Floats) -> None:
        """Overwrite weights only."""

    def take_records(self, slots: Slots) -> Floats:
        """Copies of whole records `[K, R]`."""

    def take_values(self, slots: Slots) -> Floats:
        """Copies of weights `[K, D]`."""

    def update(
        self, slots_U: Slots, sums_KD: Floats, index_U: Indices, reduction: Reduction, step: int, kind: int = 0
    ) -> None:
        """Apply a row optimizer to the rows at these slots, which are distinct.

        Args:
            sums_KD: each row's gradients of `step` summed over trainers; those of the slots are `sums_KD[index_U]`.
            kind: which of the width group's optimizers.
        """


@dataclass(frozen=True, slots=True)
class RowKind:
    """Rows of a width group that are updated alike."""

    optimizer: RowOptimizer
    learning_rate: LearningRate | None = None
    """Of each step; None: the optimizer's `lr` at every step."""


def create_cache(
    num_slots: int,
    embedding_dim: int,
    record_width: int,
    kinds: Sequence[RowKind],
    device: torch.device,
) -> EmbeddingCache:
    """The cache for a device. Memory is `num_slots` records; on a CPU only touched slots cost any."""
    if device.type == "cpu":
        return HostCache(num_slots, embedding_dim, record_width, kinds)
    return DeviceCache(num_slots, embedding_dim, record_width, kinds, device)


class HostCache:
    """A slab in the trainer's own memory; copies and updates are compiled loops (`cache/optimizers.py`)."""

    def __init__(self, num_slots: int, embedding_dim: int, record_width: int, kinds: Sequence[RowKind]) -> None:
        self.embedding_dim = embedding_dim
        self.record_width = record_width
        self._slab = np.zeros((num_slots, self.record_width), np.float32)
        self._updaters = [RowUpdater(kind.optimizer, embedding_dim, kind.learning_rate) for kind in kinds]
        self._block = np.empty((BLOCK_ROWS, embedding_dim), np.float32)

    def __repr__(self) -> str:
        return f"HostCache(slots={self._slab.shape[0]}, dim={self.embedding_dim}, record={self.record_width})"

    def weights(self, slots_K: Slots) -> torch.Tensor:
        return torch.from_numpy(self.take_values(slots_K)).requires_grad_()

    def store_records(self, slots: Slots, records_KR: Floats) -> None:
        scatter(self._slab, slots, records_KR)

    def store_values(self, slots: Slots, values_KD: Floats) -> None:
        scatter(self._slab, slots, values_KD)

    def take_records(self, slots: Slots) -> Floats:
        return self._take(slots, self.record_width)

    def take_values(self, slots: Slots) -> Floats:
        return self._take(slots, self.embedding_dim)

    def _take(self, slots: Slots, width: int) -> Floats:
        out = np.empty((slots.size, width), np.float32)
        gather(self._slab, slots, width, out)
        return out

    def update(
        self, slots_U: Slots, sums_KD: Floats, index_U: Indices, reduction: Reduction, step: int, kind: int = 0
    ) -> None:
        for at in range(0, slots_U.size, BLOCK_ROWS):
            part = slice(at, at + BLOCK_ROWS)
            gradients = self._block[: slots_U[part].size]
            gather_sums(sums_KD, index_U[part], reduction.zero, reduction.scale, gradients)
            self._updaters[kind].apply(self._slab, slots_U[part], gradients, step)


class DeviceCache:
    """A slab on a GPU. Arriving rows are staged in pinned memory and copied on a side stream.

    Every method returns once its numpy arguments may be reused; what it started on the device is
    ordered before the default stream's next work by an event, so that the host never waits for it.
    Rows that leave are the exception: the network needs their bytes, so `take_*` waits for its copy.
    """

    def __init__(
        self,
        num_slots: int,
        embedding_dim: int,
        record_width: int,
        kinds: Sequence[RowKind],
        device: torch.device,
    ) -> None:
        self.embedding_dim = embedding_dim
        self.record_width = record_width
        self._device = device
        self._slab = torch.zeros((num_slots, self.record_width), device=device)
        self._updaters = [RowUpdater(kind.optimizer, embedding_dim, kind.learning_rate) for kind in kinds]
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has not annotated it

    def __repr__(self) -> str:
        return f"DeviceCache({self._device}, slots={self._slab.shape[0]}, record={self.record_width})"

    def weights(self, slots_K: Slots) -> torch.Tensor:
        return self._slab[self._to_device(slots_K), : self.embedding_dim].requires_grad_()

    def store_records(self, slots: Slots, records_KR: Floats) -> None:
        self._store(slots, records_KR)

    def store_values(self, slots: Slots, values_KD: Floats) -> None:
        self._store(slots, values_KD)

    def _store(self, slots: Slots, rows: Floats) -> None:
        if slots.size == 0:
            return
        index, values = self._to_device(slots), self._to_device(rows)
        self._slab[:, : rows.shape[1]].index_copy_(0, index, values)

    def take_records(self, slots: Slots) -> Floats:
        return self._take(slots, self.record_width)

    def take_values(self, slots: Slots) -> Floats:
        return self._take(slots, self.embedding_dim)

    def _take(self, slots: Slots, width: int) -> Floats:
        if slots.size == 0:
            return np.empty((0, width), np.float32)
        taken: Floats = self._slab[self._to_device(slots), :width].cpu().numpy()
        return taken

    def update(
        self, slots_U: Slots, sums_KD: Floats, index_U: Indices, reduction: Reduction, step: int, kind: int = 0
    ) -> None:
        gradients = np.empty((index_U.size, self.embedding_dim), np.float32)
        gather_sums(sums_KD, index_U, reduction.zero, reduction.scale, gradients)
        self._updaters[kind].apply(self._slab, self._to_device(slots_U), self._to_device(gradients), step)

    def _to_device(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """Through pinned memory, on the side stream; the default stream waits for it, the host does not."""
        with torch.cuda.stream(self._copies):
            pinned = torch.from_numpy(np.ascontiguousarray(array)).pin_memory()
            moved = pinned.to(self._device, non_blocking=True)
            if moved.dtype == torch.int32:
                moved = moved.long()
        torch.cuda.current_stream(self._device).wait_stream(self._copies)
        moved.record_stream(torch.cuda.current_stream(self._device))
        return moved

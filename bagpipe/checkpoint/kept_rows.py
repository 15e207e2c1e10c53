"""Reads the rows of a checkpoint by key; a row that it does not hold has its first value."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Floats, Keys
from bagpipe.checkpoint.store import Checkpoint
from bagpipe.rows.initial import InitialRows
from bagpipe.tables import WidthGroup


class _Part(NamedTuple):
    """What one server held of a width group."""

    keys: Keys
    """Ascending."""
    order: npt.NDArray[np.intp]
    """Where each key's record lies."""
    records: Floats
    """A view of the file: records stay there until they are read."""


class KeptRows:
    """One width group's rows."""

    def __init__(self, group: WidthGroup, initial: InitialRows, parts: list[_Part]) -> None:
        self.group = group
        self._initial, self._parts = initial, parts

    def __repr__(self) -> str:
        return f"KeptRows(dim={self.group.embedding_dim}, touched={sum(len(p.keys) for p in self._parts)})"

    def touched(self) -> Keys:
        """Keys of the rows that training touched, ascending; 8 bytes each."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *(part.keys for part in self._parts)]))

    def weights(self, keys_K: Keys) -> Floats:
        """Weights of these rows, `[K, D]` float32: as training left them, or their first values."""
        out = np.empty((len(keys_K), self.group.embedding_dim), np.float32)
        born = np.ones(len(keys_K), np.bool_)
        for keys, order, records in self._parts:
            place = np.minimum(np.searchsorted(keys, keys_K), max(len(keys) - 1, 0))
            here = (keys[place] == keys_K) if len(keys) else np.zeros(len(keys_K), np.bool_)
            out[here] = records[order[place[here]], : self.group.embedding_dim]
            born &= ~here
        where = np.flatnonzero(born)
        self._initial.fill(keys_K[where], where, out)
        return out


def kept_rows(checkpoint: Checkpoint) -> list[KeptRows]:
    """The rows of every width group; each file is verified and opened once.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    manifest = checkpoint.manifest
    parts: list[list[_Part]] = [[] for _ in manifest.layout.groups]
    for number, keys, records in map(checkpoint.rows, manifest.shards):
        order = np.argsort(keys)
        parts[number].append(_Part(keys[order], order, records))
    spec = manifest.spec
    return [
        KeptRows(group, InitialRows(group, spec.embedding, spec.seed), found)
        for group, found in zip(manifest.layout.groups, parts, strict=True)
    ]

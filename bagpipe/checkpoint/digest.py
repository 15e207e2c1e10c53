"""Computes `modelDigest`: SHA-256 over every touched row and every dense weight of a trained model.

Rows come in the order of (table, row) with their optimizer state, dense weights in the order of their names. So the
digest does not depend on how many servers held the rows, or on the order in which they were written.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors

from bagpipe.batch import Floats, Keys
from bagpipe.checkpoint.dense_files import DENSE_WEIGHTS
from bagpipe.checkpoint.store import Checkpoint, open_checkpoint

BLOCK_ROWS = 1 << 16


def sorted_rows(checkpoint: Checkpoint, group: int) -> Iterator[tuple[Keys, Floats]]:
    """A width group's rows by ascending key, in blocks: (keys, records).

    Keys are held at once, 24 bytes a row with their order; records stay in their files.
    """
    parts = [(keys, records) for at, keys, records in map(checkpoint.rows, checkpoint.manifest.shards) if at == group]
    if not parts:
        return
    all_keys = np.concatenate([keys for keys, _ in parts])
    order = np.argsort(all_keys, kind="stable")
    begins = np.cumsum([0, *(keys.size for keys, _ in parts)])
    width = checkpoint.manifest.record_widths[group]
    for begin in range(0, order.size, BLOCK_ROWS):
        block = order[begin : begin + BLOCK_ROWS]
        part_of = np.searchsorted(begins, block, side="right") - 1
        records = np.empty((block.size, width), np.float32)
        for part in np.unique(part_of):
            here = part_of == part
            records[here] = parts[part][1][block[here] - begins[part]]
        yield all_keys[block], records


def model_digest(directory: Path) -> str:
    """The digest of a checkpoint's model (dense optimizer state excluded).

    Raises:
        CheckpointError: the checkpoint is incomplete or corrupt.
    """
    checkpoint = open_checkpoint(directory)
    manifest = checkpoint.manifest
    total = hashlib.sha256()
    layout = manifest.layout
    by_table: dict[int, hashlib._Hash] = {}
    for number, group in enumerate(layout.groups):
        bounds = np.array([*group.offsets, group.num_rows], np.int64)
        for keys, records in sorted_rows(checkpoint, number):
            cuts = np.searchsorted(keys, bounds)
            for member, table in enumerate(group.table_indices):
                begin, end = int(cuts[member]), int(cuts[member + 1])
                if end > begin:
                    hashed = by_table.setdefault(table, hashlib.sha256())
                    rows = np.empty(end - begin, [("row", "<i8"), ("record", "<f4", records.shape[1])])
                    rows["row"], rows["record"] = keys[begin:end] - bounds[member], records[begin:end]
                    hashed.update(rows.tobytes())
    for table in sorted(by_table):
        total.update(layout.tables[table].name.encode() + b"\0" + by_table[table].digest())
    for name, weights in sorted(_dense_weights(checkpoint).items()):
        total.update(name.encode() + b"\0" + weights)
    return total.hexdigest()


def _dense_weights(checkpoint: Checkpoint) -> dict[str, bytes]:
    """As bytes, because a user's model may have weights of types that numpy does not know, such as bfloat16."""
    for file in checkpoint.manifest.dense:
        if file.name == DENSE_WEIGHTS:
            tensors = safetensors.deserialize(checkpoint.read(file))  # type: ignore[no-untyped-call]  # it has no types
            return {name: bytes(tensor["data"]) for name, tensor in tensors}
    return {}

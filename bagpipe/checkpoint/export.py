"""A checkpoint as plain tensors: whole tables and dense weights, for use without Bagpipe.

Rows nobody touched get their first values (`embedding.initial`), so an exported table is what training
saw. Tables are written one at a time through a mapped file; memory does not grow with them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import safetensors.numpy

from bagpipe.checkpoint.digest import DENSE_WEIGHTS, sorted_rows
from bagpipe.checkpoint.kept_files import FINGERPRINT_FILE, FOLDER
from bagpipe.checkpoint.store import Checkpoint, open_checkpoint
from bagpipe.errors import CheckpointError, ConfigError
from bagpipe.lowlevel.atomic_files import make_folder, replacing_file, write_whole
from bagpipe.lowlevel.strict_json import encode
from bagpipe.rows.initial import InitialRows
from bagpipe.tables import TableLayout

FILL_ROWS = 1 << 16


def export_model(directory: Path, out: Path) -> list[str]:
    """Write `tables.safetensors` (one tensor a table, `[num_embeddings, dim]`, by table name),
    `dense.safetensors` (dense weights by name), `transform/` (what turns raw values into rows) and `model.json`
    (tables, model, step) into `out`.

    Returns the names written.

    Raises:
        CheckpointError: the checkpoint is incomplete or corrupt.
        ConfigError: `out` is a file, or holds files already.
        StorageError: the disk is full or refuses; nothing is left in `out`.
    """
    checkpoint = open_checkpoint(directory)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: expected an empty directory to export to; choose another")
    with _all_or_nothing(out):
        _write_tables(checkpoint, out / "tables.safetensors")
        names = ["tables.safetensors"]
        for file in checkpoint.manifest.dense:
            if file.name == DENSE_WEIGHTS:
                write_whole(out / DENSE_WEIGHTS, checkpoint.read(file))
                names.append(DENSE_WEIGHTS)
        for file in checkpoint.manifest.data:
            if file.name != f"{FOLDER}/{FINGERPRINT_FILE}":
                make_folder(out / FOLDER)
                write_whole(out / file.name, checkpoint.read(file))
                names.append(file.name)
        write_whole(out / "model.json", _description(checkpoint))
    return [*names, "model.json"]


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[None]:
    """Empty the folder again if the body fails, and remove it if it was made here."""
    made = not out.exists()
    make_folder(out)
    try:
        yield
    except BaseException:
        for file in out.iterdir():
            file.unlink()
        if made:
            out.rmdir()
        raise


def _description(checkpoint: Checkpoint) -> bytes:
    manifest = checkpoint.manifest
    facts = {"step": manifest.step, "tables": manifest.tables, "model": manifest.spec.model, "job": manifest.job}
    return msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n"


def _write_tables(checkpoint: Checkpoint, path: Path) -> None:
    """A safetensors file of every table, filled in place.

    Its space is taken at once: a mapped file that finds the disk full later ends the process by a bus error.
    """
    header, offsets, end = _header(checkpoint.manifest.layout)
    with replacing_file(path) as file:
        os.posix_fallocate(file.fileno(), 0, len(header) + end)
        file.write(header)
        file.flush()
        content = np.memmap(file, np.uint8, "r+")
        _fill_tables(checkpoint, content, len(header), offsets)
        content.flush()


def _fill_tables(
    checkpoint: Checkpoint, content: "np.memmap[tuple[int], np.dtype[np.uint8]]", start: int, offsets: dict[str, int]
) -> None:
    """First values everywhere, then the rows that training touched; tables begin at `start`."""
    for number, group in enumerate(checkpoint.manifest.layout.groups):
        spec = checkpoint.manifest.spec
        initial_rows = InitialRows(group, spec.embedding, spec.seed)
        for member, table in enumerate(group.tables):
            begin = start + offsets[table.name]
            rows = table.num_embeddings
            view = content[begin : begin + 4 * rows * group.embedding_dim].view(np.float32)
            weights = view.reshape(rows, group.embedding_dim)
            for first in range(0, rows, FILL_ROWS):
                keys = np.arange(first, min(first + FILL_ROWS, rows)) + group.offsets[member]
                initial_rows.fill(keys, keys - group.offsets[member], weights)
        _overwrite_touched(checkpoint, number, content, start, offsets)


def _overwrite_touched(
    checkpoint: Checkpoint,
    number: int,
    content: "np.memmap[tuple[int], np.dtype[np.uint8]]",
    start: int,
    offsets: dict[str, int],
) -> None:
    group = checkpoint.manifest.layout.groups[number]
    bounds = np.array([*group.offsets, group.num_rows], np.int64)
    dim = group.embedding_dim
    for keys, records in sorted_rows(checkpoint, number):
        cuts = np.searchsorted(keys, bounds)
        for member, table in enumerate(group.tables):
            here = slice(int(cuts[member]), int(cuts[member + 1]))
            begin = start + offsets[table.name]
            view = content[begin : begin + 4 * table.num_embeddings * dim].view(np.float32).reshape(-1, dim)
            view[keys[here] - bounds[member]] = records[here, :dim]


def _header(layout: TableLayout) -> tuple[bytes, dict[str, int], int]:
    """The safetensors header, each table's offset behind it, and the length of all tables."""
    entries, offsets, end = {}, {}, 0
    for table in layout.tables:
        shape = [table.num_embeddings, table.embedding_dim]
        size = 4 * shape[0] * shape[1]
        entries[table.name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        offsets[table.name] = end
        end += size
    text = encode(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offsets, end


def load_tables(directory: Path) -> dict[str, "np.ndarray[tuple[int, int], np.dtype[np.float32]]"]:
    """The tables of an export, by name.

    Raises:
        CheckpointError: there is no export.
    """
    path = directory / "tables.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; write it with `bagpipe export`")
    return dict(safetensors.numpy.load_file(path))

"""A warm start: the oracle writes the first values of rows, from another run or from files, once before the first step.

They are written like a checkpoint (`<checkpoints>/initial/`), so servers and trainers load them as they load one. The
folder has another name, so it is never resumed.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import safetensors.numpy

from bagpipe.batch import Cursor, Floats, Keys
from bagpipe.checkpoint.dense_files import DENSE_WEIGHTS
from bagpipe.checkpoint.kept_data import load_kept
from bagpipe.checkpoint.manifest import Manifest
from bagpipe.checkpoint.places import JOB_FILE, WARM_START_REPORT, checkpoints_of
from bagpipe.checkpoint.row_maps import Rows, TableOfRun, row_map
from bagpipe.checkpoint.store import Checkpoint, commit, describe_file, is_complete, newest_complete, open_checkpoint
from bagpipe.checkpoint.vector_files import read_vectors
from bagpipe.config.document import JobSpec
from bagpipe.data.transform import Transform
from bagpipe.errors import ConfigError
from bagpipe.lowlevel.atomic_files import cannot_read, drafts_of, make_folder, write_whole
from bagpipe.net.messages import SnapshotFile
from bagpipe.rows.recipe import TableRecipe, recipe_of
from bagpipe.rows.record import group_record_width, initial_state, record_widths, state_width
from bagpipe.tables import TableLayout

FOLDER = "initial"
_FILES = r"manifest\.json|part\d{6,}\.safetensors|dense[a-z_]*\.safetensors|dense-weights\.txt"
_OURS = re.compile(rf"{_FILES}|{drafts_of(_FILES).pattern}|\.nfs[0-9a-f]+")
"""Names of the files that a warm start writes, and of what a killed one leaves."""
KEPT_STATE = ("adagrad", "rowwise-adagrad", "sgd")
"""Optimizers whose state means the same in another run; adam's depends on the number of the step."""


@dataclass(frozen=True, slots=True)
class _Target:
    """A table of the job, and where its records lie."""

    of: TableOfRun
    recipe: TableRecipe
    group: int
    offset: int
    width: int


@dataclass(slots=True)
class _Line:
    """A line of the report: what was taken for one table."""

    table: str
    source: str
    rows: int = 0
    state: str = ""
    why: str = ""


def check_sources(spec: JobSpec) -> None:
    """Check that the run and the files that the job begins with exist, before its data is prepared.

    Raises:
        CheckpointError: the other run's manifest cannot be read.
        ConfigError: the other run has no complete checkpoint, or a file is not there.
    """
    if spec.init_from is not None:
        open_source(Path(spec.init_from.run))
    for number, one in enumerate(spec.embedding.overrides):
        if one.init_from is not None and not Path(one.init_from).is_file():
            raise ConfigError(
                f"spec.embedding.overrides[{number}].initFrom: {one.init_from}: no such file; give .npy or Parquet"
            )


def prepare_first_values(
    spec: JobSpec, layout: TableLayout, transform: Transform, *, root: Path, run_dir: Path
) -> Path | None:
    """Write the first values of the job's rows, and a report of what was taken; None where the job has no warm start.

    Args:
        root: the folder of the job's checkpoints.

    Raises:
        CheckpointError: the other run has no complete checkpoint, or it is damaged.
        ConfigError, DataError: tables or files do not fit, or the folder of this name is somebody else's.
        StorageError: the disk is full.

    After an error nothing is left.
    """
    files = _files_of_tables(spec, layout)
    if spec.init_from is None and not files:
        return None
    folder = root / FOLDER
    _check_is_ours(folder)
    shutil.rmtree(folder, ignore_errors=True)
    targets = _targets(spec, layout, transform)
    try:
        make_folder(folder)
        lines = _write(spec, layout, targets, files, folder)
        write_whole(run_dir / WARM_START_REPORT, report(lines).encode())
    except BaseException:  # Nobody would remove it: it is as large as the tables, and no checkpoint.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _check_is_ours(folder: Path) -> None:
    """Refuse to replace a folder of the user's own that has this name: `initFrom` may even name a file in it.

    Raises:
        ConfigError: something is in it that no warm start has written.
        StorageError: it cannot be looked into.
    """
    if not folder.is_dir():
        return
    try:
        strange = next((path.name for path in sorted(folder.iterdir()) if not _OURS.fullmatch(path.name)), None)
    except OSError as error:
        raise cannot_read(folder, error) from None
    if strange is not None:
        raise ConfigError(
            f"spec.checkpoint.path: {folder}: holds {strange}, which bagpipe did not write, and a warm start keeps its "
            "first values in a folder of that name; choose another path, or move the file"
        )


def _write(
    spec: JobSpec, layout: TableLayout, targets: dict[str, _Target], files: dict[str, Path], folder: Path
) -> list[_Line]:
    """Fill the folder, its manifest last; returns what was taken."""
    writer = _Writer(folder)
    lines = [_from_file(path, targets[name], writer) for name, path in files.items()]
    dense: tuple[SnapshotFile, ...] = ()
    if spec.init_from is not None:
        source = open_source(Path(spec.init_from.run))
        lines += _from_run(source, spec, {n: t for n, t in targets.items() if n not in files}, writer)
        dense = _dense(source, folder)
    commit(folder, _manifest(spec, layout, tuple(writer.files), dense))
    return lines


def open_source(place: Path) -> Checkpoint:
    """The newest checkpoint of a run directory or of a folder of checkpoints, or the checkpoint itself.

    Raises:
        CheckpointError: its manifest cannot be read.
        ConfigError: there is none, or the run's own job cannot be read.
    """
    root = checkpoints_of(place)
    found = newest_complete(root) or newest_complete(place) or place
    if is_complete(found):
        return open_checkpoint(found)
    if (place / "score.py").is_file() and (place / "model.json").is_file():
        why = "found an export, from which no training begins; give the run that it was made of"
    elif not place.is_dir():
        why = "found no such folder; give its directory, or one of its checkpoints"
    elif (place / JOB_FILE).is_file():
        why = f"found none in {root}; let it run to its first checkpoint (spec.checkpoint.every), or give another"
    else:
        why = "found none; give its directory, a folder of checkpoints, or one checkpoint"
    raise ConfigError(f"spec.initFrom.run: {place}: expected a run with a complete checkpoint, {why}")


def _files_of_tables(spec: JobSpec, layout: TableLayout) -> dict[str, Path]:
    names = {table.name for table in layout.tables}
    files = {}
    for number, one in enumerate(spec.embedding.overrides):
        if one.init_from is not None:
            if len(one.tables) != 1 or one.tables[0] not in names:
                where = f"spec.embedding.overrides[{number}]"
                raise ConfigError(
                    f"{where}.initFrom: expected one table by its name in {where}.tables, found {list(one.tables)}"
                )
            files[one.tables[0]] = Path(one.init_from)
    return files


def _targets(spec: JobSpec, layout: TableLayout, transform: Transform) -> dict[str, _Target]:
    found = {}
    for number, group in enumerate(layout.groups):
        width = group_record_width(spec.embedding, group)
        for table, offset in zip(group.tables, group.offsets, strict=True):
            recipe = recipe_of(spec.embedding, table.name)
            found[table.name] = _Target(TableOfRun(table, transform), recipe, number, offset, width)
    return found


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────


class _Writer:
    """Shard files of the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: list[SnapshotFile] = []

    def write(self, target: _Target, rows: Rows, vectors_KD: Floats, state: Floats | None) -> None:
        """Write records of these rows: their vectors, and the optimizer's state, or its initial one (None)."""
        if not rows.size:
            return
        dim = target.of.table.embedding_dim
        records = np.full((rows.size, target.width), initial_state(target.recipe.optimizer), np.float32)
        records[:, :dim] = vectors_KD
        if state is not None:
            records[:, dim : dim + state.shape[1]] = state
        keys: Keys = rows + target.offset
        name = f"part{len(self.files):06d}.safetensors"
        content = safetensors.numpy.save({"keys": keys, "records": records}, {"group": str(target.group)})
        write_whole(self._folder / name, content)
        self.files.append(describe_file(self._folder, name))


def _from_file(path: Path, target: _Target, writer: _Writer) -> _Line:
    line = _Line(target.of.table.name, path.name, state="begins anew")
    for rows, vectors in read_vectors(path, target.of):
        writer.write(target, rows, vectors, None)
        line.rows += rows.size
    return line


def _from_run(source: Checkpoint, spec: JobSpec, targets: dict[str, _Target], writer: _Writer) -> list[_Line]:
    assert spec.init_from is not None
    manifest, renamed = source.manifest, spec.init_from.tables
    kept = load_kept(source)
    theirs = {t.name: TableOfRun(t, kept.transform if kept else None) for t in manifest.tables}
    for here, there in renamed.items():
        if here not in targets or there not in theirs:
            missing = f"{here!r} is no table of this job" if here not in targets else f"{there!r} no table of that run"
            raise ConfigError(
                f"spec.initFrom.tables: {missing}; it has {', '.join(targets if here not in targets else theirs)}"
            )
    lines, takers = [], []
    for name, target in targets.items():
        their_name = renamed.get(name, name)
        line = _Line(name, their_name)
        lines.append(line)
        if their_name not in theirs:
            line.why = "not there"
            continue
        rows = row_map(target.of, theirs[their_name])
        if isinstance(rows, str):
            line.why = rows
            continue
        takers.append((line, target, rows))
        same = _same_state(target.recipe, recipe_of(manifest.spec.embedding, their_name))
        line.state = "kept" if same else "begins anew"
    for line, target, rows, found, vectors, state in _records(source, takers):
        taken = rows[found] >= 0
        line.rows += int(np.count_nonzero(taken))
        kept_state = state[taken] if line.state == "kept" and state.shape[1] else None
        writer.write(target, rows[found][taken], vectors[taken], kept_state)
    gone = set(theirs) - {line.source for line in lines}
    return [*lines, *(_Line("", name, why="no table here") for name in sorted(gone))]


def _records(
    source: Checkpoint, takers: list[tuple[_Line, _Target, Rows]]
) -> Iterator[tuple[_Line, _Target, Rows, Rows, Floats, Floats]]:
    """For each stored part of a table that is taken: its rows there, their vectors and their state."""
    manifest = source.manifest
    for file in manifest.shards:
        number, keys, records = source.rows(file)
        group = manifest.layout.groups[number]
        names, dim = [t.name for t in group.tables], group.embedding_dim
        member = np.searchsorted(np.array(group.offsets), keys, side="right") - 1
        for line, target, rows in takers:
            if line.source in names:
                place = names.index(line.source)
                here = np.flatnonzero(member == place)
                optimizer = recipe_of(manifest.spec.embedding, line.source).optimizer
                end = dim + state_width(optimizer, dim)
                part = records[here]
                yield line, target, rows, keys[here] - group.offsets[place], part[:, :dim], part[:, dim:end]


def _same_state(here: TableRecipe, there: TableRecipe) -> bool:
    a, b = here.optimizer, there.optimizer
    return a.name == b.name and a.name in KEPT_STATE and bool(a.momentum) == bool(b.momentum)


# ── dense weights, manifest, report ───────────────────────────────────────────────────────────────


def _dense(source: Checkpoint, folder: Path) -> tuple[SnapshotFile, ...]:
    """Copy the dense weights; trainers, which have the model, take those that fit."""
    for file in source.manifest.dense:
        if file.name == DENSE_WEIGHTS:
            write_whole(folder / DENSE_WEIGHTS, source.read(file))
            return (describe_file(folder, DENSE_WEIGHTS),)
    return ()


def _manifest(
    spec: JobSpec, layout: TableLayout, shards: tuple[SnapshotFile, ...], dense: tuple[SnapshotFile, ...]
) -> Manifest:
    return Manifest(
        job="",
        step=0,
        cursor=Cursor(),
        spec=spec,
        tables=layout.tables,
        record_widths=record_widths(spec.embedding, layout),
        num_servers=1,
        num_trainers=1,
        shards=shards,
        dense=dense,
        first_values=True,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def report(lines: list[_Line]) -> str:
    """A table for people."""
    cells = [("table", "from", "rows taken", "optimizer state")]
    for line in lines:
        taken = f"none: {line.why}" if line.why else f"{line.rows:,}"
        cells.append((line.table or "-", line.source, taken, line.state or "-"))
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    return "".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() + "\n" for row in cells)

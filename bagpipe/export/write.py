"""`bagpipe export`: a folder that scores raw rows without Bagpipe.

score.py              the command and `load()`
model.json            tables, model, labels, how the rows are stored
tables.safetensors    (and rows, scales) the embedding tables, see `bagpipe.export.tables`
dense.safetensors     dense weights by name
transform/            what turns raw values into rows
code/                 the scorer's modules and the model's class, as source
files.json            size and SHA-256 of all these files; they are compared with it before anything is loaded
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from bagpipe.checkpoint.dense_files import DENSE_WEIGHTS, weights_in_use
from bagpipe.checkpoint.kept_data import KeptData, load_kept
from bagpipe.checkpoint.kept_files import FINGERPRINT_FILE, FOLDER
from bagpipe.checkpoint.kept_rows import KeptRows, kept_rows
from bagpipe.checkpoint.store import Checkpoint, open_checkpoint
from bagpipe.config.losses import loss_kind
from bagpipe.errors import CheckpointError, ConfigError
from bagpipe.export.code import code_for
from bagpipe.export.graph import Graph, GraphFormat, graph_inputs, write_graph
from bagpipe.export.manifest import check_export, write_manifest
from bagpipe.export.tables import Dtype, write_tables
from bagpipe.lowlevel.atomic_files import cannot_write, make_folder, write_whole
from bagpipe.lowlevel.lease import FILE_NAME, Lease, Owner
from bagpipe.models.base import constructor_arguments, find_model
from bagpipe.rows.recipe import recipe_of
from bagpipe.standalone import score
from bagpipe.standalone.model import VERSION
from bagpipe.trainer.scorer import Scorer

OFFERED = ("layout", "num_dense", "num_labels")
DRAFT = ".draft"
"""Within the folder that is exported to: where everything lies until it is whole."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    folder: Path
    files: tuple[str, ...]
    requires: tuple[str, ...]
    """Packages beside torch, numpy and pyarrow that the model's own code imports."""


def export_model(
    directory: Path,
    out: Path,
    *,
    dtypes: Mapping[str, Dtype] | None = None,
    all_rows: bool = False,
    graph: GraphFormat | None = None,
) -> Exported:
    """Write a checkpoint's model as a folder that scores alone, and load it once to see that it does.

    Args:
        directory: a checkpoint.
        out: a folder that is empty or not there.
        dtypes: how the values of a table are stored, by its name; `*`: of all others. By default fp32.
        all_rows: store rows that training never touched too; without, they are computed when they are read.
        graph: lookup and dense part as one graph too, in this format.

    Raises:
        CheckpointError: the checkpoint is incomplete or corrupt, or keeps no transform.
        ConfigError: `out` holds something, a table is not there, or the model's code cannot be copied.
        DataError: a weight is too large for its type.
        StorageError: the disk is full or refuses; nothing is left in `out`.
    """
    checkpoint = open_checkpoint(directory)
    _check_empty(out)
    kept = load_kept(checkpoint)
    if kept is None:
        raise CheckpointError(f"{directory}: written before transforms were kept; resume the run to get a new one")
    chosen = table_dtypes(checkpoint, dtypes or {})
    model = _model(checkpoint, kept)
    code = code_for(model["module"])
    facts = _facts(checkpoint, kept, model, chosen, all_rows=all_rows) | {"requires": sorted(code.requires)}
    rows = kept_rows(checkpoint)
    with _all_or_nothing(out) as draft:
        names = write_tables(rows, draft, chosen, all_rows=all_rows)
        if graph is not None:
            made = _graph(checkpoint, kept, rows)
            names.append(write_graph(made, draft, graph))
            facts["graph"] = [asdict(known) for known in made.inputs]
        names += _copy(checkpoint, draft)
        for name, text in code.files.items():
            make_folder((draft / "code" / name).parent)
            write_whole(draft / "code" / name, text.encode())
        write_whole(draft / "score.py", Path(score.__file__).read_bytes())
        write_whole(draft / "model.json", msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n")
        write_manifest(draft)
        load_export(draft)
        for folder in draft.rglob("__pycache__"):
            shutil.rmtree(folder)
    return Exported(out, (*names, "model.json", "score.py", score.MANIFEST, "code"), tuple(sorted(code.requires)))


def _graph(checkpoint: Checkpoint, kept: KeptData, rows: Sequence[KeptRows]) -> Graph:
    model, info = Scorer(checkpoint, kept.transform, rows).model, kept.transform.info
    layout = checkpoint.manifest.layout
    return Graph(model, len(info.dense), layout, rows, graph_inputs(layout, info, model))


def load_export(folder: Path) -> Any:
    """An export's model, by the export's own code (`bagpipe.standalone.model.ExportedModel`).

    Raises:
        CheckpointError: this is no export, or a file of it is damaged.
    """
    module = _score_module(folder)
    try:
        return module.load(folder)
    except Exception as error:  # The export's code is its own package, and so are its errors; a fault is raised on.
        if not hasattr(error, "exit_code"):
            raise
        damaged = CheckpointError(str(error))
        damaged.exit_code = error.exit_code
        raise damaged from None


def is_export(folder: Path) -> bool:
    """Whether a folder holds what `export_model` writes."""
    return (folder / "score.py").is_file() and (folder / "model.json").is_file()


def table_dtypes(checkpoint: Checkpoint, asked: Mapping[str, Dtype]) -> dict[str, Dtype]:
    """The type of every table.

    Raises:
        ConfigError: a table is named that is not there.
    """
    names = [table.name for table in checkpoint.manifest.tables]
    for name in asked:
        if name not in (*names, "*"):
            raise ConfigError(f"--dtype: there is no table {name}; the tables are {', '.join(names)}")
    return {name: asked.get(name, asked.get("*", "fp32")) for name in names}


def _score_module(folder: Path) -> ModuleType:
    path = folder / "score.py"
    spec = importlib.util.spec_from_file_location("bagpipe_export_score", path)
    if not is_export(folder) or spec is None or spec.loader is None:
        raise CheckpointError(f"{folder}: no export; write one with `bagpipe export RUN {folder}`")
    check_export(folder, path.name)  # What it then compares itself may be wrong if it is damaged.
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _model(checkpoint: Checkpoint, kept: KeptData) -> dict[str, Any]:
    """Where the model's class is and what it is called with."""
    manifest, info = checkpoint.manifest, kept.transform.info
    where, found = find_model(manifest.spec.model)
    offered = dict(zip(OFFERED, (manifest.layout, len(info.dense), info.num_labels), strict=True))
    arguments = constructor_arguments(manifest.spec.model, where, found, **offered)
    name = getattr(found, "__qualname__", "")
    if not name or "<" in name:
        raise ConfigError(f"{where}: defined within a function, so an export cannot name it; define it in a module")
    return {
        "module": found.__module__,
        "class": name,
        "offered": [n for n in OFFERED if n in arguments],
        "arguments": {n: value for n, value in arguments.items() if n not in OFFERED},
    }


def _facts(
    checkpoint: Checkpoint, kept: KeptData, model: dict[str, Any], dtypes: Mapping[str, Dtype], *, all_rows: bool
) -> dict[str, Any]:
    manifest = checkpoint.manifest
    spec, transform, loss = manifest.spec, kept.transform, loss_kind(manifest.spec.model)
    return {
        "format": VERSION,
        "job": manifest.job,
        "step": manifest.step,
        "labels": transform.label_names,
        "dense": transform.info.dense,
        "tables": manifest.tables,
        "model": model,
        "precision": spec.model.precision,
        "outputs": "clicks" if loss is None else loss.figures,
        "dtypes": dtypes,
        "allRows": all_rows,
        "seed": spec.seed,
        "initScales": [recipe_of(spec.embedding, table.name).init_scale for table in manifest.tables],
        "batchSize": spec.batch_size,
        "threads": spec.trainers.threads,
        "transform": transform.digest,
    }


def _copy(checkpoint: Checkpoint, out: Path) -> Sequence[str]:
    """Dense weights, or their average where the job keeps one, and the transform."""
    write_whole(out / DENSE_WEIGHTS, checkpoint.read(weights_in_use(checkpoint)))
    names = [DENSE_WEIGHTS]
    for file in checkpoint.manifest.data:
        if file.name != f"{FOLDER}/{FINGERPRINT_FILE}":
            make_folder(out / FOLDER)
            write_whole(out / file.name, checkpoint.read(file))
            names.append(file.name)
    return names


def _check_empty(out: Path) -> None:
    """Refuse a place that holds something, other than the draft of another process or of one that was killed.

    Raises:
        ConfigError: it does.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise ConfigError(f"{out}: expected an empty directory to export to, found {_what(out)}; choose another name")
    found = sorted(entry.name for entry in out.iterdir() if entry.name != DRAFT)
    if found:
        more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
        raise ConfigError(
            f"{out}: expected an empty directory to export to, found {found[0]}{more} in it; choose another, or "
            "delete this one"
        )


def _what(place: Path) -> str:
    if place.is_symlink() and not place.exists():
        return "a link to nothing"
    return "a file"


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[Path]:
    """A draft in `out` that the body fills. If it succeeds, what it wrote is moved to `out`, what makes an export last.

    Of two processes that export to one folder at once the second is refused. What a killed one left is removed.

    Raises:
        ConfigError: another process exports to `out`; it is named.
        StorageError: the disk is full or refuses; nothing is left in `out`.
    """
    made, draft = not out.exists(), out / DRAFT
    try:
        make_folder(draft)
        with Lease.take(draft, str(out), Owner.here("bagpipe export", datetime.now())):
            try:
                _check_empty(out)
                _clear(draft)
                yield draft
                _move(draft, out)
            finally:
                _clear(draft)
    finally:
        with suppress(OSError):  # Of another process, which still writes there.
            draft.rmdir()
            if made:
                out.rmdir()


def _clear(draft: Path) -> None:
    for entry in draft.iterdir():
        if entry.name != FILE_NAME:
            _delete(entry)


def _delete(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _move(draft: Path, out: Path) -> None:
    """By `model.json` an export is known, so it comes last. After an error nothing is left, so that `out` is empty."""
    names = [entry.name for entry in draft.iterdir() if entry.name != FILE_NAME]
    try:
        for name in sorted(names, key=lambda name: name == "model.json"):
            os.rename(draft / name, out / name)
    except BaseException as error:
        for name in names:
            if not os.path.lexists(draft / name):  # It was moved.
                _delete(out / name)
        if isinstance(error, OSError):
            raise cannot_write(out, error) from None
        raise

"""`bagpipe checkpoint ls|show|verify`: look at checkpoints without loading them into a job."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bagpipe.cli.values import local_path

if TYPE_CHECKING:
    from bagpipe.checkpoint.manifest import Manifest

app = typer.Typer(help="List, show and verify checkpoints.", no_args_is_help=True)

Where = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="A checkpoint, a folder of checkpoints, or a run directory.",
        show_default=False,
        parser=local_path,
    ),
]


Best = Annotated[
    bool,
    typer.Option("--best", help="The best checkpoint by the run's spec.checkpoint.best; otherwise it is the newest."),
]


def _complete(where: Path) -> list[Path]:
    """Complete checkpoints in or at `where`, oldest first.

    Raises:
        CheckpointError: there is none.
    """
    from bagpipe.checkpoint.places import checkpoints_of
    from bagpipe.checkpoint.store import list_checkpoints, open_checkpoint
    from bagpipe.errors import CheckpointError

    found = list_checkpoints(where) or list_checkpoints(checkpoints_of(where))
    if found:
        return found
    if not where.exists():
        raise CheckpointError(
            f"{where}: no such folder; give a run directory, a folder of checkpoints, or one checkpoint"
        )
    if (where / "score.py").is_file() and (where / "model.json").is_file():
        raise CheckpointError(
            f"{where}: an export, which only `bagpipe predict` and its own score.py read; give the run"
        )
    return [open_checkpoint(where).directory]


def newest(where: Path, *, best: bool = False) -> Path:
    """The newest complete checkpoint in or at `where`; models that lie in its run directory are importable.

    Args:
        best: the best one instead.

    Raises:
        CheckpointError: there is none, or no best one.
    """
    from bagpipe.checkpoint.best import chosen_best
    from bagpipe.checkpoint.places import JOB_FILE
    from bagpipe.local.user_modules import offer_beside

    found = _complete(where)[-1]
    if best:
        found = chosen_best(found.absolute().parent)
    for run in (where, found.absolute().parent.parent):
        if (run / JOB_FILE).is_file():
            offer_beside(run / JOB_FILE)
            break
    return found


def _manifest_of(path: Path) -> "Manifest | None":
    """The manifest of a listed checkpoint; None: its run has deleted it meanwhile, because it keeps newer ones.

    Raises:
        CheckpointError: it is damaged.
    """
    from bagpipe.checkpoint.store import is_complete, open_checkpoint
    from bagpipe.errors import CheckpointError

    try:
        return open_checkpoint(path).manifest
    except CheckpointError:
        if is_complete(path):
            raise
        return None


@app.command("ls")
def ls(where: Where) -> None:
    """List complete checkpoints, oldest first, with the figure by which the run keeps its best one."""
    from bagpipe.checkpoint.best import best_checkpoint
    from bagpipe.checkpoint.store import open_checkpoint
    from bagpipe.metrics.validations import figure

    complete = _complete(where)
    newest_manifest = open_checkpoint(complete[-1]).manifest
    history, metric = newest_manifest.validations, newest_manifest.spec.checkpoint.best
    best = None if metric is None else best_checkpoint(complete[-1].absolute().parent, history, metric)
    for path in complete:
        if (manifest := _manifest_of(path)) is None:
            continue
        size = sum(f.num_bytes for f in manifest.files)
        found = next((figure(one, metric) for one in history if metric and one.step == manifest.step), None)
        shown = "" if found is None else f"  {metric} {found:.6f}{' (best)' if path.absolute() == best else ''}"
        typer.echo(f"step {manifest.step:>9,}  {size / 1e6:10.1f} MB  {manifest.created}  {path}{shown}")


@app.command("show")
def show(where: Where) -> None:
    """Show what the (newest) checkpoint holds, and the digest of its model."""
    from bagpipe.checkpoint.digest import model_digest
    from bagpipe.checkpoint.store import open_checkpoint

    path = newest(where)
    manifest = open_checkpoint(path).manifest
    facts = {
        "checkpoint": path,
        "job": manifest.job,
        "created": manifest.created,
        "step": manifest.step,
        "cursor": f"epoch {manifest.cursor.epoch}, example {manifest.cursor.position:,}",
        "servers": manifest.num_servers,
        "trainers": manifest.num_trainers,
        "optimizer": manifest.spec.embedding.optimizer.name,
        "modelDigest": model_digest(path),
    }
    for name, value in facts.items():
        typer.echo(f"{name:12s} {value}")
    for table in manifest.tables:
        typer.echo(f"table        {table.name}: {table.num_embeddings:,} rows of width {table.embedding_dim}")
    for file in manifest.files:
        typer.echo(f"file         {file.name}: {file.num_bytes:,} bytes, sha256 {file.sha256}")


@app.command("verify")
def verify(where: Where) -> None:
    """Compare every file of every checkpoint with its manifest; exit 65 at the first that differs."""
    from bagpipe.checkpoint.store import is_complete, open_checkpoint
    from bagpipe.errors import CheckpointError

    for path in _complete(where):
        try:
            open_checkpoint(path).verify()
        except CheckpointError:
            if is_complete(path):
                raise
            typer.echo(f"{path}: deleted meanwhile by its run, which keeps newer ones")
            continue
        typer.echo(f"{path}: whole")

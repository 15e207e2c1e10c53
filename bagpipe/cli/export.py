"""`bagpipe export`: a trained model as a folder that scores raw rows without Bagpipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from bagpipe.cli.checkpoint import Where, newest
from bagpipe.cli.values import local_path

if TYPE_CHECKING:
    from bagpipe.export.tables import Dtype

DTYPES = ("fp32", "fp16", "int8")


def export(
    where: Where,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Folder to write to; it must be empty or new.", show_default=False, parser=local_path
        ),
    ],
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            "--dtype",
            metavar="[TABLE=]TYPE",
            help="How rows are stored: fp32 (default), fp16 or int8; of one table, or of all. Repeatable.",
        ),
    ] = None,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="Store rows that training never touched too, as whole tables.")
    ] = False,
) -> None:
    """Write a model as a folder whose score.py turns raw rows into scores with torch, numpy and pyarrow alone."""
    from bagpipe.export.loss_in_auc import loss_in_auc
    from bagpipe.export.write import export_model

    checkpoint, dtypes = newest(where), _dtypes(dtype or [])
    done = export_model(checkpoint, out, dtypes=dtypes, all_rows=all_rows)
    typer.echo(f"{out}: {', '.join(done.files)}")
    if done.requires:
        typer.echo(f"the model's code imports {', '.join(done.requires)}; install them where it scores")
    if set(dtypes.values()) - {"fp32"}:
        typer.echo(loss_in_auc(checkpoint, dtypes))


def _dtypes(asked: list[str]) -> "dict[str, Dtype]":
    from bagpipe.errors import ConfigError

    found: dict[str, Dtype] = {}
    for one in asked:
        table, _, dtype = one.rpartition("=")
        if dtype not in DTYPES:
            raise ConfigError(f"--dtype: expected [TABLE=]TYPE with one of {', '.join(DTYPES)}, found {one!r}")
        found[table or "*"] = cast("Dtype", dtype)
    return found

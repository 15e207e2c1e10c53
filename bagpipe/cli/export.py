"""`bagpipe export`: a trained model as plain tensors, for use without Bagpipe."""

from pathlib import Path
from typing import Annotated

import typer

from bagpipe.cli.checkpoint import Where, newest
from bagpipe.cli.values import local_path


def export(
    where: Where,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Folder to write to; it must be empty or new.", show_default=False, parser=local_path
        ),
    ],
) -> None:
    """Write a checkpoint's whole tables and dense weights as safetensors, which plain PyTorch scores alike."""
    from bagpipe.checkpoint.export import export_model

    for name in export_model(newest(where), out):
        typer.echo(str(out / name))

"""`bagpipe version`: the versions of everything that can change results."""

import typer

from bagpipe.lowlevel.versions import versions


def version() -> None:
    """Print the versions of bagpipe, Python and the libraries that can change results."""
    for name, found in versions().items():
        typer.echo(f"{name} {found or 'not installed'}")

"""`bagpipe version`: the versions of everything that can change results."""

import platform
from importlib import metadata

import typer

import bagpipe

LIBRARIES = ("torch", "numpy", "numba", "pyzmq", "msgspec", "pyarrow")


def version() -> None:
    """Print the versions of bagpipe, Python and the libraries that can change results."""
    typer.echo(f"bagpipe {bagpipe.__version__}")
    typer.echo(f"python {platform.python_version()}")
    for name in LIBRARIES:
        try:
            typer.echo(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            typer.echo(f"{name} not installed")

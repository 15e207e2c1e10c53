"""Versions of everything that can change the bits of a result."""

import platform
from importlib import metadata

import bagpipe

LIBRARIES = ("torch", "numpy", "numba", "pyzmq", "msgspec", "pyarrow")


def versions() -> dict[str, str | None]:
    """Versions by name: bagpipe, python, and each library; None: it is not installed. Imports none of them."""
    return {"bagpipe": bagpipe.__version__, "python": platform.python_version()} | {
        name: _installed(name) for name in LIBRARIES
    }


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

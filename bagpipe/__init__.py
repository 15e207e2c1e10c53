"""Bagpipe: exact distributed training of deep recommendation models.

The public surface is small: `init_cache` and `BagCache` (the paper's trainer API), `register_model`,
and the `bagpipe` command. torch is imported only when one of them is asked for, so that the oracle and
the embedding servers run without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bagpipe.api import BagCache, init_cache
    from bagpipe.models.base import register_model

__version__ = "0.1.0"

__all__ = ["BagCache", "__version__", "init_cache", "register_model"]

_HOME = {"BagCache": "bagpipe.api", "init_cache": "bagpipe.api", "register_model": "bagpipe.models.base"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'bagpipe' has no attribute {name!r}")

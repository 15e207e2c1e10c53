"""Bagpipe: exact distributed training of deep recommendation models.

    import bagpipe
    run = bagpipe.fit("dlrm", data=frame, trainers=2)      # docs/python.md
    run.evaluate(other) ; run.predict(rows) ; run.export("model/")

docs/api.md lists every public name. Each is imported when it is first asked for, so that the oracle and the embedding
servers run without torch, and `import bagpipe` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bagpipe.lowlevel.kernel_cache import choose_cache

if TYPE_CHECKING:
    from bagpipe.api import BagCache, init_cache
    from bagpipe.interactive.fit import fit
    from bagpipe.interactive.run import Run
    from bagpipe.interactive.session import local
    from bagpipe.interactive.transform import Transform
    from bagpipe.models.base import register_model

__version__ = "0.1.0"

__all__ = ["BagCache", "Run", "Transform", "__version__", "fit", "init_cache", "local", "register_model"]

_HOME = {
    "BagCache": "bagpipe.api",
    "Run": "bagpipe.interactive.run",
    "Transform": "bagpipe.interactive.transform",
    "fit": "bagpipe.interactive.fit",
    "init_cache": "bagpipe.api",
    "register_model": "bagpipe.models.base",
}


def __getattr__(name: str) -> Any:
    if name == "local" or name in _HOME:
        choose_cache()
    if name == "local":  # A package that can be called: see its first lines.
        return import_module("bagpipe.local")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'bagpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

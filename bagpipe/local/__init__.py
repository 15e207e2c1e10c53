"""Runs whole jobs on this machine: roles as processes, and what to do when one of them ends.

The package can be called: `bagpipe.local(...)` is a session (`bagpipe.interactive.session`). A function of that name
would hide this package, or be hidden by it.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        """A session; see `bagpipe.interactive.session.local`."""
        return import_module("bagpipe.interactive.session").local(*args, **settings)


sys.modules[__name__].__class__ = _Package

"""Loads torch's compiler (`torch._dynamo`) only when something is compiled.

Every optimizer of torch and DDP import it, only to mark functions that a compilation should skip. Where nothing is
compiled that is a third of a trainer's start (a second of processor time, and 70 MiB). So its place in `sys.modules` is
taken by an empty module that answers these few calls. An access to any other name, or an import from inside it, turns
that same module object into the real one.

This is for the library's own processes only: a program that embeds Bagpipe keeps the modules it has.
"""

import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

NAME = "torch._dynamo"
_WAKING = threading.RLock()


def defer() -> None:
    """Put the empty module in place, unless the real one is there already or torch is not installed."""
    torch = importlib.util.find_spec("torch")
    if NAME in sys.modules or torch is None or not torch.submodule_search_locations:
        return
    module = _Asleep(torch.submodule_search_locations)
    sys.modules[NAME] = module
    sys.meta_path.insert(0, _Waker(module))


class _Asleep(ModuleType):
    """The empty module. An access to a name that it lacks makes it the real one."""

    _answers: dict[str, Any]
    _folders: list[str]
    _waking: bool

    def __init__(self, torch_folders: Sequence[str]) -> None:
        super().__init__(NAME)
        folder = Path(torch_folders[0]) / "_dynamo"
        facts = {"__path__": [str(folder)], "__file__": str(folder / "__init__.py"), "__package__": NAME}
        vars(self).update(facts, _folders=list(torch_folders), _waking=False)
        self._put_answers()

    def _put_answers(self) -> None:
        self._answers = {
            "graph_break": lambda *_, **__: None,
            "disable": self._disabled,
            "utils": SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer"),
        }
        vars(self).update(self._answers)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Code that walks through all modules asks for these.
            raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
        self.wake()
        return ModuleType.__getattribute__(self, name)

    def wake(self) -> None:
        """Become the real module; other threads wait until it is loaded."""
        with _WAKING:
            if type(self) is not _Asleep or self._waking:
                return
            spec = PathFinder.find_spec(NAME, self._folders)
            if spec is None or spec.loader is None:
                raise ImportError(f"{NAME} is not where torch is: {self._folders[0]}", name=NAME)
            for name in self._answers:
                del vars(self)[name]
            vars(self).update(_waking=True, __spec__=spec, __loader__=spec.loader)
            try:
                spec.loader.exec_module(self)
            except BaseException:
                self._waking = False
                self._put_answers()
                raise
            for name in ("_answers", "_folders", "_waking"):
                del vars(self)[name]
            self.__class__ = ModuleType  # type: ignore[assignment]  # a class of the same layout

    def _disabled(self, fn: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        """`torch._dynamo.disable`: the function itself, until the compiler is loaded and can be told to skip it."""
        if fn is None:
            return lambda fn: self._disabled(fn, *args, **kwargs)
        told: list[Callable[..., Any]] = []

        def call(*values: Any, **named: Any) -> Any:
            if type(self) is _Asleep:
                return fn(*values, **named)
            if not told:
                told.append(self.disable(fn, *args, **kwargs))
            return told[0](*values, **named)

        return call


class _Waker(MetaPathFinder):
    """An import hook for modules inside the package: it loads the real package, which has all of them."""

    def __init__(self, module: _Asleep) -> None:
        self._module = module

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{NAME}."):
            return None
        sys.meta_path.remove(self)
        self._module.wake()
        found = sys.modules.get(fullname)
        return None if found is None else ModuleSpec(fullname, _Loaded(found))


class _Loaded(Loader):
    """A loader for a module that is loaded already: it leaves it as it is."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec

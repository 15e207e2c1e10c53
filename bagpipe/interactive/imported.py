"""Whether an imported class or function is still what its file says, from which every role imports it anew.

A notebook often goes on with what it has imported while the file is edited, or assigns something to an imported class.
Plain PyTorch would then train the one, and the trainers train the other, so this is said.
"""

import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bagpipe.interactive.assigned import assigned_by_methods, surely_assigned
from bagpipe.interactive.same_code import is_text_of
from bagpipe.interactive.texts import definitions, file_text

_INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_OF_BAGPIPE = Path(__file__).resolve().parent.parent


def unlike_its_file(value: Callable[..., Any]) -> Iterator[str]:
    """In words, what this program has otherwise than the file: the class or function, and classes that it extends.

    Files of installed packages are not looked at: nobody edits them while a program runs.
    """
    parts = inspect.getmro(value) if inspect.isclass(value) else (value,)
    for part in parts:
        file = _own_file(part)
        if file is not None and "." not in part.__qualname__ and (words := _difference(part, file, parts)):
            yield f"{part.__module__}.{part.__name__} {words}"


def _own_file(value: Any) -> Path | None:
    """The file of a module that the user may have written; None: it is another's, or there is none."""
    try:
        file = inspect.getsourcefile(value)
    except (OSError, TypeError):
        return None
    place = Path(file).resolve() if file else None
    if place is None or not place.is_file() or any(place.is_relative_to(p) for p in (*_INSTALLED, _OF_BAGPIPE)):
        return None
    return place


def _difference(value: Any, file: Path, parts: Sequence[Any]) -> str | None:
    unit = file_text(value)
    texts = list(definitions(unit, value.__name__))
    if not texts:  # Something makes it, such as a call of `type`, which will make it again.
        return None
    text = next((text for text in texts if is_text_of(text, value, unit, attributes=False)), None)
    if text is None:
        return (
            f"is not what {file} says: the file was edited since it was imported, or something was assigned to it. "
            "The trainers import the file as it is; to have the same here, reload it (importlib.reload) or start again"
        )
    names = surely_assigned(text, value, vars(sys.modules[value.__module__])) if inspect.isclass(value) else []
    if names:
        counted = _assigned_by_themselves(parts)
        names = [name for name in names if name not in counted]
    if not names:
        return None
    return (
        f"has another {', '.join(names[:5])} here than in {file}: it was assigned since. The trainers import the file, "
        "and have what it says; write it there, or give it in model_args={...}"
    )


def _assigned_by_themselves(parts: Sequence[Any]) -> set[str]:
    """Names of attributes that the methods of classes assign to them, such as counters, which no user has changed."""
    owners = {part.__name__ for part in parts}
    own = [part for part in parts if _own_file(part) is not None]
    texts = [text for part in own for text in definitions(file_text(part), part.__name__)]
    return {name for text in texts for name in assigned_by_methods(text, owners)}

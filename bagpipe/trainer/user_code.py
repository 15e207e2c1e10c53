"""Finds the errors that the user's own code causes: a model, its loss, its constructor.

Such an error comes again at every attempt, so it ends the run at once, in one line that names the user's file and line.
The whole traceback goes to the trainer's log. An error of the library itself stays what it is.
"""

import inspect
import logging
import signal
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

import bagpipe
from bagpipe.errors import BagpipeError, ConfigError, DeviceError, UserCodeError
from bagpipe.lowlevel.process_life import Ended
from bagpipe.lowlevel.wording import text_of

log = logging.getLogger(__name__)

LONGEST_MESSAGE = 300
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""What torch says on a host; it has a class of its own for GPUs only."""
ONE_EXAMPLE = "Expected more than 1 value per channel"
"""What torch's batch normalisation says of a slice, most often that of a short last batch."""
EMBEDDINGS = "SparseEmbeddings"
"""In what Python and torch say of a `forward` that takes its second argument for a tensor."""
_ACCELERATOR_ERRORS: tuple[type[Exception], ...] = tuple(
    getattr(torch, name) for name in ("AcceleratorError",) if hasattr(torch, name)
)
_OURS = Path(bagpipe.__file__).parent
_LIBRARIES = tuple(Path(module.__file__).parent for module in (torch, np) if module.__file__)
_STANDARD = Path(sysconfig.get_path("stdlib"))


class Place(NamedTuple):
    """A line of somebody's code."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.name})"


@contextmanager
def naming_user_code(models: list[nn.Module]) -> Iterator[None]:
    """Turn an error that the user's code caused into `UserCodeError`, and one of the machine into what it is.

    So is `sys.exit`: a model, or a module that is also a script, may call it, and a role that ends with 0 would count
    as done. So is every other `BaseException`, as a panic of a library in Rust is one.

    Args:
        models: the job's model, once it is built: an error that torch raises about it has no line of the user's.

    Raises:
        UserCodeError: the body raised because of the user's code.
        ConfigError: the machine has too little memory for the job.
        DeviceError: a GPU failed.
    """
    try:
        yield
    except BaseException as error:
        named = machine_error(error) or user_error(error, models[0] if models else None)
        if named is None:
            raise
        log.exception("the traceback of an error in the user's code, or below it")
        raise named from None


def machine_error(error: BaseException) -> BagpipeError | None:
    """The error in one line, if the machine caused it; a model's line in the traceback is then only where it showed.

    An assertion on the device is none: it is how a GPU tells of an index out of range.
    """
    if isinstance(error, BagpipeError):
        return None
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY in text_of(error):
        return ConfigError(
            f"not enough memory ({described(error)}); lower batchSize, cacheRows or the model's sizes, or use a larger "
            "machine"
        )
    if isinstance(error, _ACCELERATOR_ERRORS) and "device-side assert" not in text_of(error):
        return DeviceError(f"a device failed ({described(error)}); it is tried again from the last checkpoint")
    return None


def user_error(error: BaseException, model: nn.Module | None) -> UserCodeError | None:
    """The error in one line, if the user's code caused it.

    So does a call of ours with what we refuse, such as a feature that is not there: our words then get the place.
    """
    if _interrupts(error):
        return None
    if isinstance(error, BagpipeError) and (isinstance(error, UserCodeError) or not isinstance(error, ConfigError)):
        return None
    frames = [Place(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)]
    own = [frame for frame in frames if _is_users(Path(frame.file))]
    if own:
        return UserCodeError(f"{own[-1]}: {error if isinstance(error, ConfigError) else described(error)}")
    if (
        isinstance(error, BagpipeError)
        or model is None
        or not frames
        or not _is_within(Path(frames[-1].file), _LIBRARIES)
    ):
        return None
    where = definition_of(model)
    if where is None:
        return None
    return UserCodeError(f"{where}: {described(error)}")


def failed_evaluation(error: BaseException, model: nn.Module, what: str) -> str | None:
    """Why the model gave no outputs, where its own code is the cause; None where it is not.

    The model is trained and saved: what its own code does in an evaluation fails that, not the run.
    """
    found = error if isinstance(error, UserCodeError) else None
    named = found or machine_error(error) or user_error(error, model)
    if named is None or isinstance(named, DeviceError):
        return None
    log.error("the model gave no outputs for %s", what, exc_info=error)
    return str(named)


def described(error: BaseException) -> str:
    """An error in one line, with what to do about those that users meet most."""
    first = next((line.strip() for line in text_of(error).splitlines() if line.strip()), "")
    text = first if len(first) <= LONGEST_MESSAGE else f"{first[:LONGEST_MESSAGE]}..."
    if ONE_EXAMPLE in text:
        text += "; a trainer's part of a batch has one example only: set spec.data.dropLast, or another batchSize"
    if EMBEDDINGS in text and isinstance(error, TypeError | AttributeError):
        text += "; it is no tensor: sparse.stacked() is [B, T, D], sparse['name'] one feature's [B, D] (docs/models.md)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _interrupts(error: BaseException) -> bool:
    """Whether it may have come into any line of code from outside: Ctrl-C, a request to end, the end of a generator.

    A role takes Ctrl-C by a handler of its own, so there a `KeyboardInterrupt` is what the user's code has raised.
    """
    if isinstance(error, KeyboardInterrupt):
        return signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, Ended | GeneratorExit)


def calling_line() -> Place | None:
    """The line of the user's from which this is called, by way of ours; None: there is none."""
    frame = inspect.currentframe()
    while frame is not None:
        place = Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        if _is_users(Path(place.file)):
            return place
        frame = frame.f_back
    return None


def definition_of(model: nn.Module) -> Place | None:
    """Where a model's `forward` stands, if that is the user's."""
    try:
        forward = inspect.unwrap(type(model).forward)  # The user's own, below a decorator of torch's.
        file, line = inspect.getsourcefile(forward), inspect.getsourcelines(forward)[1]
    except (OSError, TypeError):
        return None
    return Place(file, line, type(model).__qualname__) if file and _is_users(Path(file)) else None


def _is_users(file: Path) -> bool:
    """Not ours, torch's, numpy's or Python's own; a package that the user installed is the user's."""
    if str(file).startswith("<") or _is_within(file, (_OURS, *_LIBRARIES)):
        return False
    return not file.is_relative_to(_STANDARD) or "site-packages" in file.parts


def _is_within(file: Path, folders: tuple[Path, ...]) -> bool:
    return any(file.is_relative_to(folder) for folder in folders)

"""Parses the values of options: numbers with a unit and two bounds, endpoints, paths. An error is one line that names
the option.

typer's own ranges let `nan` pass and its paths keep `~`; so every number, endpoint and path of the command line is
read here.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bagpipe.config import paths
from bagpipe.errors import ConfigError
from bagpipe.lowlevel.process_life import current_folder
from bagpipe.net.endpoints import parse_endpoint

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


class Bounded:
    """Reads one number; a test finds every instance and checks its bounds."""

    def __init__(self, option: str, least: float, greatest: float, unit: str, kind: type[Any]) -> None:
        self.option, self.least, self.greatest, self.unit, self._kind = option, least, greatest, unit, kind
        self.__name__ = "whole number" if kind is int else "number"

    def __call__(self, given: Any) -> Any:
        """The number.

        Raises:
            ConfigError: none, not finite, or out of bounds.
        """
        value = self._read(str(given))
        if value is None or not self.least <= value <= self.greatest:
            raise ConfigError(
                f"{self.option}: expected a {self.__name__} of {self.unit} from {self.least:,} to {self.greatest:,}, "
                f"found {paths.shown(str(given))[:60]!r}; correct it"
            )
        return value

    def _read(self, text: str) -> int | float | None:
        text = text.strip()
        if self._kind is int:
            return int(text) if _WHOLE.fullmatch(text) else None
        try:
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            return None
        return value if math.isfinite(value) else None


def whole(option: str, least: int, greatest: int, unit: str) -> Bounded:
    """A reader of whole numbers from `least` to `greatest`."""
    return Bounded(option, least, greatest, unit, int)


def number(option: str, least: float, greatest: float, unit: str) -> Bounded:
    """A reader of finite numbers from `least` to `greatest`."""
    return Bounded(option, least, greatest, unit, float)


def endpoint(option: str, *, listening: bool) -> Callable[[str], str]:
    """A reader of `tcp://host:port`; `tcp://` may be left out, an IPv6 address stands in brackets.

    Args:
        listening: whether a socket is to listen there: port 0 is then any free one, and host `*` every interface.
    """
    least = 0 if listening else 1

    def read(given: str) -> str:
        try:
            return str(parse_endpoint(given.strip(), listening=listening))
        except ConfigError:
            raise ConfigError(
                f"{option}: expected tcp://host:port, with a port from {least} to 65535 and an IPv6 address in "
                f"brackets, found {paths.shown(given)[:80]!r}; correct it"
            ) from None

    return read


def scheduler_address(option: str) -> Callable[[str], str]:
    """A reader of `tcp://host:port` or `tls://host:port`."""
    read = endpoint(option, listening=False)

    def read_any(given: str) -> str:
        encrypted = given.strip().removeprefix("tls://")
        return read(given) if encrypted == given.strip() else read(encrypted).replace("tcp://", "tls://")

    return read_any


def need_current_folder() -> None:
    """Refuse to go on where the current folder has been removed: torch cannot compute there.

    Raises:
        ConfigError: it has been.
    """
    if current_folder() is None:
        raise ConfigError("the current folder has been removed; change to one that exists")


def new_file(given: str | Path) -> Path:
    """A file on this machine, in a folder that is there.

    Raises:
        ConfigError: there is no such folder, which is said before hours of work.
    """
    path = local_path(given)
    if not path.is_absolute():
        need_current_folder()
    if not path.parent.is_dir():
        raise ConfigError(f"{paths.shown(path)}: there is no folder {paths.shown(path.parent)}; make it first")
    return path


def job_path(given: str | Path) -> Path:
    """The path of a job file; `-` is what this command reads, as for kubectl."""
    return Path("/dev/stdin") if str(given) == "-" else local_path(given)


def local_path(given: str | Path) -> Path:
    """A path on this machine; `~` and `~/x` are expanded.

    Raises:
        ConfigError: empty, or a path that cannot be.
    """
    if not str(given):
        raise ConfigError("a path is empty; name a file or a folder, or leave the option out")
    return paths.local(given)

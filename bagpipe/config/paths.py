r"""Rules for paths: what `~` means, what a relative path is relative to, and how a path is written in a message.

`~` and `~/x` are the home folder; `~name` and `$VAR` are not expanded (a shell does that before we see them).
A relative path is relative to the folder in which the command runs, not to the job file's. `#`, `%` and spaces
are characters like others. Bytes that are not UTF-8 go to the system as they came and are written as `\xff` in
messages. A path that becomes part of a job is refused if it has such bytes, because jobs are sent and stored as UTF-8.
"""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from bagpipe.errors import ConfigError

_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def is_url(path: str) -> bool:
    """Whether fsspec, not the operating system, opens this path."""
    return "://" in path


def any_url(paths: str | Sequence[str]) -> bool:
    """Whether one of a setting's paths, which may be one or several, is a URL."""
    return any(is_url(path) for path in ((paths,) if isinstance(paths, str) else paths))


def local(path: str | os.PathLike[str]) -> Path:
    """A path on this machine, with `~` expanded.

    Raises:
        ConfigError: a URL, `~` without a home folder, or a path that no system can have.
    """
    text = os.fspath(path)
    if is_url(text):  # Else a folder `s3:` would be made where the command runs.
        raise ConfigError(f"{shown(text)}: a URL; expected the path of a file or folder on this machine")
    if "\0" in text:
        raise ConfigError(f"{shown(text)}: a path cannot hold a NUL character; correct it")
    if text != "~" and not text.startswith("~/"):
        return Path(text)
    home = os.path.expanduser("~")
    if home == "~":
        raise ConfigError(f"{text}: this user has no home folder; write the whole path")
    return Path(home + text[1:])


def absolute(path: str, setting: str) -> str:
    """A setting's path or URL in a form that is valid from any folder.

    Raises:
        ConfigError: the path holds a variable, which is never expanded, or `~` without a home folder.
    """
    if not path or is_url(path):
        return path
    variable = _VARIABLE.search(path)
    if variable and not os.path.lexists(path):
        raise ConfigError(
            f"{setting}: {shown(path)}: {variable.group()} is not expanded in a job; write the path, or give it with "
            f'--set "{setting}=..." and let the shell expand it'
        )
    return str(as_text(local(path).absolute(), setting))


def as_text(path: Path, name: str) -> Path:
    """The same path, if it can be sent and stored as UTF-8; `name` is the setting or option that gave it.

    Raises:
        ConfigError: it has bytes that are not UTF-8.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(
            f"{name}: {shown(path)}: the path has bytes that are not UTF-8; choose or make a path of text"
        ) from None
    return path


def typed(path: str | os.PathLike[str]) -> str:
    """A path as a word of a command that a message proposes, so that it can be copied into a POSIX shell.

    A relative path that begins like an option or a home folder gets `./` in front, so that the shell does not take it
    for one.
    """
    text = os.fspath(path)
    return shlex.quote(f"./{text}" if text.startswith(("-", "~")) else text)


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message: printable, on one line."""
    text = os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

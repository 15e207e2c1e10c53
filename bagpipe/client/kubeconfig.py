"""Reads kubeconfig files as kubectl does: which files there are, what of each counts, and what a context means.

Of several files the first one that says something counts. Every mistake is one line with file, line and entry; no value
is shown, for it may be a secret.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bagpipe.config.paths import shown
from bagpipe.config.yaml_lines import Document, parse, read_beginning
from bagpipe.errors import ConfigError

MAX_BYTES = 16 << 20
_KINDS = {"clusters": "cluster", "contexts": "context", "users": "user"}
"""Sections of a kubeconfig, and the key of each entry's settings."""


class NoKubeconfig(ConfigError):
    """No file says anything; in a pod its own account remains."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file says of one cluster, user or context."""

    file: Path
    where: str
    """`file:line`."""
    kind: str
    name: str
    settings: Mapping[str, Any]

    def fault(self, setting: str, words: str) -> ConfigError:
        """An error about one of its settings."""
        return ConfigError(f"{self.where}: {self.kind} {shown(self.name)!r}: {setting}: {words}")

    def text(self, setting: str) -> str:
        """A setting that is text; empty: it is not given."""
        found = self.settings.get(setting)
        if not isinstance(found, str | None):
            raise self.fault(setting, f"expected text, found {_kind(found)}; correct it, in quotes if need be")
        return found or ""

    def flag(self, setting: str) -> bool:
        """A setting that is true or false; false: it is not given."""
        found = self.settings.get(setting)
        if not isinstance(found, bool | None):
            raise self.fault(setting, f"expected true or false without quotes, found {_kind(found)}")
        return bool(found)

    def path(self, setting: str) -> Path | None:
        """A setting that names a file, which is relative to the kubeconfig's folder; None: it is not given."""
        found = self.text(setting)
        return Path(os.path.abspath(self.file.parent / found)) if found else None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A context, with the cluster and the user that it names."""

    name: str
    namespace: str
    cluster: Entry
    user: Entry | None
    """None: requests are sent without credentials."""


@dataclass(frozen=True, slots=True)
class _Merged:
    files: str
    current: str = ""
    entries: Mapping[str, dict[str, Entry]] = field(default_factory=lambda: {section: {} for section in _KINDS})


def choose(context: str | None) -> Chosen:
    """The context of this name, or the current one, in the files of `$KUBECONFIG` (else `~/.kube/config`).

    Raises:
        NoKubeconfig: no file is there, or none says anything.
        ConfigError: a file cannot be read, is no kubeconfig, or names what is not there.
    """
    merged = _merged()
    name = context or merged.current
    if not name:
        raise ConfigError(
            f"no cluster: {merged.files}: no current-context; name one with --context or kubectl config use-context, "
            f"{_names(merged.entries['contexts'])}"
        )
    found = merged.entries["contexts"].get(name)
    if found is None:
        asked = "--context" if context else "current-context"
        raise ConfigError(
            f"no cluster: {asked}: no context with name {shown(name)} in {merged.files}, "
            f"{_names(merged.entries['contexts'])}; set $KUBECONFIG to another file, or name a context of it"
        )
    return Chosen(
        name,
        found.text("namespace") or "default",
        _named(merged, found, "cluster"),
        _named(merged, found, "user") if found.text("user") else None,
    )


def files() -> list[Path]:
    """The kubeconfig files, the most important one first, whether they are there or not."""
    named = os.environ.get("KUBECONFIG") or "~/.kube/config"
    return [Path(os.path.expanduser(part)) for part in dict.fromkeys(named.split(os.pathsep)) if part]


def _merged() -> _Merged:
    paths = files()
    documents = [(path, document) for path in paths if (document := _read(path)) is not None]
    current = ""
    merged = _Merged(" and ".join(shown(path) for path, _ in documents))
    for path, document in documents:
        value = document.value
        given = value.get("current-context")
        if not isinstance(given, str | None):
            at = document.where(("current-context",))
            raise ConfigError(f"{at}: current-context: expected the name of a context, found {_kind(given)}")
        current = current or given or ""
        for section, entries in merged.entries.items():
            for entry in _entries(path, document, section):
                entries.setdefault(entry.name, entry)
    if not current and not any(merged.entries.values()):
        said = "; ".join(_missing(path, [there for there, _ in documents]) for path in paths) or "$KUBECONFIG is empty"
        raise NoKubeconfig(f"no cluster: {said}; set $KUBECONFIG to the file that your cluster's provider gave you")
    return _Merged(merged.files, current, merged.entries)


def _missing(path: Path, there: list[Path]) -> str:
    """Why nothing came of a file."""
    if path in there:
        return f"{shown(path)} names no cluster"
    return f"{shown(path)}: " + ("a link to a file that is not there" if path.is_symlink() else "no such file")


def _read(path: Path) -> Document | None:
    """One file; None: it is not there, or empty."""
    name = shown(path)
    try:
        raw, _ = read_beginning(path, MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{name}: expected a kubeconfig that can be read, found: {error.strerror}; correct $KUBECONFIG, or let "
            "this user read the file"
        ) from None
    try:
        text = raw[:MAX_BYTES].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name}: expected a kubeconfig, found what is no text (byte {error.start}); correct $KUBECONFIG"
        ) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{name}: expected a kubeconfig, found more than {MAX_BYTES:,} bytes; correct $KUBECONFIG")
    document = parse(text, name)
    if document.value is None:
        return Document(name, {})
    if not isinstance(document.value, dict):
        raise ConfigError(
            f"{name}: expected a kubeconfig (clusters, users and contexts), found {_kind(document.value)}; "
            "correct $KUBECONFIG"
        )
    if (kind := document.value.get("kind")) not in (None, "", "Config"):
        at = document.where(("kind",))
        raise ConfigError(f"{at}: expected a kubeconfig (kind: Config), found {kind!r:.60}; correct $KUBECONFIG")
    return document


def _entries(path: Path, document: Document, section: str) -> Iterator[Entry]:
    """The clusters, users or contexts of one file."""
    kind, items = _KINDS[section], document.value.get(section) or []
    if not isinstance(items, list):
        raise ConfigError(f"{document.where((section,))}: {section}: expected a list, found {_kind(items)}; correct it")
    seen: set[str] = set()
    for number, item in enumerate(items):
        at = document.where((section, number))
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{at}: {section}[{number}]: expected a name and a {kind}, found none; correct it")
        settings = item.get(kind) or {}
        if not isinstance(settings, dict):
            raise ConfigError(f"{at}: {kind} {shown(name)!r}: expected settings, found {_kind(settings)}; correct it")
        if name in seen:
            raise ConfigError(f"{at}: {kind} {shown(name)!r}: expected each name once, found it twice; remove one")
        seen.add(name)
        yield Entry(path, at, kind, name, settings)


def _named(merged: _Merged, context: Entry, kind: str) -> Entry:
    """The cluster or user that a context names."""
    known = merged.entries[f"{kind}s"]
    name = context.text(kind)
    if not name:
        raise context.fault(kind, f"expected the name of a {kind}, found none; give one, {_names(known)}")
    if name not in known:
        raise context.fault(kind, f"no {kind} with name {shown(name)} in {merged.files}, {_names(known)}; correct it")
    return known[name]


def _names(known: Mapping[str, Entry]) -> str:
    names = [shown(name) for name in known]
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"which has {listed}" if listed else "which has none"


def _kind(value: Any) -> str:
    """What a value is, without it: it may be a secret."""
    kinds = {bool: "true or false", dict: "a map", int: "a number", float: "a number", list: "a list", str: "a word"}
    return kinds.get(type(value), "nothing")

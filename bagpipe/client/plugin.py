"""Runs the command of a kubeconfig's user that prints credentials (`exec`), as kubectl does, and not for ever."""

import base64
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from bagpipe.client.kubeconfig import Entry
from bagpipe.config.paths import shown
from bagpipe.lowlevel.strict_json import encode

PLUGIN_SECONDS = 300.0
"""How long the command may take: a person may have to log in on a page that it opens."""
_MAX_BYTES = 1 << 20
_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


def credentials_of(user: Entry, cluster: Mapping[str, Any]) -> dict[str, str]:
    """What the command gives, as settings of a user: `token`, or `client-certificate-data` and `client-key-data`.

    Args:
        user: has a setting `exec`.
        cluster: what the command may know of its cluster.

    Raises:
        ConfigError: the command is missing, fails, does not end, or prints something else than credentials.
    """
    given = user.settings["exec"]
    plugin = Entry(user.file, user.where, user.kind, user.name, given if isinstance(given, dict) else {})
    command, version = plugin.text("command"), plugin.text("apiVersion")
    if not command:
        raise user.fault("exec", "expected a map with the command that prints credentials, found none; give it")
    if version not in _VERSIONS:
        raise user.fault("exec", f"apiVersion: expected {' or '.join(_VERSIONS)}, found {shown(version)!r:.80}")
    try:
        printed = _printed(plugin, command, version, cluster)
    except _Fault as fault:
        raise _failed(user, command, f"{fault}; log in again, or try the command by hand") from None
    except FileNotFoundError:
        hint = " ".join(plugin.text("installHint").split())[:300]
        more = f" ({hint})" if hint else ""
        raise _failed(user, command, f"no such command{more}; log in again once it is installed") from None
    except (OSError, ValueError) as error:  # A NUL in an argument is a ValueError.
        why = getattr(error, "strerror", None) or error
        raise _failed(user, command, f"it cannot be started: {why}; log in again once it can") from None
    return _settings(user, command, version, printed)


class _Fault(Exception):
    """What is wrong with the command."""


def _failed(user: Entry, command: str, words: str) -> Exception:
    return user.fault("exec", f"the command for credentials failed: {shown(command)}: {words}")


def _printed(plugin: Entry, command: str, version: str, cluster: Mapping[str, Any]) -> bytes:
    """What the command prints."""
    person = os.isatty(0) and plugin.text("interactiveMode") != "Never"
    spec: dict[str, Any] = {"interactive": person}
    if plugin.flag("provideClusterInfo"):
        spec["cluster"] = dict(cluster)
    info = encode({"apiVersion": version, "kind": "ExecCredential", "spec": spec})
    if os.sep in command:  # As kubectl has it: else it is looked for on the PATH.
        command = os.path.join(os.path.abspath(plugin.file.parent), command)
    process = subprocess.Popen(
        [command, *_words(plugin)],
        stdin=None if person else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if person else subprocess.PIPE,
        env={**os.environ, **_environment(plugin), "KUBERNETES_EXEC_INFO": info},
        process_group=None if person else 0,  # One that asks a person something has to stay in the terminal's group.
    )
    try:
        return _collected(process, time.monotonic() + PLUGIN_SECONDS)
    except BaseException:
        _kill(process, whole_group=not person)
        raise
    finally:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _words(plugin: Entry) -> list[str]:
    found = plugin.settings.get("args") or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise plugin.fault("exec", "args: expected a list of texts; put numbers in quotes")
    return found


def _environment(plugin: Entry) -> dict[str, str]:
    found: Any = plugin.settings.get("env") or []
    found = found if isinstance(found, list) else [None]
    pairs = [(one.get("name"), one.get("value", "")) for one in found if isinstance(one, dict)]
    if len(pairs) != len(found) or not all(isinstance(part, str) for pair in pairs for part in pair):
        raise plugin.fault("exec", "env: expected a list of name and value, both text; put numbers in quotes")
    return {str(name): value for name, value in pairs}


def _collected(process: "subprocess.Popen[bytes]", end: float) -> bytes:
    """Its standard output, once it has ended well.

    Raises:
        _Fault: it ends otherwise, does not end in time, or prints without end.
    """
    printed, said = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe, found in ((process.stdout, printed), (process.stderr, said)):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, found)
        while selector.get_map():
            if (left := end - time.monotonic()) <= 0:
                raise _Fault(f"it has not ended after {PLUGIN_SECONDS:g} s")
            for key, _ in selector.select(left):
                piece = os.read(key.fd, 1 << 16)
                if not piece:
                    selector.unregister(key.fileobj)
                key.data.extend(piece)
                if len(key.data) > _MAX_BYTES:
                    raise _Fault(f"it printed more than {_MAX_BYTES:,} bytes")
    try:
        code = process.wait(max(end - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        raise _Fault(f"it has not ended after {PLUGIN_SECONDS:g} s") from None
    if code:
        words = " ".join(said.decode(errors="replace").split())
        raise _Fault(f"it ended with {code}" + (f": {shown(words[-300:])}" if words else ""))
    return bytes(printed)


def _kill(process: "subprocess.Popen[bytes]", *, whole_group: bool) -> None:
    if process.returncode is not None:  # Its number may be that of another process by now.
        return
    with suppress(ProcessLookupError):
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait(10)


def _settings(user: Entry, command: str, version: str, printed: bytes) -> dict[str, str]:
    """Of the ExecCredential that was printed; its words are not told, for they may be secrets."""
    expected = f"expected an ExecCredential of {version} with a token, or a certificate and its key"
    try:
        found = json.loads(printed)
    except (RecursionError, ValueError):
        what = f"{len(printed):,} bytes that are no JSON" if printed.strip() else "nothing"
        raise _failed(user, command, f"{expected}, found {what}; log in again, or correct exec") from None
    status = found.get("status") if isinstance(found, dict) else None
    if not isinstance(status, dict) or found.get("kind") != "ExecCredential":
        raise _failed(user, command, f"{expected}, found other JSON; log in again, or correct exec")
    if (theirs := found.get("apiVersion")) != version:
        raise _failed(user, command, f"{expected}, found one of {theirs!r:.80}; correct apiVersion of exec")
    token, *pair = (status.get(key) or "" for key in ("token", "clientCertificateData", "clientKeyData"))
    if not all(isinstance(one, str) for one in (token, *pair)) or any(pair) != all(pair) or not (token or all(pair)):
        raise _failed(user, command, f"{expected}, found one without; log in again, or correct exec")
    settings = {"token": token} if token else {}
    for key, text in zip(("client-certificate-data", "client-key-data"), pair, strict=True):
        if text:
            settings[key] = base64.b64encode(text.encode()).decode()
    return settings

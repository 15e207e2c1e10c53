"""What a kubeconfig's cluster and user say, checked, in the form that the Kubernetes package takes as it is.

The package itself decodes what is no base64, takes the text "false" for true, sends a token's line end as it is, and
opens certificates only when it connects.
"""

import base64
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bagpipe.client.kubeconfig import Chosen, Entry
from bagpipe.client.plugin import credentials_of
from bagpipe.config.paths import shown
from bagpipe.config.yaml_lines import read_beginning

_TOKEN = re.compile(r"[\x21-\x7e]+")
_MAX_BYTES = 1 << 20
_WITHOUT = ("as-groups", "as-uid", "as-user-extra")
"""Settings of a user that this client does not follow, and must not pass over."""


def has_provider(user: Entry | None) -> bool:
    """Whether a user has the older form of credentials that the Kubernetes package alone reads, and writes back.

    Raises:
        ConfigError: of a kind that nothing reads any more.
    """
    if user is None or not user.settings.get("auth-provider"):
        return False
    given = user.settings["auth-provider"]
    name = given.get("name") if isinstance(given, dict) else None
    if name not in ("gcp", "oidc"):
        raise user.fault("auth-provider", f"expected oidc or gcp, found {name!r:.60}; log in with a newer tool (exec)")
    return True


def resolved(chosen: Chosen) -> dict[str, Any]:
    """A kubeconfig of this context alone, for the package: with absolute paths, and a token where a command gives one.

    Raises:
        ConfigError: a setting is wrong, a file is missing, or the command for credentials fails.
    """
    cluster = checked_cluster(chosen.cluster)
    user = _user(chosen.user, cluster) if chosen.user is not None else {}
    return {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "c", "user": user}],
    }


def checked_cluster(entry: Entry) -> dict[str, Any]:
    """The settings of a cluster that say where its API server is, and by what it is known.

    Raises:
        ConfigError: one of them is wrong.
    """
    found: dict[str, Any] = {"server": _server(entry)}
    if name := entry.text("tls-server-name"):
        found["tls-server-name"] = name
    authority = _pem(entry, "certificate-authority")
    if insecure := entry.flag("insecure-skip-tls-verify"):
        found["insecure-skip-tls-verify"] = True
    if authority is None:
        return found
    if insecure:
        raise entry.fault(
            "insecure-skip-tls-verify", "expected no certificate-authority beside it, found one; remove one of them"
        )
    setting, raw = authority
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_ascii(raw))
    except ssl.SSLError:
        raise entry.fault(setting, "expected certificates in PEM, found none that can be read; correct it") from None
    found[setting] = _as_given(entry, setting, raw)
    return found


def _server(cluster: Entry) -> str:
    """The address of a cluster's API server."""
    server = cluster.text("server")
    try:
        parts = urlsplit(server)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise cluster.fault("server", f"expected https://HOST:PORT, found {shown(server)[:100]!r}; correct it")
    return f"{parts.scheme}{server[len(parts.scheme) :]}".rstrip("/")


def _user(entry: Entry, cluster: Mapping[str, Any]) -> dict[str, Any]:
    for setting in _WITHOUT:
        if entry.settings.get(setting):
            raise entry.fault(setting, "expected a user without it: this client does not act as another; remove it")
    found = _certificate(entry)
    if entry.text("token"):
        found["token"] = _token(entry, "token", entry.text("token"))
    elif (file := entry.path("tokenFile")) is not None:
        found["token"] = _token(entry, "tokenFile", _bytes(entry, "tokenFile", file).decode("utf-8", "replace"))
    elif entry.settings.get("exec") is not None:
        given = credentials_of(entry, cluster)
        if "token" in given:
            given["token"] = _token(entry, "exec", given["token"])
        found.update(given)
    elif entry.text("username"):
        if not entry.text("password"):
            raise entry.fault("password", "expected one beside username, found none; log in again")
        found.update(username=entry.text("username"), password=entry.text("password"))
    return found


def _certificate(entry: Entry) -> dict[str, Any]:
    """A client's certificate and key, as settings; empty: there is none."""
    pair = {setting: _pem(entry, setting) for setting in ("client-certificate", "client-key")}
    if not any(pair.values()):
        return {}
    for setting, found in pair.items():
        if found is None:
            raise entry.fault(setting, "expected a certificate and its key, found one of them; add the other one")
    return {found[0]: _as_given(entry, *found) for found in pair.values() if found}


def _as_given(entry: Entry, setting: str, raw: bytes) -> str:
    """What was read, as base64, or the file's absolute path: it may be replaced, and is read by each connection."""
    return base64.b64encode(raw).decode() if setting.endswith("-data") else str(entry.path(setting))


def check_pair(user: Entry | None, certificate: str | None, key: str | None) -> None:
    """Refuse a client's certificate that cannot be used with its key.

    Args:
        user: who has them, for messages.
        certificate, key: files.

    Raises:
        ConfigError: one of them is broken, or they do not belong together.
    """
    if user is None or not certificate or not key:
        return
    asked = False

    def ask() -> str:  # Else OpenSSL would ask at the terminal, for each connection.
        nonlocal asked
        asked = True
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=ask)
    except (ssl.SSLError, ValueError) as error:
        if asked:
            words = (
                "client-key",
                "expected a key without a pass phrase, found one with; write it with openssl pkey",
            )
        elif getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            words = "client-key", "expected the key of client-certificate, found another one; log in again"
        elif _is_certificate(Path(certificate)):
            words = "client-key", "expected a key in PEM, found none that can be read; log in again"
        else:
            words = "client-certificate", "expected one in PEM, found none that can be read; log in again"
        raise user.fault(*words) from None


def _is_certificate(file: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_ascii(file.read_bytes()))
    except ssl.SSLError:
        return False
    return True


def _pem(entry: Entry, setting: str) -> tuple[str, bytes] | None:
    """What `setting-data` holds, else the file that `setting` names, with the setting; None: neither is given."""
    if text := entry.text(f"{setting}-data"):
        try:
            return f"{setting}-data", base64.b64decode("".join(text.split()), validate=True)
        except ValueError as error:
            words = f"expected base64, found {len(text):,} characters that are none ({error}); copy it again"
            raise entry.fault(f"{setting}-data", words) from None
    file = entry.path(setting)
    return (setting, _bytes(entry, setting, file)) if file is not None else None


def _bytes(entry: Entry, setting: str, file: Path) -> bytes:
    try:
        raw, _ = read_beginning(file, _MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        words = f"expected a file that can be read, found {shown(file)}: {why}; correct the path, or log in again"
        raise entry.fault(setting, words) from None
    if len(raw) > _MAX_BYTES:
        raise entry.fault(setting, f"{shown(file)}: expected no more than {_MAX_BYTES:,} bytes; correct the path")
    return raw


def _token(entry: Entry, setting: str, text: str) -> str:
    """A token as a request carries it."""
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        found = f"{len(token):,} characters with others among them" if token else "nothing"
        raise entry.fault(setting, f"expected a token of visible ASCII characters, found {found}; log in again")
    return token


def _ascii(raw: bytes) -> str:
    """Text of a PEM file; comments in it may be of any characters."""
    return raw.decode("ascii", "ignore")


def acts_as(user: Entry | None) -> str:
    """The user as whom the API server shall take the requests (`as`); empty: as who sends them."""
    found = user.text("as") if user is not None else ""
    if found and user is not None and not _TOKEN.fullmatch(found):
        raise user.fault("as", "expected a name of visible ASCII characters; correct it")
    return found

"""What the API server's answers mean: each error becomes one of ours, in one line and with the exit code that fits."""

import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bagpipe.errors import BagpipeError, ConfigError, ExitCode

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PROXY = ": is it behind a proxy?"
_REFUSED_CERTIFICATE = re.compile("ALERT_.*(CERTIFICATE|UNKNOWN_CA)")
"""How OpenSSL names the other end's refusal of our certificate."""
_POOL = re.compile(r"^HTTPS?Connection(?:Pool)?\(host='([^']*)', port=(\w+)\): ")
"""How urllib3's words begin."""
_REFUSALS = (400, 403, 404, 409, 422)
"""Answers that say something about the request, if they are the API server's own."""


class ClusterError(BagpipeError):
    """The API server cannot be reached, or refused; carries its answer."""

    exit_code = ExitCode.TRANSIENT


class NotAllowed(ClusterError):
    """The API server does not know who asks, or does not let them do this."""

    exit_code = ExitCode.BAD_CONFIG


class JobNotFound(ClusterError):
    """There is no such job in this namespace."""

    exit_code = ExitCode.BAD_CONFIG


@contextmanager
def told(errors: type[Exception], namespace: str, what: str | None) -> Iterator[None]:
    """Turn the API server's errors into ours.

    Args:
        errors: what the Kubernetes client raises for an answer of 400 or above.
        namespace: where it was asked.
        what: name of the job, or of what belongs to it.

    Raises:
        ConfigError: no object can have that name, the cluster knows no BagpipeJob, or it refuses this one.
        JobNotFound, NotAllowed, ClusterError: by the answer.
    """
    import urllib3.exceptions

    if not _NAME.fullmatch(what or ""):
        raise ConfigError(f"NAME: expected lowercase letters, digits, '-' and '.', found {(what or '')[:60]!r}")
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigError(
            f"the namespace, of --namespace or of the kubeconfig's context: expected at most 63 lowercase letters, "
            f"digits and '-', found {namespace[:80]!r}"
        )
    try:
        yield
    except errors as error:
        raise _meaning(error, namespace, what) from None
    except UnicodeDecodeError as error:
        raise ClusterError(f"{what}: expected text from the API server, found {error.object[:60]!r}{_PROXY}") from None
    except urllib3.exceptions.HTTPError as error:
        raise _unreached(error, what) from None


def _unreached(error: Any, what: str | None) -> BagpipeError:
    """What came of a request without an answer: a certificate that is refused will be so the next time too."""
    import urllib3.exceptions

    reason = getattr(error, "reason", None) or error
    cause = reason.args[0] if isinstance(reason, urllib3.exceptions.SSLError) and reason.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ConfigError(
            f"{what}: the API server's certificate is not accepted: {cause.verify_message.rstrip('.')}; correct "
            "certificate-authority-data, or tls-server-name, of the kubeconfig's cluster"
        )
    if isinstance(cause, ssl.SSLError) and _REFUSED_CERTIFICATE.search(cause.reason or ""):
        return NotAllowed(
            f"{what}: the API server does not accept the client's certificate ({cause.reason}); log in again, or "
            "correct client-certificate-data of the kubeconfig's user"
        )
    if isinstance(reason, urllib3.exceptions.ProxyError):
        why = _POOL.sub(r"\1:\2: ", str(reason.original_error))
        return ClusterError(
            f"{what}: the API server cannot be reached by its proxy: {why}; correct proxy-url of the kubeconfig's "
            "cluster, else $HTTPS_PROXY or $NO_PROXY"
        )
    if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return ClusterError(
            f"{what}: expected TLS from the API server, found something else: {cause.reason}; correct server of the "
            "kubeconfig's cluster (http, or another port), or is it behind a proxy?"
        )
    why = _POOL.sub(r"\1:\2: ", str(reason))
    return ClusterError(f"{what}: the API server cannot be reached: {why}")


def _meaning(error: Any, namespace: str, what: str | None) -> BagpipeError:
    status, message = error.status, _message(error)
    if not status:
        return ClusterError(f"{what}: the API server cannot be reached: {message}")
    if status in _REFUSALS and _of_something_else(error):
        return ClusterError(
            f"{what}: expected an answer of the API server, found {status} {error.reason} with "
            f"{(error.body or '')[:60]!r}{_PROXY}"
        )
    if status == 404 and _no_such_kind(message):
        return ConfigError(
            "this cluster knows no BagpipeJob: install the operator's chart, or choose another --context"
        )
    if status == 404:
        return JobNotFound(f"{what}: not in namespace {namespace}: {message}")
    if status == 409 and _status(error).get("reason") == "AlreadyExists":
        return ConfigError(
            f"{what}: namespace {namespace} has one of that name: {message}; choose another name (--name), or first "
            f"`bagpipe job delete {what}`; `bagpipe job scale`, `suspend` and `resume` change the one that is there"
        )
    if status in (400, 409, 422):
        return ConfigError(f"{what}: refused by the cluster: {message}")
    said = f"{what}: the API server answered {status}: {message}"
    if status == 401:
        return NotAllowed(f"{said}; log in again: it does not accept these credentials, also read anew")
    return NotAllowed(f"{said}; ask for the role") if status == 403 else ClusterError(said)


def _message(error: Any) -> str:
    """The API server's words, in one line."""
    return " ".join(str(_status(error).get("message") or error.reason).split())[:1000]


def _status(error: Any) -> Mapping[str, Any]:
    """The object of kind Status that the API server sends with an error; empty: there is none."""
    try:
        found = json.loads(error.body)
    except (TypeError, ValueError):
        found = None
    return found if isinstance(found, Mapping) and found.get("kind") == "Status" else {}


def _of_something_else(error: Any) -> bool:
    """Whether a proxy or a page to log in answered: the API server says why it refuses, except for an unknown path."""
    return not _status(error) and (error.body or "").strip() != "404 page not found"


def _no_such_kind(message: str) -> bool:
    """Whether a 404 is about the kind and not about an object: the words name nothing."""
    return message in ("Not Found", "404 page not found") or "could not find the requested resource" in message


def items_of(answer: Any) -> list[Mapping[str, Any]]:
    """Of a list that was asked for as it is."""
    items = _object_of(answer, "a list").get("items")
    if not isinstance(items, list):
        raise ClusterError(f"expected a list from the API server, found {answer.data[:60]!r}{_PROXY}")
    return items


def data_of(answer: Any) -> dict[str, str]:
    """Of a ConfigMap that was asked for as it is."""
    return dict(_object_of(answer, "a ConfigMap").get("data") or {})


def _object_of(answer: Any, kind: str) -> Mapping[str, Any]:
    try:
        found = json.loads(answer.data)
    except ValueError:
        found = None
    if not isinstance(found, Mapping):
        raise ClusterError(f"expected {kind} from the API server, found {answer.data[:60]!r}{_PROXY}")
    return found

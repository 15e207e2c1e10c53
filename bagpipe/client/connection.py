"""Connects as kubectl does: by `$KUBECONFIG`, or by the pod's own account."""

import logging
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bagpipe.errors import ConfigError


def connect(kubernetes: Any, context: str | None) -> tuple[Any, str]:
    """A client and the namespace of its context.

    Raises:
        ConfigError: there is no kubeconfig, or it is none.
    """
    api, namespace, chosen = _read(kubernetes, context)
    _renewing(kubernetes, api, chosen)
    return api, namespace


def _read(kubernetes: Any, context: str | None) -> tuple[Any, str, str | None]:
    """As `_connected`, with the package's errors in our words."""
    import yaml

    said, root = _Said(), logging.getLogger()
    root.addHandler(said)
    try:
        found = _connected(kubernetes, context)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, yaml.YAMLError) as error:
        # The package reads a file that may be anything, and checks little of it.
        why = " ".join(str(error).split())[:200]
        file = os.environ.get("KUBECONFIG") or "~/.kube/config"
        raise ConfigError(f"{file}: expected a kubeconfig, found what cannot be read as one: {why}") from None
    finally:
        root.removeHandler(said)
    if said.words:
        raise ConfigError(f"the kubeconfig's command or provider of credentials failed: {said.words}; log in again")
    return found


class _Said(logging.Handler):
    """Hears what the package logs where credentials are refused to it: it goes on without any, as if nothing were."""

    words = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "root" and record.levelno >= logging.ERROR:
            self.words = self.words or " ".join(record.getMessage().split())[:300]


def _renewing(kubernetes: Any, api: Any, context: str | None) -> None:
    """Let each request that is answered 401 be sent once more, with credentials that are read again.

    A token lasts an hour, a wait or a log that is followed for days; what a file or a command gives now may be valid.
    """
    send = api.call_api

    def call(*args: Any, **options: Any) -> Any:
        try:
            return send(*args, **options)
        except kubernetes.client.exceptions.UnauthorizedException:
            fresh, _, _ = _read(kubernetes, context)
            if fresh.configuration.host != api.configuration.host:  # Another cluster has that context's name now.
                raise
            api.configuration, api.rest_client = fresh.configuration, fresh.rest_client
            return send(*args, **options)

    api.call_api = call


def _connected(kubernetes: Any, context: str | None) -> tuple[Any, str, str | None]:
    """A client, the namespace and the name of its context, with whatever errors the package raises.

    `$KUBECONFIG` is read now: the package itself reads it once, when it is imported, which in a notebook is long ago.
    """
    account = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    options = _options(kubernetes)
    try:
        file = os.environ.get("KUBECONFIG") or None
        api = kubernetes.config.new_client_from_config(config_file=file, context=context, client_configuration=options)
        known, active = kubernetes.config.list_kube_config_contexts(config_file=file)
        chosen = next((one for one in known if one["name"] == context), active)
        return api, (chosen.get("context") or {}).get("namespace") or "default", chosen["name"]
    except kubernetes.config.ConfigException as error:
        if context is not None or not account.exists():  # A context that was asked for is not the pod's own account.
            words = " ".join(str(error).split())
            raise ConfigError(f"no cluster: {words}; set $KUBECONFIG, or name a context of it") from None
    kubernetes.config.load_incluster_config(client_configuration=options)
    return kubernetes.client.ApiClient(configuration=options), account.read_text().strip(), None


def _here_only(urllib3: Any) -> Any:
    """A urllib3.Retry that follows no redirect to another host: an API server sends nobody elsewhere, a login does."""

    class HereOnly(urllib3.Retry):  # type: ignore[misc]  # imported late, so it has no type here
        def increment(self, *args: Any, response: Any = None, _pool: Any = None, **more: Any) -> Any:
            target = response.get_redirect_location() if response is not None else None
            if target and _pool is not None and urlsplit(target).hostname not in (None, _pool.host):
                page = target.partition("?")[0][:200]
                raise urllib3.exceptions.HTTPError(
                    f"a redirect to {page} came in its place; log in there, or connect without the proxy"
                )
            return super().increment(*args, response=response, _pool=_pool, **more)

    return HereOnly


def _options(kubernetes: Any) -> Any:
    """The package's settings, with requests that end.

    It would ask four times, each with the whole time that a request has, and stay as long as an answer's `Retry-After`
    says. A connection that nothing comes from is asked whether it is there: a log that is followed may be silent.
    """
    import urllib3
    from urllib3.connection import HTTPConnection

    options = type.__call__(kubernetes.client.Configuration)  # Not a copy of what a notebook has made the default.
    options.retries = _here_only(urllib3)(
        3, connect=0, read=0, status=0, other=0, redirect=3, respect_retry_after_header=False
    )
    kept = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if (number := getattr(socket, name, None)) is not None:  # Not every system has them.
            kept.append((socket.IPPROTO_TCP, number, value))
    options.socket_options = [*HTTPConnection.default_socket_options, *kept]
    return options

"""Connects as kubectl does: by `$KUBECONFIG`, or by the pod's own account."""

import logging
import os
import socket
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bagpipe.client.credentials import acts_as, check_pair, checked_cluster, has_provider, resolved
from bagpipe.client.kubeconfig import NoKubeconfig, choose
from bagpipe.client.kubeconfig import files as kubeconfig_files
from bagpipe.client.proxies import use_proxy
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
    said, root = _Said(), logging.getLogger()
    root.addHandler(said)
    try:
        found = _connected(kubernetes, context)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # The package checks little of what a provider of credentials may have written.
        why = " ".join(str(error).split())[:200]
        file = os.environ.get("KUBECONFIG") or "~/.kube/config"
        raise ConfigError(f"{file}: expected a kubeconfig, found what cannot be read as one: {why}") from None
    finally:
        root.removeHandler(said)
    if said.words:
        raise ConfigError(f"the kubeconfig's provider of credentials failed: {said.words}; log in again")
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
    import urllib3.exceptions

    options = _options(kubernetes)
    try:
        chosen = choose(context)
    except NoKubeconfig:
        account = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
        if context is not None or not account.exists():  # A context that was asked for is not the pod's own account.
            raise
        return _in_a_pod(kubernetes, options, account), account.read_text().strip(), None
    try:
        if has_provider(chosen.user):
            checked_cluster(chosen.cluster)
            files = os.pathsep.join(map(str, kubeconfig_files()))
            kubernetes.config.load_kube_config(files, chosen.name, client_configuration=options)
        else:
            kubernetes.config.load_kube_config_from_dict(resolved(chosen), client_configuration=options)
    except kubernetes.config.ConfigException as error:
        raise ConfigError(f"{chosen.cluster.where}: {' '.join(str(error).split())[:300]}; log in again") from None
    check_pair(chosen.user, options.cert_file, options.key_file)
    use_proxy(options, chosen.cluster)
    if not options.verify_ssl:  # Whoever wrote `insecure-skip-tls-verify` is not told of it with each request.
        warnings.filterwarnings("ignore", "Unverified HTTPS request", urllib3.exceptions.InsecureRequestWarning)
    api = kubernetes.client.ApiClient(configuration=options)
    if name := acts_as(chosen.user):
        api.set_default_header("Impersonate-User", name)
    return api, chosen.namespace, chosen.name


def _in_a_pod(kubernetes: Any, options: Any, account: Path) -> Any:
    """A client with the pod's own account."""
    try:
        kubernetes.config.load_incluster_config(client_configuration=options)
    except kubernetes.config.ConfigException as error:
        raise ConfigError(
            f"no cluster: there is no kubeconfig, and of the pod's own account in {account.parent}: {error}; "
            "set $KUBECONFIG"
        ) from None
    use_proxy(options, None)
    return kubernetes.client.ApiClient(configuration=options)


def _here_only(urllib3: Any, options: Any) -> Any:
    """A urllib3.Retry that follows no redirect to another host: an API server sends nobody elsewhere, a login does.

    A request's pool may be that of a proxy, so the host is that of the package's settings.
    """

    class HereOnly(urllib3.Retry):  # type: ignore[misc]  # imported late, so it has no type here
        def increment(self, *args: Any, response: Any = None, _pool: Any = None, **more: Any) -> Any:
            target = response.get_redirect_location() if response is not None else None
            if target and urlsplit(target).hostname not in (None, urlsplit(options.host).hostname):
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
    options.retries = _here_only(urllib3, options)(
        3, connect=0, read=0, status=0, other=0, redirect=3, respect_retry_after_header=False
    )
    kept = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if (number := getattr(socket, name, None)) is not None:  # Not every system has them.
            kept.append((socket.IPPROTO_TCP, number, value))
    options.socket_options = [*HTTPConnection.default_socket_options, *kept]
    return options

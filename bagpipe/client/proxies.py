"""Which proxy leads to an API server, decided as kubectl does: `proxy-url` of the cluster, else the environment.

`proxy-url` counts for every server. `$HTTPS_PROXY` (for https) and `$HTTP_PROXY` (for http) count unless the server is
this machine or `$NO_PROXY` names it: by name, with all names below it, by address, by network (`10.0.0.0/8`), or
all servers (`*`).
"""

import ipaddress
import os
from typing import Any
from urllib.parse import unquote, urlsplit

from bagpipe.client.kubeconfig import Entry
from bagpipe.config.paths import shown
from bagpipe.errors import ConfigError


def use_proxy(options: Any, cluster: Entry | None) -> None:
    """Let the Kubernetes package send its requests for `options.host` by the right proxy, or by none.

    Args:
        options: the package's settings, in which the address of the API server stands already.
        cluster: the kubeconfig's; None: the pod's own account is used.

    Raises:
        ConfigError: the proxy is none that can be used.
    """
    import urllib3

    url, source = cluster.text("proxy-url") if cluster is not None else "", "proxy-url"
    if not url:
        url, source = _by_environment(options.host)
    options.proxy, options.no_proxy, options.proxy_headers = None, "", None
    if not url:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        who = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        who.encode("latin-1")  # What a header can carry.
    except ValueError:
        usable = False
    if not usable:
        words = f"expected http://HOST:PORT or https://HOST:PORT, found {_without_secret(url)}; correct it"
        raise cluster.fault(source, words) if cluster and source == "proxy-url" else ConfigError(f"{source}: {words}")
    options.proxy = url
    if parts.username is not None:
        options.proxy_headers = urllib3.util.make_headers(proxy_basic_auth=who)


def _by_environment(server: str) -> tuple[str, str]:
    """The proxy that the environment names for a server (empty: none), and the variable."""
    parts = urlsplit(server)
    name = "HTTPS_PROXY" if parts.scheme == "https" else "HTTP_PROXY"
    found = os.environ.get(name) or os.environ.get(name.lower()) or ""
    default = 443 if parts.scheme == "https" else 80
    if not found or _left_out(parts.hostname or "", parts.port or default):
        return "", ""
    return found if "://" in found else f"http://{found}", f"${name}"


def _left_out(host: str, port: int) -> bool:
    """Whether a server is this machine, or one of `$NO_PROXY`."""
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    named = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    return any(_matches(one.strip().lower(), host.lower(), address, port) for one in named.split(",") if one.strip())


def _matches(pattern: str, host: str, address: Any, port: int) -> bool:
    if pattern == "*":
        return True
    try:
        network = ipaddress.ip_network(pattern, strict=False)
        return address is not None and address in network
    except ValueError:
        pass  # It is no address and no network, but a name, or has a port.
    name, _, wanted = pattern.rpartition(":")
    if name and wanted.isdigit():
        return int(wanted) == port and _matches(name.strip("[]"), host, address, port)
    pattern = pattern.removeprefix("*")
    return host.endswith(pattern) if pattern.startswith(".") else host == pattern or host.endswith(f".{pattern}")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _without_secret(url: str) -> str:
    """An address without the name and password in it."""
    scheme, separator, rest = url.rpartition("://")
    return shown(f"{scheme}{separator}{rest.rpartition('@')[2]}"[:100])

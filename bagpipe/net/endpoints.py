"""Parses and checks a socket's address, `tcp://HOST:PORT`, before it is opened. Pure, except that it resolves names.

`HOST:PORT` alone is taken as `tcp://HOST:PORT`. An IPv6 address stands in brackets: `tcp://[::1]:7700`.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass

from bagpipe.errors import ConfigError

_ENDPOINT = re.compile(r"(?:tcp://)?(\[[^\]]*\]|[^:/\[\]]+):(\d{1,9})")
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_ANY = "*"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked address."""

    host: str
    """A name, an IPv4 address, an IPv6 address in brackets, or `*`."""
    port: int

    def __str__(self) -> str:
        return f"tcp://{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can be reached by it."""
        return self.host in ("localhost", "[::1]") or self.host.startswith("127.")

    def needs_ipv6(self) -> bool:
        """Whether only IPv6 leads there. A name that is not known yet is looked up as IPv4 later."""
        if self.host.startswith("["):
            return True
        if self.host == _ANY or _is_ipv4(self.host):
            return False
        try:
            families = {found[0] for found in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)}
        except (OSError, UnicodeError):
            return False
        return socket.AF_INET6 in families and socket.AF_INET not in families


def bracketed(host: str) -> str:
    """A host as it stands in `tcp://HOST:PORT`: a bare IPv6 address gets its brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def parse_endpoint(text: str, *, listening: bool) -> Endpoint:
    """The address that `text` names; only a listener may have port 0 (any free one) or host `*` (every interface).

    Raises:
        ConfigError: it names none.
    """
    lowest = 0 if listening else 1
    found = _ENDPOINT.fullmatch(text)
    if found is None or not _is_host(found[1], listening=listening):
        raise ConfigError(f"expected an address tcp://HOST:PORT, found {text[:200]!r}; IPv6 stands in brackets: [::1]")
    port = int(found[2])
    if not lowest <= port <= 65535:
        raise ConfigError(f"{text[:200]}: expected a port from {lowest} to 65535, found {port}")
    return Endpoint(found[1], port)


def _is_host(host: str, *, listening: bool) -> bool:
    if host == _ANY:
        return listening
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return False
        return True
    if host.replace(".", "").isdigit():
        return _is_ipv4(host)
    return len(host) <= 253 and _NAME.fullmatch(host) is not None


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True

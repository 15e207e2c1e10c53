"""Finds the address of this machine on which a role listens: by an interface's name, or by the route to a peer.

IPv4 where there is one, else IPv6. Addresses are bare here; `bracketed` of `endpoints.py` puts one into `tcp://HOST:PORT`.
"""

import fcntl
import os
import socket
import struct
from pathlib import Path

from bagpipe.errors import ConfigError

ROWS_INTERFACE = "TP_SOCKET_IFNAME"
"""Names the interface of rows and plans. Dense gradients use it too, unless a user's own loop averages them with gloo,
which reads the interface's name from `GLOO_SOCKET_IFNAME`."""

_SIOCGIFADDR = 0x8915
"""Linux: ask for an interface's IPv4 address."""
_NAME_BYTES = 15
_INET6 = Path("/proc/net/if_inet6")
_LINK_LOCAL = 0x20
"""The scope of addresses that are of no use without the name of an interface beside them."""


def listening_address(host: str, port: int) -> str:
    """Where a role listens: on `TP_SOCKET_IFNAME`'s interface, else on the one towards the oracle at `host`.

    Raises:
        ConfigError: there is no such interface, or no way to the oracle.
    """
    interface = os.environ.get(ROWS_INTERFACE)
    return address_of(interface) if interface else address_towards(host, port)


def address_of(interface: str) -> str:
    """The address of an interface.

    Raises:
        ConfigError: there is no such interface, or it has no address.
    """
    request = struct.pack("256s", interface.encode()[:_NAME_BYTES])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
        except OSError:
            table = _INET6.read_text(encoding="ascii") if _INET6.exists() else ""
            if (address := ipv6_address(table, interface)) is not None:
                return address
            known = ", ".join(name for _, name in socket.if_nameindex())
            raise ConfigError(
                f"{ROWS_INTERFACE}: expected an interface with an address, found {interface!r}; "
                f"this machine has {known}"
            ) from None
    # struct ifreq: 16 bytes of name, then a sockaddr_in whose address is at byte 4.
    return socket.inet_ntoa(answer[20:24])


def ipv6_address(table: str, interface: str) -> str | None:
    """An interface's IPv6 address in the kernel's table of them, the widest known first; None: it has none. Pure."""
    found = []
    for line in table.splitlines():
        address, _, _, scope, _, name = line.split()
        if name == interface and int(scope, 16) != _LINK_LOCAL:
            found.append((int(scope, 16), socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))))
    return min(found)[1] if found else None


def address_towards(host: str, port: int) -> str:
    """The address by which this machine reaches `host`; nothing is sent.

    Raises:
        ConfigError: the name cannot be resolved, or no route leads there.
    """
    family, address = _found(host)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, port))
        except OSError as error:
            raise ConfigError(
                f"{host}:{port}: cannot be reached ({error.strerror or error}); check the address"
            ) from None
        towards: str = probe.getsockname()[0]
        return towards


def resolved(host: str) -> str:
    """The address of a host name, as a socket is bound to it.

    Raises:
        ConfigError: the name is unknown.
    """
    return _found(host)[1]


def _found(host: str) -> tuple[socket.AddressFamily, str]:
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{host}: unknown host ({why}); give its address") from None
    family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, str(address[0])

"""On which of this machine's addresses does a role listen? By the interface's name, or by the way to a peer."""

import fcntl
import os
import socket
import struct

from bagpipe.errors import ConfigError

ROWS_INTERFACE = "TP_SOCKET_IFNAME"
"""Names the interface of rows and plans. That of dense gradients is `GLOO_SOCKET_IFNAME`, which gloo reads itself."""

_SIOCGIFADDR = 0x8915
"""Linux: ask for an interface's IPv4 address."""
_NAME_BYTES = 15


def listening_address(host: str, port: int) -> str:
    """Where a role listens: on `TP_SOCKET_IFNAME`'s interface, else on the one towards the oracle at `host`.

    Raises:
        ConfigError: there is no such interface, or no way to the oracle.
    """
    interface = os.environ.get(ROWS_INTERFACE)
    return address_of(interface) if interface else address_towards(host, port)


def address_of(interface: str) -> str:
    """The IPv4 address of an interface.

    Raises:
        ConfigError: there is no such interface, or it has no IPv4 address.
    """
    request = struct.pack("256s", interface.encode()[:_NAME_BYTES])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
        except OSError:
            known = ", ".join(name for _, name in socket.if_nameindex())
            raise ConfigError(
                f"{ROWS_INTERFACE}: expected an interface with an IPv4 address, found {interface!r}; "
                f"this machine has {known}"
            ) from None
    # struct ifreq: 16 bytes of name, then a sockaddr_in whose address is at byte 4.
    return socket.inet_ntoa(answer[20:24])


def address_towards(host: str, port: int) -> str:
    """The address by which this machine reaches `host`; nothing is sent.

    Raises:
        ConfigError: the name cannot be resolved, or no route leads there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, port))
        except OSError as error:
            raise ConfigError(
                f"{host}:{port}: cannot be reached ({error.strerror or error}); check the address"
            ) from None
        address: str = probe.getsockname()[0]
        return address


def resolved(host: str) -> str:
    """The IPv4 address of a host name, as a socket is bound to it.

    Raises:
        ConfigError: the name is unknown.
    """
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise ConfigError(f"{host}: unknown host ({error.strerror or error}); give its IPv4 address") from None

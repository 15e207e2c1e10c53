"""An address is one that a socket can have, or one line says what was expected."""

import socket

import pytest

from bagpipe.errors import ConfigError
from bagpipe.net.endpoints import parse_endpoint


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("tcp://127.0.0.1:7700", "tcp://127.0.0.1:7700"),
        ("localhost:7700", "tcp://localhost:7700"),
        ("job-oracle-0.job.default.svc.cluster.local:7700", "tcp://job-oracle-0.job.default.svc.cluster.local:7700"),
        ("tcp://[::1]:65535", "tcp://[::1]:65535"),
        ("[fe80::1%eth0]:1", "tcp://[fe80::1%eth0]:1"),
    ],
)
@pytest.mark.parametrize("listening", [False, True])
def test_addresses(text: str, normal: str, listening: bool) -> None:
    """A host and a port are an address, with `tcp://` or without."""
    assert str(parse_endpoint(text, listening=listening)) == normal


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:0", "tcp://*:7700"])
def test_only_a_listener_has_any_port_and_every_interface(text: str) -> None:
    """Port 0 and host `*` are for listening; nobody can connect there."""
    assert str(parse_endpoint(text, listening=True)) == text
    with pytest.raises(ConfigError, match="expected a"):
        parse_endpoint(text, listening=False)


NO_ADDRESSES = (
    *("", "7700", "localhost", "localhost:", ":7700", "udp://h:1", "tcp://h:1/x", "::1:7700", "[::g]:1", "h:-1"),
    *(
        "h:1e3",
        "tcp://h:99999",
        "300.1.1.1:1",
        "a b:1",
        "h:1\n",
        "tcp://tcp://h:1",
        "h\x00:1",
        "1.2.3:80",
        "h:" + "9" * 16,
    ),
)


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_everything_else_is_refused(text: str) -> None:
    """What is no address is a ConfigError of one line that shows it."""
    with pytest.raises(ConfigError, match="expected a") as refused:
        parse_endpoint(text, listening=True)
    assert "\n" not in str(refused.value)


def test_only_ipv6_needs_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv6 is used for an address in brackets, and for a name that has no IPv4 address."""
    families = {"six": [socket.AF_INET6], "both": [socket.AF_INET6, socket.AF_INET], "four": [socket.AF_INET]}

    def look_up(host: str, port: int, **_: object) -> list[tuple[socket.AddressFamily]]:
        if host not in families:
            raise socket.gaierror
        return [(family,) for family in families[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    hosts = ("[::1]", "127.0.0.1", "six", "both", "four", "unknown")
    assert [parse_endpoint(f"{host}:1", listening=False).needs_ipv6() for host in hosts] == [
        True, False, True, False, False, False
    ]  # fmt: skip

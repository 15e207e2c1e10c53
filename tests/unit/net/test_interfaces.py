"""Which address does a role listen on?"""

import pytest

from bagpipe.errors import ConfigError
from bagpipe.net.endpoints import bracketed, parse_endpoint
from bagpipe.net.interfaces import ROWS_INTERFACE, address_towards, ipv6_address, listening_address, resolved

KERNELS_TABLE = """\
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
fd000000000000000000000000000002 04 40 00 82     eth0
fe800000000000000000000000000007 05 40 20 80     eth1
00000000000000000000000000000001 01 80 10 80       lo
"""


def test_the_interface_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The named one's address wins; a name that is none is told, with those that there are."""
    monkeypatch.setenv(ROWS_INTERFACE, "lo")
    assert listening_address("192.0.2.1", 18000) == "127.0.0.1"
    monkeypatch.setenv(ROWS_INTERFACE, "enp94s0f0x")
    with pytest.raises(ConfigError, match=r"TP_SOCKET_IFNAME: .* found 'enp94s0f0x'; this machine has .*lo"):
        listening_address("127.0.0.1", 18000)


def test_the_interface_towards_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name: the one that leads there."""
    monkeypatch.delenv(ROWS_INTERFACE, raising=False)
    assert listening_address("127.0.0.1", 18000) == "127.0.0.1"


def test_unknown_hosts_are_named() -> None:
    """A host is resolved once, where it was given."""
    assert resolved("localhost") == "127.0.0.1"
    with pytest.raises(ConfigError, match=r"no-such-host\.invalid: unknown host"):
        resolved("no-such-host.invalid")


@pytest.mark.parametrize(("interface", "address"), [("eth0", "fd00::2"), ("lo", "::1"), ("eth1", None), ("x", None)])
def test_an_interface_without_ipv4_has_its_ipv6_address(interface: str, address: str | None) -> None:
    """Not the one that leads nowhere without the interface's name beside it."""
    assert ipv6_address(KERNELS_TABLE, interface) == address


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_a_host_that_has_ipv6_alone(host: str) -> None:
    """Its address is found and, in brackets, is one that a role can listen on."""
    assert resolved(host) == address_towards(host, 18000) == "::1"
    assert parse_endpoint(f"tcp://{bracketed(resolved(host))}:18000", listening=True).is_loopback
    assert bracketed("10.0.0.1") == "10.0.0.1" and bracketed("[::1]") == "[::1]"

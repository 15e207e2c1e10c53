"""Which address does a role listen on?"""

import pytest

from bagpipe.errors import ConfigError
from bagpipe.net.interfaces import ROWS_INTERFACE, listening_address, resolved


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

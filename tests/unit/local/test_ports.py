"""Free ports: different, really free, nobody else's next, and an error where there are none."""

import os
import socket
import subprocess
import sys

import pytest

from bagpipe.errors import ConfigError
from bagpipe.local import ports
from bagpipe.local.ports import free_ports, loopback


def test_ports_are_free_and_no_two_calls_get_the_same() -> None:
    """A port that somebody listens on is passed over; each call goes on where the last one ended."""
    with socket.socket() as taken:
        taken.bind((loopback(), free_ports(1)[0] + 2))
        found = [port for _ in range(3) for port in free_ports(5)]
        assert taken.getsockname()[1] not in found
    assert len(set(found)) == 15
    for port in found:
        with socket.socket() as listener:
            listener.bind((loopback(), port))


def test_the_system_gives_none_of_them_to_others() -> None:
    """They lie below the range from which the kernel gives a program that asks for any port."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        lowest = int(file.read().split()[0])
    assert max(free_ports(200)) < lowest


def test_processes_that_start_at_the_same_time_get_different_ones() -> None:
    """Two processes ask at once, before either listens."""
    code = "import sys; from bagpipe.local.ports import free_ports; print(*free_ports(20)); sys.stdin.read()"
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate()[0].split() for process in both]
    assert len({*printed[0], *printed[1]}) == 40


def test_none_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in one line, with the way out."""
    monkeypatch.setattr(ports, "END", ports.FIRST + 3)
    monkeypatch.setattr(os, "getpid", lambda: 0)
    with pytest.raises(ConfigError, match=r"5 free ports are needed, 3 were found .* oracle.port and servers.port"):
        free_ports(5)

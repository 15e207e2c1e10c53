"""Links that break in a short run of real processes; `make sweep-faults` tries every fault in every place."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from pathlib import Path
from bagpipe.testing.fault_run import Fault, preload, run_with

preload()
folder = Path(sys.argv[1])
faults = [None, *(Fault(*one) for one in json.loads(sys.argv[2]))]
told = [run_with(fault, folder / f"run-{number}") for number, fault in enumerate(faults)]
print(json.dumps([[one.digest, one.attempts, one.told] for one in told]))
"""
CHOSEN = [("reset", "trainer 1"), ("split", "server 0")]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[list[str | int]]:
    """In a process of its own, which forks: this one has threads. The first run is undisturbed."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("faults")), json.dumps(CHOSEN)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[list[str | int]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("number", range(len(CHOSEN)), ids=[" ".join(one) for one in CHOSEN])
def test_a_link_that_breaks_changes_no_bit(told: list[list[str | int]], number: int) -> None:
    """A connection that is reset, or carries everything in pieces of a few bytes: the same model, in one attempt."""
    digest, attempts, reasons = told[number + 1]
    assert digest is not None and digest == told[0][0], reasons
    assert attempts == 1, reasons


def test_the_proxy_does_what_it_is_told(tmp_path: Path) -> None:
    """Through it bytes come whole, and after `reset` the connection is gone at both ends."""
    import socket

    from bagpipe.local.ports import free_ports

    behind, before = free_ports(2)
    with socket.create_server(("127.0.0.1", behind)) as listener:
        command = [sys.executable, "-m", "bagpipe.testing.fault_proxy", f"{before}:{behind}"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as proxy:
            assert proxy.stdin is not None and proxy.stdout is not None and proxy.stdout.readline() == b"ready\n"
            with socket.create_connection(("127.0.0.1", before)) as near, listener.accept()[0] as far:
                near.sendall(b"a" * 100_000)
                assert far.recv(100_000, socket.MSG_WAITALL) == b"a" * 100_000
                proxy.stdin.write(f"{before} reset\n".encode())
                proxy.stdin.flush()
                for end in (near, far):
                    with pytest.raises(ConnectionResetError):
                        end.recv(1)
            proxy.stdin.close()
            assert proxy.wait(60) == 0

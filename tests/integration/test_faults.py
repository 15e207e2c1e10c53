"""Links, a disk and a clock that break in a short run of real processes; `make sweep-faults` tries every fault."""

import asyncio
import json
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

from bagpipe.testing.fault_proxy import Cutter, Link, Pair

PROGRAM = """
import json, sys
from pathlib import Path
from bagpipe.testing.fault_run import Fault, preload, run_with

preload()
folder = Path(sys.argv[1])
faults = [None, *(Fault(*one) for one in json.loads(sys.argv[2]))]
told = [run_with(fault, folder / f"run-{number}") for number, fault in enumerate(faults)]
logs = ["".join(log.read_text() for log in folder.glob(f"run-{number}/logs/*")) for number in range(len(told))]
refused = [text.count("was said in attempt 0") + text.count("a Hello of attempt 0 came after") for text in logs]
print(json.dumps([[one.digest, one.attempts, one.told, count] for one, count in zip(told, refused)]))
"""
CHOSEN: dict[tuple[str | float, ...], int] = {
    ("reset", "trainer 1"): 1,
    ("split", "server 0"): 1,
    ("replay", "oracle"): 1,
    ("earlier", "server 0"): 2,
    ("torn", "trainer 0", 0.0, "", 3000): 1,
    ("clock", "every role", -86400.0): 1,
}
"""With the attempts that they take. A limit of a file's size ends the run at once; it is resumed without one."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[list[str | int]]:
    """In a process of its own, which forks: this one has threads. The first run is undisturbed."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("faults")), json.dumps(list(CHOSEN))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[list[str | int]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("number", range(len(CHOSEN)), ids=[" ".join(map(str, one)) for one in CHOSEN])
def test_what_breaks_changes_no_bit(told: list[list[str | int]], number: int) -> None:
    """A connection that is reset, or carries everything in pieces of a few bytes, twice and once more, or with what an
    attempt before has said; files that end after 3,000 bytes; a clock that is set back by a day: the same model,
    without an attempt more than its fault costs.
    """
    digest, attempts, reasons, refused = told[number + 1]
    what = list(CHOSEN)[number]
    assert digest is not None and digest == told[0][0], reasons
    assert attempts == CHOSEN[what], reasons
    assert (refused > 0) == (what[0] == "earlier")


def test_the_proxy_repeats_and_swaps_whole_messages() -> None:
    """A greeting and commands pass as they are, a message once its last frame is there, however the bytes come."""
    greeting, ping = b"g" * 64, b"\x04\x05\x04PING"
    hello, first, second = b"\x00\x13\xa4role\xa7trainer\xa5index\x01"[:21], b"\x01\x01a\x00\x01b", b"\x00\x01c"
    stream = greeting + hello + ping + first + second
    cutter = Cutter()
    parts = [part for at in range(0, len(stream), 5) for part in cutter.cut(stream[at : at + 5])]
    assert b"".join(part for part, _ in parts) == stream
    assert [part for part, is_message in parts if is_message] == [hello, first, second]

    def said(link: Link) -> list[bytes]:
        held: deque[bytes] = deque()
        pair = Pair(None, None)  # type: ignore[arg-type]
        return list(link._said([(hello, True), (ping, False), (first, True), (second, True)], pair, True, {}, held))

    link = Link(0, messages=True)
    assert said(link) == [hello, ping, first, second]
    link.command("replay", 0)
    again = said(link)
    assert again.count(second) >= 2 and again.count(ping) == 1 and len(again) == 10
    link = Link(0, messages=True)
    link.command("reorder", 0)
    assert said(link) == [ping, first, hello]  # `second` waits for the next one.


def test_two_roles_are_parted_and_no_others() -> None:
    """What is there between them carries nothing more; what the parted role begins anew ends with its Hello, until the
    time is over; others are heard.
    """

    async def parted() -> None:
        link = Link(0, messages=True)
        there, other = (Pair(None, None, speaker=name) for name in ("trainer 1", "trainer 0"))  # type: ignore[arg-type]
        link.pairs += [there, other]
        link.command("part", 60.0, "trainer 1")
        assert there.silent and not other.silent
        hello = b"\x00\x13\xa4role\xa7trainer\xa5index"
        for rank, heard in ((1, False), (0, True)):
            pair = Ended(None, None)  # type: ignore[arg-type]
            told = list(link._said([(hello + bytes([rank]), True)], pair, True, {}, deque()))
            assert bool(told) == heard and pair.ended != heard, rank
        link.parted_until["trainer 1"] = asyncio.get_running_loop().time()
        pair = Ended(None, None)  # type: ignore[arg-type]
        assert list(link._said([(hello + b"\x01", True)], pair, True, {}, deque())) and not pair.ended

    asyncio.run(parted())


class Ended(Pair):
    """A pair without connections, which notes that they were to be reset."""

    ended = False

    def reset(self) -> None:
        self.ended = True


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

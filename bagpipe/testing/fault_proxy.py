"""A TCP proxy between two roles that breaks what goes through it: for tests and sweeps of faults.

python -m bagpipe.testing.fault_proxy 17001:7001 17002:7002    listens on the first ports, forwards to the second
python -m bagpipe.testing.fault_proxy --messages 17001:7001    also knows where zmq's messages begin and end (ZMTP 3)

It reads one command a line from standard input, each about one of the ports it listens on:

    17001 reset           every connection ends by a reset; new ones are made
    17001 silence         every connection stays open and carries nothing more; new ones are made
    17001 cut 5           every connection ends, and for 5 seconds none is made
    17001 delay 0.2       from now on everything comes so many seconds later
    17001 split           from now on everything comes in pieces of a few bytes

and with `--messages`, of connections that are not encrypted:

    17001 replay          from now on every message comes twice, and after it some earlier one of the same sender
    17001 reorder         from now on of every two messages of a sender the second comes first
    17001 earlier         on connections that are made from now on, what their senders said before them comes again
    17001 part 5 trainer 0     connections of that role carry nothing more, and for 5 seconds it can make no other
"""

import argparse
import asyncio
import contextlib
import random
import re
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

CHUNK = 1 << 16
PIECE = 7
GREETING_BYTES = 64
MORE, LONG, COMMAND = 1, 2, 4
"""Flags in the first byte of a ZMTP frame."""
RECORDED = 400
"""Messages to and from each role that are remembered."""
SPEAKER = re.compile(rb"\xa4role(?:\xa6(server)|\xa7(trainer))\xa5index(.)", re.DOTALL)
"""Of a `Hello`: who says it."""
HOLD_SECONDS = 0.5
"""A message whose place is to be changed waits at most so long for the next one."""


@dataclass(slots=True)
class Pair:
    """A connection to the proxy, and the one that the proxy has made for it."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    silent: bool = False
    speaker: str = ""
    """Of a link that knows messages: the role that has made the connection; empty: it has not said `Hello`."""

    def reset(self) -> None:
        """End both with a reset, not with an orderly end."""
        for writer in (self.near, self.far):
            if (held := writer.get_extra_info("socket")) is not None:
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@dataclass(slots=True)
class Cutter:
    """Cuts what one direction of a connection carries into its greeting, commands and whole messages (ZMTP 3)."""

    _bytes: bytearray = field(default_factory=bytearray)
    _message: bytearray = field(default_factory=bytearray)
    """Frames of a message whose last one has not come."""
    _greeting: int = GREETING_BYTES
    """Bytes of the greeting that have not come. Its first ones are not kept back: the other end waits for them."""

    def cut(self, content: bytes) -> Iterator[tuple[bytes, bool]]:
        """Each part that is complete now, and whether it is a message."""
        self._bytes += content
        if self._greeting:
            greeting = self._take(self._greeting)
            self._greeting -= len(greeting)
            yield greeting, False
        while not self._greeting and (length := self._frame()):
            flags = self._bytes[0]
            frame = self._take(length)
            if flags & COMMAND:
                yield frame, False
                continue
            self._message += frame
            if not flags & MORE:
                whole, self._message = bytes(self._message), bytearray()
                yield whole, True

    def _frame(self) -> int:
        """Length of the frame that is next; 0: not all of it is here."""
        head = 9 if self._bytes and self._bytes[0] & LONG else 2
        if len(self._bytes) < head:
            return 0
        length = head + int.from_bytes(self._bytes[1:head], "big")
        return length if len(self._bytes) >= length else 0

    def _take(self, count: int) -> bytes:
        taken = bytes(self._bytes[:count])
        del self._bytes[:count]
        return taken


Way = tuple[str, bool]
"""What is said by one role to another: the one that has made the connection, and whether that one speaks."""


@dataclass(slots=True)
class Link:
    """Listens on one port and forwards to another.

    Args:
        messages: connections are cut into zmq's messages, which is what some commands need.
    """

    target: int
    host: str = "127.0.0.1"
    messages: bool = False
    delay: float = 0.0
    piece: int = CHUNK
    cut_until: float = 0.0
    replays: bool = False
    reorders: bool = False
    parted_until: dict[str, float] = field(default_factory=dict)
    """By role: when it may make connections again."""
    pairs: list[Pair] = field(default_factory=list)
    _recorded: dict[Way, deque[bytes]] = field(default_factory=dict)
    _earlier: dict[Way, list[bytes]] = field(default_factory=dict)
    """What was recorded when `earlier` was asked for."""
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def command(self, what: str, number: float, role: str = "") -> None:
        """Do one of the commands above."""
        match what:
            case "reset":
                self._reset()
            case "silence":
                for pair in self.pairs:
                    pair.silent = True
            case "cut":
                self.cut_until = asyncio.get_running_loop().time() + number
                self._reset()
            case "delay":
                self.delay = number
            case "split":
                self.piece = PIECE
            case "replay" if self.messages:
                self.replays = True
            case "reorder" if self.messages:
                self.reorders = True
            case "earlier" if self.messages:
                self._earlier = {way: list(recorded) for way, recorded in self._recorded.items()}
            case "part" if self.messages:
                self.parted_until[role] = asyncio.get_running_loop().time() + number
                for pair in self.pairs:
                    pair.silent = pair.silent or pair.speaker == role
            case _:
                raise ValueError(f"expected one of the commands of this program, found {what!r}")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection both ways until either end closes."""
        if asyncio.get_running_loop().time() < self.cut_until:
            writer.transport.abort()
            return
        try:
            far_reader, far = await asyncio.open_connection(self.host, self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = Pair(writer, far)
        self.pairs.append(pair)
        await asyncio.gather(self._pump(pair, reader, far, True), self._pump(pair, far_reader, writer, False))
        self.pairs.remove(pair)

    async def _pump(self, pair: Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, there: bool) -> None:
        cutter = Cutter() if self.messages else None
        earlier, held = self._earlier, deque[bytes]()
        with contextlib.suppress(OSError):
            while content := await self._read(pair, reader, writer, held):
                parts = [content] if cutter is None else self._said(cutter.cut(content), pair, there, earlier, held)
                for part in parts:
                    await self._write(pair, part, writer)
        if not pair.silent:
            writer.close()

    async def _read(
        self, pair: Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: deque[bytes]
    ) -> bytes:
        """What comes next; a message that is held goes first where nothing comes for long."""
        if held:
            try:
                return await asyncio.wait_for(reader.read(CHUNK), HOLD_SECONDS)
            except TimeoutError:
                await self._write(pair, held.popleft(), writer)
        return await reader.read(CHUNK)

    async def _write(self, pair: Pair, content: bytes, writer: asyncio.StreamWriter) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        for at in range(0, len(content), self.piece):
            if not pair.silent:
                writer.write(content[at : at + self.piece])
                await writer.drain()
                await asyncio.sleep(0)

    def _said(
        self,
        parts: Iterable[tuple[bytes, bool]],
        pair: Pair,
        there: bool,
        earlier: dict[Way, list[bytes]],
        held: deque[bytes],
    ) -> Iterator[bytes]:
        """What is said where these parts have come."""
        for part, is_message in parts:
            if is_message and self.reorders and not held:
                held.append(part)
                continue
            if there and is_message and (hello := SPEAKER.search(part)):
                pair.speaker = f"{(hello[1] or hello[2]).decode()} {hello[3][0]}"
                if self.parted_until.get(pair.speaker, 0.0) > asyncio.get_running_loop().time():
                    pair.reset()
                    return
            yield part
            if not is_message:
                continue
            if held:
                yield held.popleft()
            way = (pair.speaker, there)
            recorded = self._recorded.setdefault(way, deque(maxlen=RECORDED))
            if self.replays:
                yield part
                yield self._random.choice(recorded or [part])
            if way in earlier:
                yield self._random.choice(earlier[way])
            recorded.append(part)

    def _reset(self) -> None:
        for pair in self.pairs:
            pair.reset()


async def _main(links: dict[int, Link]) -> None:
    servers = [await asyncio.start_server(link.serve, link.host, port) for port, link in links.items()]
    print("ready", flush=True)
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        port, what, *number = line.decode().split()
        links[int(port)].command(what, float(number[0]) if number else 0.0, " ".join(number[1:]))
    for server in servers:
        server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ports", metavar="FROM:TO", nargs="+", help="the port to listen on, and the one to forward to")
    parser.add_argument("--messages", action="store_true", help="know where zmq's messages begin and end")
    asked = parser.parse_args()
    ports = (one.split(":") for one in asked.ports)
    asyncio.run(_main({int(a): Link(int(b), messages=asked.messages) for a, b in ports}))

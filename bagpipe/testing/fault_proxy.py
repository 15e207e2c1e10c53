"""A TCP proxy between two roles that breaks what goes through it: for tests and sweeps of faults.

python -m bagpipe.testing.fault_proxy 17001:7001 17002:7002    listens on the first ports, forwards to the second

It reads one command a line from standard input, each about one of the ports it listens on:

    17001 reset           every connection ends by a reset; new ones are made
    17001 silence         every connection stays open and carries nothing more; new ones are made
    17001 cut 5           every connection ends, and for 5 seconds none is made
    17001 delay 0.2       from now on everything comes so many seconds later
    17001 split           from now on everything comes in pieces of a few bytes
"""

import asyncio
import contextlib
import socket
import struct
import sys
from dataclasses import dataclass, field

CHUNK = 1 << 16
PIECE = 7


@dataclass(slots=True)
class _Pair:
    """A connection to the proxy, and the one that the proxy has made for it."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    silent: bool = False

    def reset(self) -> None:
        """End both with a reset, not with an orderly end."""
        for writer in (self.near, self.far):
            if (held := writer.get_extra_info("socket")) is not None:
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@dataclass(slots=True)
class Link:
    """Listens on one port and forwards to another."""

    target: int
    host: str = "127.0.0.1"
    delay: float = 0.0
    piece: int = CHUNK
    cut_until: float = 0.0
    pairs: list[_Pair] = field(default_factory=list)

    def command(self, what: str, number: float) -> None:
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
            case _:
                raise ValueError(f"expected reset, silence, cut, delay or split, found {what!r}")

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
        pair = _Pair(writer, far)
        self.pairs.append(pair)
        await asyncio.gather(self._pump(pair, reader, far), self._pump(pair, far_reader, writer))
        self.pairs.remove(pair)

    async def _pump(self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while content := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                for at in range(0, len(content), self.piece):
                    if not pair.silent:
                        writer.write(content[at : at + self.piece])
                        await writer.drain()
                        await asyncio.sleep(0)
        if not pair.silent:
            writer.close()

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
        links[int(port)].command(what, float(number[0]) if number else 0.0)
    for server in servers:
        server.close()


if __name__ == "__main__":
    asyncio.run(_main({int(a): Link(int(b)) for a, b in (one.split(":") for one in sys.argv[1:])}))

"""One end of a raw TCP exchange in both directions at once; prints the seconds until the last byte came.

duplex.py listen|connect ADDRESS PORT BYTES
"""

import argparse
import socket
import threading
import time

WAIT_SECONDS = 15.0
PIECE = 1 << 20


def connection(how: str, address: str, port: int) -> socket.socket:
    """The one connection between both ends."""
    if how == "listen":
        with socket.create_server((address, port)) as server:
            server.settimeout(WAIT_SECONDS)
            return server.accept()[0]
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return socket.create_connection((address, port), timeout=WAIT_SECONDS)
        except OSError:
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(0.02)


def exchange(peer: socket.socket, size: int) -> float:
    """Send and receive `size` bytes at the same time; seconds until everything has come."""
    peer.settimeout(WAIT_SECONDS)
    peer.sendall(b"!")
    if peer.recv(1) != b"!":
        raise ConnectionError("the other end left")
    begun = time.perf_counter()
    sender = threading.Thread(target=_send, args=(peer, size))
    sender.start()
    buffer, left = bytearray(PIECE), size
    while left:
        count = peer.recv_into(buffer, min(PIECE, left))
        if not count:
            raise ConnectionError(f"{left} bytes did not come")
        left -= count
    seconds = time.perf_counter() - begun
    sender.join()
    return seconds


def _send(peer: socket.socket, size: int) -> None:
    data = memoryview(bytes(PIECE))
    for begin in range(0, size, PIECE):
        peer.sendall(data[: min(PIECE, size - begin)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=("listen", "connect"))
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("size", metavar="bytes", type=int, help="in each direction")
    asked = parser.parse_args()
    with connection(asked.how, asked.address, asked.port) as peer:
        print(exchange(peer, asked.size))
        # Leave only when the other end has everything too.
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)

"""Servers on loopback that answer in place of an API server, and kubeconfigs that lead there."""

import datetime as dt
import json
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fake_client import raw


def kubeconfig(path, server: str, user=(), **cluster):
    """Write a kubeconfig with one context `a`; returns its path."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "a", "user": dict(user)}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    }
    path.write_text(json.dumps(document))
    return str(path)


@contextmanager
def serving(serve):
    """A server on loopback that calls `serve` with each connection, one after the other; yields its port.

    A client that goes away ends its own connection alone.
    """

    def accept():
        with suppress(OSError):  # It does not listen any more.
            while True:
                connection, _ = listening.accept()
                with connection, suppress(ConnectionError, ssl.SSLError):
                    serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def answering(*answers: bytes):
    """A server on loopback that answers each connection with the next of these, the last one again and again.

    Yields its address, and what it was asked so far.
    """
    taken, left = [], list(answers)

    def serve(connection):
        taken.append(connection.recv(65536))
        connection.sendall(left.pop(0) if len(left) > 1 else left[0])

    with serving(serve) as port:
        yield f"http://127.0.0.1:{port}", taken


def http(status: str, body: str = "", *headers: str) -> bytes:
    """An answer, after which the connection is closed."""
    head = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


JOB = http("200 OK", json.dumps(raw("Complete")), "Content-Type: application/json")


def certificate(folder, name: str, phrase: bytes = b""):
    """Make a certificate of this name that signs itself, and its key, locked by a phrase; returns their files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    lock = serialization.BestAvailableEncryption(phrase) if phrase else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, lock))
    return files


@contextmanager
def tunnel(certificate, key):
    """A proxy on loopback that takes CONNECT, and then answers itself by TLS: each request with a job.

    Yields its address, and the first line of what it was asked, by turns as proxy and as server.
    """
    taken, context = [], ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve(plain):
        taken.append(plain.recv(65536).split(b"\r\n"))
        plain.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with context.wrap_socket(plain, server_side=True) as secret:
            taken.append(secret.recv(65536).split(b"\r\n"))
            secret.sendall(JOB)

    with serving(serve) as port:
        yield f"http://user:pass%20word@127.0.0.1:{port}", taken

"""A `FakeApi` over HTTP on loopback, for clients that open connections: the library's own, kubectl's credentials."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlparse

import yaml
from fake_api import FakeApi


@contextmanager
def served(api: FakeApi, folder: Path, namespace: str = "ns") -> Iterator[Path]:
    """While this lasts the objects are to be had at the address in the kubeconfig that this yields.

    A client that asks in the test's own thread is answered before that goes on, so the objects need no lock.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(api)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield _kubeconfig(folder / "kubeconfig", server.server_port, namespace)
        finally:
            server.shutdown()
            thread.join()


def _kubeconfig(path: Path, port: int, namespace: str) -> Path:
    text = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "fake", "user": {}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}],
    }
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    return path


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            url = urlparse(self.path)
            params = dict(parse_qsl(url.query))
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = self.headers.get("Content-Type", "")
            code, raw = api.request(self.command, url.path, json.loads(sent) if sent else None, kind, params)
            if code == 200 and (selector := params.get("labelSelector")):
                raw = _selected(raw, selector)
            self.send_response(201 if (code, self.command) == (200, "POST") else code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            """Nothing: a test's output is its own."""

    return Handler


def _selected(raw: bytes, selector: str) -> bytes:
    """The objects of a list that have all these labels."""
    answer, wanted = json.loads(raw), [part.split("=") for part in selector.split(",")]
    labels = [(one, one["metadata"].get("labels") or {}) for one in answer["items"]]
    answer["items"] = [one for one, has in labels if all(has.get(name) == value for name, value in wanted)]
    return json.dumps(answer).encode()

"""An API server of a few paths over real HTTP on loopback: BagpipeJobs, their pods, their logs."""

import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import yaml

JOBS = re.compile(r"/apis/bagpipe\.dev/v1alpha1/namespaces/lab/bagpipejobs(?:/([^/]+))?$")
PODS = re.compile(r"/api/v1/namespaces/lab/pods(?:/([^/]+)/log)?$")


class ApiServer:
    """Jobs go through `phases`, one a look; each has an oracle, its servers and its trainers as pods."""

    def __init__(self, log: str, phases=("Starting", "Running", "Complete")) -> None:
        self.log, self.phases = log, list(phases)
        self.jobs: dict[str, dict] = {}
        self.created: list[dict] = []
        self.deleted: list[str] = []
        self.on_look = lambda name: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.get(self)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body["metadata"] |= {"namespace": "lab", "uid": "u"}
                outer.created.append(body)
                outer.jobs[body["metadata"]["name"]] = {**body, "looks": 0}
                outer.answer(self, 201, body)

            def do_DELETE(self):
                name = JOBS.match(urlparse(self.path).path).group(1)
                if outer.jobs.pop(name, None) is None:
                    return outer.answer(self, 404, {"message": "not found"})
                outer.deleted.append(name)
                return outer.answer(self, 200, {})

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def kubeconfig(self, path: Path) -> Path:
        server = f"http://127.0.0.1:{self._http.server_port}"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "lab",
                    "clusters": [{"name": "lab", "cluster": {"server": server}}],
                    "users": [{"name": "lab", "user": {}}],
                    "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": "lab"}}],
                }
            )
        )
        return path

    def get(self, request) -> None:
        url = urlparse(request.path)
        if match := JOBS.match(url.path):
            name = match.group(1)
            if name is None:
                return self.answer(request, 200, {"items": list(self.jobs.values())})
            if name not in self.jobs:
                return self.answer(request, 404, {"message": "not found"})
            job = self.jobs[name]
            phase = self.phases[min(job["looks"], len(self.phases) - 1)]
            job["looks"] += 1
            self.on_look(name)
            condition = {"type": phase, "status": "True", "reason": "Because", "message": "why"}
            return self.answer(request, 200, {**job, "status": {"phase": phase, "conditions": [condition]}})
        pod = PODS.match(url.path).group(1)
        if pod is None:
            selector = parse_qs(url.query)["labelSelector"][0]
            name, role = (part.split("=")[1] for part in selector.split(","))
            return self.answer(request, 200, {"items": self._pods(name, role)})
        text = (self.log if "-oracle-" in pod else f"words of {pod}\n").encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        return request.wfile.write(text)

    def _pods(self, name: str, role: str) -> list[dict]:
        spec = self.jobs[name]["spec"]
        count = spec[f"{role}s"]["replicas"] if role != "oracle" else 1
        index = "apps.kubernetes.io/pod-index" if role == "server" else "batch.kubernetes.io/job-completion-index"
        return [
            {
                "metadata": {
                    "name": f"{name}-{role}-{i}",
                    "uid": f"{name}-{role}-{i}",
                    "labels": {index: str(i), "bagpipe.dev/attempt": "0"},
                },
                "status": {"containerStatuses": [{"restartCount": 0, "state": {"terminated": {}}}]},
            }
            for i in range(count)
        ]

    @staticmethod
    def answer(request, code: int, body) -> None:
        data = json.dumps(body).encode()
        with contextlib.suppress(ConnectionError):  # an interrupted client does not wait for its answer
            request.send_response(code)
            request.send_header("Content-Type", "application/json")
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(data)

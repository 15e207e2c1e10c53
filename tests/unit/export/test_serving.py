"""The example of an HTTP server, started as anyone would start it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bagpipe.export.write import export_model, load_export

ROOT = Path(__file__).resolve().parents[3]
COLUMNS = {"labels": [{"name": "y"}], "dense": [{"name": "price"}], "sparse": [{"name": "user"}]}


@pytest.fixture(scope="module")
def export(trained: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    lines = "".join(f"{n % 2},{n / 7:.3f},u{n % 30}\n" for n in range(200))
    (folder / "rows.csv").write_text("y,price,user\n" + lines)
    spec = {
        "model": {"bottomMlp": [8], "overMlp": [8]},
        "data": {"path": str(folder / "rows.csv"), "columns": COLUMNS},
        "embedding": {"dim": 4},
        "trainers": {"threads": 1},
    }
    export_model(trained(json.dumps({"metadata": {"name": "served"}, "spec": spec})), folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def port(export: Path) -> Iterator[int]:
    """Of a server of the export, which is told to stop at the end and does."""
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        str(ROOT / "examples" / "serving"),
        "app:app",
        "--port",
        "0",
    ]
    env = os.environ | {"MODEL": str(export), "WAIT_MS": "100"}
    server = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    lines = []
    for line in server.stderr:
        lines.append(line)
        if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
            yield int(found[1])
            break
    else:
        pytest.fail("".join(lines))
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) in (0, -signal.SIGTERM)
    server.stderr.close()


def ask(port: int, path: str, body: Any = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def metric(port: int, name: str) -> float:
    text = ask(port, "/metrics")[1]
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def test_requests_at_once_are_scored_together_and_answered_apart(export: Path, port: int) -> None:
    """Each of 24 clients gets the scores of its own rows, from fewer calls of the model than requests."""
    requests = [[{"user": f"u{n % 30}", "price": n * 0.5 + k} for k in range(1 + n % 3)] for n in range(24)]
    batches, rows = metric(port, "score_batches_total"), metric(port, "score_rows_total")
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda rows: ask(port, "/score", {"rows": rows}), requests))
    model = load_export(export)
    for asked, (status, text) in zip(requests, answers, strict=True):
        assert status == 200, text
        assert json.loads(text)["labels"] == ["y"]
        np.testing.assert_allclose(json.loads(text)["scores"], model.score(asked), rtol=1e-6)
    assert metric(port, "score_rows_total") - rows == sum(map(len, requests))
    assert metric(port, "score_batches_total") - batches < len(requests)


def test_a_bad_row_is_its_own_clients_error(port: int) -> None:
    """One of several requests at once has a text where a number is due: it alone is refused, by row and column."""
    good = {"rows": [{"user": "u1", "price": 2.0}]}
    bad = {"rows": [{"user": "u1", "price": 2.0}, {"user": "u1", "price": "cheap"}]}
    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(lambda body: ask(port, "/score", body), [good] * 4 + [bad] + [good] * 4))
    assert [status for status, _ in answers] == [200] * 4 + [422] + [200] * 4
    assert "row 2: column price" in answers[4][1]
    for body in ([], {"rows": []}, {"rows": [1]}, {}):
        assert ask(port, "/score", body)[0] == 400
    assert ask(port, "/score", {"rows": [{}] * 10_001})[0] == 413


def test_health_and_metrics_tell_what_is_served(port: int) -> None:
    """`/healthz` names the model; `/metrics` counts each answer by its status, in a histogram that adds up."""
    status, text = ask(port, "/healthz")
    assert status == 200 and json.loads(text) == {"job": "served", "step": 8, "labels": ["y"]}
    before = metric(port, 'score_requests_total{status="400"}')
    ask(port, "/score", {"rows": 1})
    assert metric(port, 'score_requests_total{status="400"}') == before + 1
    assert metric(port, 'score_seconds_bucket{le="+Inf"}') == metric(port, "score_seconds_count")

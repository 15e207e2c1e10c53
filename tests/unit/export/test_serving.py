"""The example of an HTTP server, started as anyone would start it."""

import asyncio
import http.client
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException

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


class Blocks:
    """A model that in one of its calls computes until it is let go, and fails on a row that says so."""

    labels, facts = ("y",), {"job": "served", "step": 8, "labels": ["y"]}

    def __init__(self, call: int = 1) -> None:
        self.began, self.go_on, self.calls_to_come = threading.Event(), threading.Event(), call

    def score(self, rows: list[dict[str, Any]]) -> Any:
        self.calls_to_come -= 1
        if self.calls_to_come == 0:
            self.began.set()
            assert self.go_on.wait(60)
        if any(row.get("bad") for row in rows):
            raise ValueError("a bad row")
        return np.zeros((len(rows), 1))


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("served_app", ROOT / "examples/serving/app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("bad", [False, True])
def test_a_client_that_leaves_takes_nobody_with_it(program: ModuleType, bad: bool, call: int) -> None:
    """It leaves while the model computes its rows, good or bad, with another client's or once more by themselves: a
    client that asked at the same time is answered, and so is one that comes later.
    """

    async def asked() -> None:
        model = Blocks(call)
        batcher = program.Batcher(model, program.Metrics())
        leaving = asyncio.create_task(batcher.score([{"bad": bad}]))
        beside = asyncio.create_task(batcher.score([{"bad": True}, {}]))
        await asyncio.sleep(0)  # Both are in the queue before it is looked at.
        scoring = asyncio.create_task(batcher.run())
        assert await asyncio.to_thread(model.began.wait, 60)
        leaving.cancel()
        await asyncio.wait([leaving])
        model.go_on.set()
        with pytest.raises(ValueError, match="a bad row"):
            await asyncio.wait_for(beside, 60)
        assert (await asyncio.wait_for(batcher.score([{}]), 60)).shape == (1, 1)
        assert not scoring.done()
        scoring.cancel()

    asyncio.run(asked())


def test_a_server_that_scores_no_more_is_not_well(program: ModuleType) -> None:
    """`/healthz` is 503 once the task that scores has ended, so that the program's supervisor starts another."""

    async def asked() -> None:
        state = program.app.state
        state.batcher = program.Batcher(Blocks(), program.Metrics())
        state.scoring = asyncio.create_task(state.batcher.run())
        assert (await program.healthz())["step"] == 8
        state.scoring.cancel()
        await asyncio.wait([state.scoring])
        with pytest.raises(HTTPException) as refused:
            await program.healthz()
        assert refused.value.status_code == 503

    asyncio.run(asked())

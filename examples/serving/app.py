"""A small HTTP server of an export: POST /score, GET /healthz, GET /metrics. Needs no Bagpipe.

    bagpipe export RUN model/
    pip install -r examples/serving/requirements.txt
    MODEL=model uvicorn --app-dir examples/serving app:app --port 8080
    curl -s localhost:8080/score -d '{"rows": [{"user": "u1", "item": "i7"}]}'

Requests that wait together are scored together: at most `BATCH` rows at once, and nobody waits more than `WAIT_MS` for
company. One thread scores, because torch uses the cores by itself.
"""

import asyncio
import importlib.util
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response

MODEL = Path(os.environ.get("MODEL", "model")).resolve()
BATCH = int(os.environ.get("BATCH", "256"))
WAIT_MS = float(os.environ.get("WAIT_MS", "1"))
MOST_ROWS = int(os.environ.get("MOST_ROWS", "10000"))
"""Of one request."""
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of the histogram of latencies, in seconds."""


def load_model(folder: Path) -> Any:
    """The export's model, by the export's own code."""
    spec = importlib.util.spec_from_file_location("score", folder / "score.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(folder / "score.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = os.environ.get("THREADS")
    return module.load(folder, threads=int(threads) if threads else None)


@dataclass
class Metrics:
    """Counters since the start."""

    requests: dict[int, int] = field(default_factory=dict)
    """By HTTP status."""
    rows: int = 0
    batches: int = 0
    seconds: float = 0.0
    within: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))

    def add(self, status: int, seconds: float) -> None:
        self.requests[status] = self.requests.get(status, 0) + 1
        self.seconds += seconds
        self.within = [count + (seconds <= bound) for count, bound in zip(self.within, BUCKETS, strict=True)]

    def text(self) -> str:
        """In Prometheus' format."""
        total = sum(self.requests.values())
        lines = ["# TYPE score_requests_total counter"]
        lines += [f'score_requests_total{{status="{s}"}} {count}' for s, count in sorted(self.requests.items())]
        lines += ["# TYPE score_rows_total counter", f"score_rows_total {self.rows}"]
        lines += ["# TYPE score_batches_total counter", f"score_batches_total {self.batches}"]
        lines += ["# TYPE score_seconds histogram"]
        found = zip(BUCKETS, self.within, strict=True)
        lines += [f'score_seconds_bucket{{le="{bound:g}"}} {count}' for bound, count in found]
        lines += [f'score_seconds_bucket{{le="+Inf"}} {total}']
        lines += [f"score_seconds_sum {self.seconds:.6f}", f"score_seconds_count {total}"]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Waiting:
    """Rows of one request, and where their scores go."""

    rows: list[dict[str, Any]]
    scores: "asyncio.Future[Any]"
    """Cancelled as soon as the client leaves, which may be while the model computes: then nobody wants an answer."""

    def answer(self, scores: Any) -> None:
        if not self.scores.done():
            self.scores.set_result(scores)

    def refuse(self, error: Exception) -> None:
        if not self.scores.done():
            self.scores.set_exception(error)


class Batcher:
    """Puts rows of several requests into one call of the model."""

    def __init__(self, model: Any, metrics: Metrics) -> None:
        self.model, self.metrics = model, metrics
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def score(self, rows: list[dict[str, Any]]) -> Any:
        """`[rows, labels]`."""
        waiting = Waiting(rows, asyncio.get_running_loop().create_future())
        await self._queue.put(waiting)
        return await waiting.scores

    async def run(self) -> None:
        """Score what waits, for ever."""
        while True:
            batch = await self._gather()
            rows = [row for one in batch for row in one.rows]
            try:
                scores = await asyncio.get_running_loop().run_in_executor(self._thread, self.model.score, rows)
            except Exception as error:  # noqa: BLE001  # it belongs to the requests
                await self._one_by_one(batch, error)
                continue
            self.metrics.batches += 1
            self.metrics.rows += len(rows)
            at = 0
            for one in batch:
                one.answer(scores[at : at + len(one.rows)])
                at += len(one.rows)

    async def _gather(self) -> list[Waiting]:
        batch = [await self._queue.get()]
        until = time.monotonic() + WAIT_MS / 1000
        while sum(len(one.rows) for one in batch) < BATCH:
            if self._queue.empty() and (left := until - time.monotonic()) > 0:
                try:
                    batch.append(await asyncio.wait_for(self._queue.get(), left))
                except TimeoutError:
                    break
            elif self._queue.empty():
                break
            else:
                batch.append(self._queue.get_nowait())
        return batch

    async def _one_by_one(self, batch: list[Waiting], error: Exception) -> None:
        """One request's bad row is no other's error."""
        loop = asyncio.get_running_loop()
        for one in batch:
            if len(batch) == 1:
                one.refuse(error)
            elif not one.scores.done():
                try:
                    one.answer(await loop.run_in_executor(self._thread, self.model.score, one.rows))
                except Exception as own:  # noqa: BLE001  # as above
                    one.refuse(own)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The model is loaded before the first request is taken."""
    app.state.metrics = Metrics()
    app.state.batcher = Batcher(load_model(MODEL), app.state.metrics)
    app.state.scoring = asyncio.create_task(app.state.batcher.run())
    yield
    app.state.scoring.cancel()


app = FastAPI(title="Scores of an export", lifespan=lifespan)


@app.post("/score")
async def score(request: Request) -> Any:
    """`{"rows": [{column: value}]}` to `{"labels": [...], "scores": [[...]]}`."""
    begun, status = time.perf_counter(), 200
    metrics: Metrics = app.state.metrics
    try:
        rows = await _rows(request)
        scores = await app.state.batcher.score(rows)
        return {"labels": app.state.batcher.model.labels, "scores": scores.tolist()}
    except HTTPException as refused:
        status = refused.status_code
        raise
    except Exception as error:
        status = 422 if hasattr(error, "exit_code") else 500
        raise HTTPException(status, str(error) if status == 422 else "the model failed") from error
    finally:
        metrics.add(status, time.perf_counter() - begun)


@app.get("/healthz")
async def healthz() -> dict[str, Any]:
    """Ready: the model is loaded, and what waits for scores gets them; 503 where it does not, until a restart."""
    if app.state.scoring.done():
        raise HTTPException(503, "nothing is scored any more; restart the server")
    facts = app.state.batcher.model.facts
    return {"job": facts["job"], "step": facts["step"], "labels": facts["labels"]}


@app.get("/metrics")
async def metrics() -> Response:
    """Requests, rows, batches and latencies, for Prometheus."""
    return Response(app.state.metrics.text(), media_type="text/plain; version=0.0.4")


async def _rows(request: Request) -> list[dict[str, Any]]:
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"expected JSON: {error}") from None
    rows = body.get("rows") if isinstance(body, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise HTTPException(400, 'expected {"rows": [{column: value}]} with at least one row')
    if len(rows) > MOST_ROWS:
        raise HTTPException(413, f"expected at most {MOST_ROWS} rows in a request, found {len(rows)}")
    return rows

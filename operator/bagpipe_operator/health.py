"""`/healthz`, `/readyz`, `/metrics`. Healthy means that the process moves: no stuck loop, no stuck workers.

A standby is healthy and ready: it is ready to take over. An operator whose jobs another installation runs is not ready,
so that `helm install --wait` shows the mistake. What a restart cannot mend makes no operator unhealthy: an API server
that is away, slow or throttles us lets keys wait long, but each request still ends by its deadline, which shows that
the workers live.
"""

import asyncio
import logging
from collections.abc import Callable

from aiohttp import web

from bagpipe_operator import times
from bagpipe_operator.metrics import Metrics
from bagpipe_operator.store import Store
from bagpipe_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

_TICK = 1.0
_LONGEST_LAG = 20.0
_LONGEST_STALL = 180.0


class Health:
    """Watches the event loop and the queue, and answers probes."""

    def __init__(self, metrics: Metrics, queue: WorkQueue[tuple[str, str]], store: Store) -> None:
        self._metrics, self._queue, self._store = metrics, queue, store
        self._last_tick = 0.0
        self.synced: Callable[[], bool] = lambda: True
        self.refused_by: Callable[[], str] = lambda: ""
        """Another installation that runs our jobs."""
        self.since_answer: Callable[[], float] = lambda: float("inf")
        """Seconds since a request to the API server ended, well or not."""

    async def tick(self) -> None:
        """Note once a second that the event loop turns, and how late it was; never returns."""
        loop = asyncio.get_running_loop()
        self._last_tick = loop.time()
        while True:
            await asyncio.sleep(_TICK)
            now = loop.time()
            self._metrics.loop_lag.set(max(now - self._last_tick - _TICK, 0.0))
            self._last_tick = now

    def trouble(self) -> str:
        """Why the process should be replaced; empty: it should not."""
        if asyncio.get_running_loop().time() - self._last_tick > _LONGEST_LAG:
            return "the event loop stands still"
        if not self.synced():
            return ""  # Keys wait until all objects are known, however long the watches take to tell of them.
        stalled = min(self._queue.stalled(), self.since_answer())
        if stalled > _LONGEST_STALL:
            return f"for {stalled:.0f} s there was work, no worker moved and no request ended"
        return ""

    async def serve(self, port: int) -> web.AppRunner:
        """Answer probes and Prometheus on `port` of all interfaces; the caller ends it by `cleanup()`."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics_page),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", port).start()
        return runner

    async def _healthz(self, _: web.Request) -> web.Response:
        trouble = self.trouble()
        return web.Response(text=trouble or "ok", status=500 if trouble else 200)

    async def _readyz(self, _: web.Request) -> web.Response:
        other = self.refused_by()
        trouble = f"the installation {other} runs our jobs" if other else "" if self.synced() else "not synced"
        return web.Response(text=trouble or "ok", status=503 if trouble else 200)

    async def _metrics_page(self, _: web.Request) -> web.Response:
        self._metrics.count(self._store.heads(), times.now())
        self._metrics.queue.set(self._queue.depth)
        return web.Response(body=self._metrics.render(), content_type="text/plain")

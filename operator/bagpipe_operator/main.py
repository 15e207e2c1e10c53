"""The process: probes first, then the lease, then the watches and the workers; losing the lease ends it."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from bagpipe_operator import __version__, logs
from bagpipe_operator.cluster import Cluster
from bagpipe_operator.connection import connect
from bagpipe_operator.follow import ProgressReader, WarningReader
from bagpipe_operator.health import Health
from bagpipe_operator.leader import Election
from bagpipe_operator.metrics import Metrics
from bagpipe_operator.settings import Settings
from bagpipe_operator.shell import Shell
from bagpipe_operator.store import JobKey, Store
from bagpipe_operator.unclaimed import Unclaimed
from bagpipe_operator.watches import Intake, Watches
from bagpipe_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)


async def run(settings: Settings) -> int:
    """Until told to stop (0), or until the lease is lost (1)."""
    metrics, store, queue = Metrics(), Store(), WorkQueue[JobKey]()
    health = Health(metrics, queue, store)
    leads = metrics.leader.labels(f"{settings.lease_namespace}/{settings.lease_name}")
    server = await health.serve(settings.listen_port)
    connection = connect()
    identity = f"{os.environ.get('POD_NAME', socket.gethostname())}-{uuid.uuid4().hex[:8]}"
    elector = Cluster(connection, metrics)
    election = Election(elector, identity, settings)
    cluster = Cluster(connection, metrics, election.may_write)
    watcher = Cluster(connection, metrics, connections=0)  # A watch keeps its connection; writes must find one too.
    health.since_answer = cluster.since_answer
    health.refused_by = lambda: election.refused_by
    stop = _stop_on_signals()
    try:
        ended = await _first({"stop": stop.wait(), "lease": election.acquire()}, background=[health.tick()])
        if ended == "stop":
            return 0
        log.info("leading", extra={"identity": identity, "version": __version__})
        leads.set(1)
        background = _parts(cluster, watcher, store, queue, settings, metrics, health)
        ended = await _first({"stop": stop.wait(), "lease": election.keep()}, background)
        log.info("ending", extra={"because": ended})
        return 0 if stop.is_set() else 1
    finally:
        await election.release()
        await cluster.close()
        await watcher.close()
        await elector.close()
        await server.cleanup()


def _parts(
    cluster: Cluster,
    watcher: Cluster,
    store: Store,
    queue: WorkQueue[JobKey],
    settings: Settings,
    metrics: Metrics,
    health: Health,
) -> list[Coroutine[Any, Any, Any]]:
    """All that a leader does at once, none of which ends by itself."""
    unclaimed = Unclaimed(cluster, settings.operator_class)
    watches = Watches(watcher, Intake(store, queue, settings.operator_class, unclaimed), settings)
    health.not_synced = watches.not_synced
    shell = Shell(cluster, store, queue, settings, metrics, blind=watches.blind)
    progress = ProgressReader(cluster, store, queue, shell.memories)
    warnings = WarningReader(cluster, store, queue, shell.memories)
    parts = [shell.work() for _ in range(settings.workers)]
    parts += [progress.follow(settings.progress_seconds)] if settings.progress_seconds else []
    parts += [warnings.follow(settings.warning_seconds)] if settings.warning_seconds else []
    return [*parts, unclaimed.follow(), watches.follow(), health.tick()]


async def _first(watched: dict[str, Coroutine[Any, Any, Any]], background: list[Coroutine[Any, Any, Any]]) -> str:
    """Run all until one of `watched` ends or any fails; returns which, and ends the others.

    An error in the background is ours: it ends the process, as a restart is the only cure known.
    """
    tasks = {asyncio.ensure_future(c): name for name, c in watched.items()}
    tasks |= {asyncio.ensure_future(c): "background" for c in background}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    ended = tasks[next(iter(done))]
    for task in pending:
        task.cancel()
    await asyncio.wait(tasks, timeout=10)
    for task in done:
        task.result()
    return ended


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def main() -> None:
    parser = argparse.ArgumentParser(prog="bagpipe-operator", description="Runs BagpipeJob resources.")
    parser.add_argument("--config", type=Path, help="settings file (YAML)")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args()
    logs.configure(options.log_level)
    sys.exit(asyncio.run(run(Settings.load(options.config))))


if __name__ == "__main__":
    main()

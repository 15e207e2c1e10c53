"""The process: probes first, then the lease, then the watches and the workers; losing the lease ends it."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import kopf
import yaml
from kopf._core.engines.peering import Identity

from bagpipe_operator import __version__, gangs, logs, names
from bagpipe_operator.api import SpecError
from bagpipe_operator.api_error import ApiError, Outcome
from bagpipe_operator.beginning import Beginning
from bagpipe_operator.cluster import Cluster, path
from bagpipe_operator.connection import connect
from bagpipe_operator.follow import ProgressReader, WarningReader
from bagpipe_operator.handlers import kopf_settings, listed, registry
from bagpipe_operator.heads import JobKey
from bagpipe_operator.health import Health
from bagpipe_operator.leader import Election
from bagpipe_operator.metrics import Metrics
from bagpipe_operator.relists import Relists
from bagpipe_operator.settings import Settings
from bagpipe_operator.shell import Shell
from bagpipe_operator.store import Store
from bagpipe_operator.unclaimed import Unclaimed
from bagpipe_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)
_PAUSE_SECONDS = 5.0
_LEAVE_SECONDS = 5.0
_BAD_CONFIG = 78
"""Exit code where the settings are wrong, as of the library's commands."""
_LEVELS = 15_000
"""More levels of maps and lists than an API server takes, which is 10,000. Python reads 1,000 where nothing is said,
and a user's object that it cannot read would end the watch of all jobs. So many take 3 of the 8 MiB of a stack."""


async def run(settings: Settings) -> int:
    """Run the operator; returns its exit code: 0 when it was told to stop, 1 when the lease or a watch was lost."""
    metrics, store, queue = Metrics(), Store(), WorkQueue[JobKey]()
    health = Health(metrics, queue, store)
    leads = metrics.leader.labels(f"{settings.lease_namespace}/{settings.lease_name}")
    server = await health.serve(settings.listen_port)
    connection = connect()
    identity = f"{os.environ.get('POD_NAME', socket.gethostname())}-{uuid.uuid4().hex[:8]}"
    elector = Cluster(connection, metrics)
    election = Election(elector, identity, settings)
    cluster = Cluster(connection, metrics, election.may_write)
    health.since_answer = cluster.since_answer
    health.refused_by = lambda: election.refused_by
    stop = _stop_on_signals()
    try:
        ended = await _first({"stop": stop.wait(), "lease": election.acquire()}, background=[health.tick()])
        if ended == "stop":
            return 0
        log.info("leading", extra={"identity": identity, "version": __version__})
        leads.set(1)
        shell = Shell(cluster, store, queue, settings, metrics)
        progress = ProgressReader(cluster, store, queue, shell.memories)
        warnings = WarningReader(cluster, store, queue, shell.memories)
        unclaimed = Unclaimed(cluster, settings.operator_class)
        beginning, relists = Beginning(cluster, listed(settings)), Relists(cluster, store, queue, listed(settings))
        health.synced = lambda: beginning.over
        follow = [unclaimed.follow, relists.follow]
        follow += [lambda: progress.follow(settings.progress_seconds)] if settings.progress_seconds else []
        follow += [lambda: warnings.follow(settings.warning_seconds)] if settings.warning_seconds else []
        work = AtWork(beginning, [*[shell.work] * settings.workers, *follow])
        watched = registry(store, queue, settings, unclaimed, beginning, relists)
        return await _lead(cluster, settings, work, watched, election, health, stop)
    finally:
        await election.release()
        await cluster.close()
        await elector.close()
        await server.cleanup()


class AtWork:
    """What is done once the watches have told of everything, and not before."""

    def __init__(self, beginning: Beginning, tasks: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        self._beginning, self._tasks = beginning, tasks
        self.unknown: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        """Kinds that the API server does not know when the watches begin; set once it knows ours."""

    async def run(self) -> None:
        """Wait for the beginning, then run all tasks; never returns."""
        await self._beginning.complete(await asyncio.shield(self.unknown))
        async with asyncio.TaskGroup() as group:
            for task in self._tasks:
                group.create_task(task())


async def _lead(
    cluster: Cluster,
    settings: Settings,
    work: AtWork,
    watched: kopf.OperatorRegistry,
    election: Election,
    health: Health,
    stop: asyncio.Event,
) -> int:
    kopf_identity = Identity(names.MANAGER)  # Else kopf asks for the user's name, which a container's user lacks.

    async def watch() -> None:
        await until_known(cluster, settings.namespaces, stop)
        work.unknown.set_result(await not_served(cluster, asked_for(settings), settings.namespaces))
        await kopf.operator(
            registry=watched,
            settings=kopf_settings(settings),
            standalone=True,
            identity=kopf_identity,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            stop_flag=stop,
        )

    async def newcomer() -> None:
        await until_served(cluster, await asyncio.shield(work.unknown), settings.namespaces)

    ended = await _first(
        {"stop": stop.wait(), "lease": election.keep(), "watches": watch(), "a new kind": newcomer()},
        background=[health.tick(), work.run()],
        grace="watches",
    )
    log.info("ending", extra={"because": ended})
    return 0 if stop.is_set() else 1


async def until_known(
    cluster: Cluster, namespaces: Sequence[str], stop: asyncio.Event, pause: float = _PAUSE_SECONDS
) -> None:
    """Wait until the API server knows our kind, or the operator is to stop: kopf looks for kinds once, when it begins.

    Any other refusal is left to kopf, which meets it too, and ends the process.
    """
    told = False
    while not stop.is_set():
        try:
            await cluster.get(path(names.KIND, next(iter(namespaces), None)), limit="1")
        except ApiError as error:
            if error.outcome is Outcome.ABSENT:
                if not told:
                    log.warning(
                        "the API server knows no BagpipeJob: install its CRD, which the chart has; waiting for it"
                    )
                told = True
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause)
                continue
        return


def asked_for(settings: Settings) -> list[str]:
    """Kinds that others' programs bring, and that this installation is told to work with."""
    kueue = ["Workload", "ResourceFlavor", "WorkloadPriorityClass"] if settings.kueue else []
    return [*kueue, *(gangs.KNOWN[name].kind for name in settings.gang_schedulers)]


async def not_served(cluster: Cluster, kinds: Sequence[str], namespaces: Sequence[str]) -> list[str]:
    """Those of `kinds` that the API server does not know: kopf will not watch them, whatever is installed later."""
    return [kind for kind in kinds if await _is_served(cluster, kind, namespaces) is False]


async def _is_served(cluster: Cluster, kind: str, namespaces: Sequence[str]) -> bool | None:
    """Whether the API server knows a kind; None: it does not say, as it is away, or lists are forbidden."""
    try:
        await cluster.get(path(kind, next(iter(namespaces), None)), limit="1")
    except ApiError as error:
        return False if error.outcome is Outcome.ABSENT else None
    return True


async def until_served(
    cluster: Cluster, kinds: Sequence[str], namespaces: Sequence[str], pause: float = _PAUSE_SECONDS
) -> None:
    """Wait until the API server knows one of `kinds`; where there are none, for ever. An error is no such answer.

    The operator ends then, and the one that takes over watches all kinds that there are. Jobs run on meanwhile.
    """
    if kinds:
        log.warning("the API server does not know kinds that jobs may need", extra={"kinds": ", ".join(kinds)})
    while True:
        for kind in kinds:
            if await _is_served(cluster, kind, namespaces):
                return
        await asyncio.sleep(pause if kinds else 3600)


async def _first(
    watched: dict[str, Coroutine[Any, Any, Any]], background: list[Coroutine[Any, Any, Any]], grace: str = ""
) -> str:
    """Run all until one of `watched` ends or any fails; returns which, and ends the others.

    An error in the background is ours: it ends the process, as a restart is the only cure known.
    """
    tasks = {asyncio.ensure_future(c): name for name, c in watched.items()}
    tasks |= {asyncio.ensure_future(c): "background" for c in background}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    ended = tasks[next(iter(done))]
    for task in pending:
        if not (ended == "stop" and tasks[task] == grace):
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
    """The command `bagpipe-operator`; ends the process with the exit code of `run`."""
    parser = argparse.ArgumentParser(prog="bagpipe-operator", description="Runs BagpipeJob resources.")
    parser.add_argument("--config", type=Path, help="settings file (YAML)")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args()
    sys.setrecursionlimit(max(sys.getrecursionlimit(), _LEVELS))
    logs.configure(options.log_level)
    try:
        settings = Settings.load(options.config)
    except (SpecError, yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        log.critical("settings not usable", extra={"file": str(options.config), "error": " ".join(str(error).split())})
        sys.exit(_BAD_CONFIG)
    sys.exit(to_the_end(run(settings)))


def to_the_end(running: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine in a loop of its own; returns its result, or raises its error.

    The tasks that it leaves are cancelled, and have a few seconds to end. A watch that ignores its cancellation, as can
    happen while thousands of objects are listed, keeps no process alive (`asyncio.run` would wait for it for ever).
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(running)
    finally:
        _end(loop)


def _end(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    late = loop.run_until_complete(asyncio.wait(left, timeout=_LEAVE_SECONDS))[1] if left else ()
    if late:
        log.warning("tasks did not end", extra={"tasks": len(late)})
    else:
        loop.close()


if __name__ == "__main__":
    main()

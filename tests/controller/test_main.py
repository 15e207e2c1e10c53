"""The operator's process: how it lists, what it can read, and that it ends."""

import asyncio
import json
import sys
import time

import pytest

pytest.importorskip("kopf", reason="the operator's own environment has kopf")


def test_what_takes_no_cancellation_keeps_no_process_alive(monkeypatch):
    from bagpipe_operator import main

    monkeypatch.setattr(main, "_LEAVE_SECONDS", 0.2)
    asked = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                asked.append(True)

    async def run() -> int:
        kept.append(asyncio.ensure_future(stubborn()))
        await asyncio.sleep(0)
        return 3

    kept: list[asyncio.Task[None]] = []
    began = time.monotonic()
    assert main.to_the_end(run()) == 3
    assert asked and time.monotonic() - began < 30
    kept[0]._log_destroy_pending = False
    kept[0].get_loop().close()


def test_an_error_is_still_an_error():
    from bagpipe_operator import main

    ended = []

    async def left() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("in order")

    async def run() -> int:
        kept.append(asyncio.ensure_future(left()))
        await asyncio.sleep(0)
        raise OSError("no certificate")

    kept: list[asyncio.Task[None]] = []
    with pytest.raises(OSError, match="no certificate"):
        main.to_the_end(run())
    assert ended == ["in order"] and kept[0].cancelled()


def test_no_work_begins_before_all_is_known():
    from bagpipe_operator.main import AtWork

    class Watches:
        def __init__(self) -> None:
            self.known, self.without = asyncio.Event(), None

        async def complete(self, without):
            self.without = without
            await self.known.wait()

    async def go() -> None:
        begun: asyncio.Queue[bool] = asyncio.Queue()

        async def task() -> None:
            begun.put_nowait(True)
            await asyncio.sleep(3600)

        watches = Watches()
        work = AtWork(watches, [task, task])
        running = asyncio.ensure_future(work.run())
        for _ in range(5):
            await asyncio.sleep(0)
        assert watches.without is None  # It is not known which kinds there are.
        work.unknown.set_result(["Workload"])
        for _ in range(5):
            await asyncio.sleep(0)
        assert watches.without == ["Workload"] and begun.empty()
        watches.known.set()
        assert [await begun.get(), await begun.get()] == [True, True]
        running.cancel()

    asyncio.run(asyncio.wait_for(go(), 30))


def test_what_waits_for_the_beginning_does_not_stall(monkeypatch):
    """A start beside many jobs may take minutes, in which keys gather and no worker takes one."""
    from bagpipe_operator import health

    class Queue:
        depth = 1

        def stalled(self) -> float:
            return 1000.0

    async def go() -> None:
        probes = health.Health(None, Queue(), None)
        probes.since_answer = lambda: 1000.0
        probes._last_tick = asyncio.get_running_loop().time()
        probes.synced = lambda: False
        assert probes.trouble() == ""
        probes.synced = lambda: True
        assert "no worker moved" in probes.trouble()

    asyncio.run(go())


def test_lists_come_in_parts():
    from bagpipe_operator.handlers import kopf_settings
    from bagpipe_operator.settings import Settings

    assert kopf_settings(Settings.of({})).watching.chunk_size == 250


def test_kopf_copies_no_object_and_writes_to_none():
    import kopf

    from bagpipe_operator.handlers import kopf_settings
    from bagpipe_operator.settings import Settings

    body, patch = kopf.Body({"metadata": {"name": "j"}, "spec": {"data": {}}}), kopf.Patch()
    persistence = kopf_settings(Settings.of({})).persistence
    essence = persistence.diffbase_storage.build(body=body, extra_fields=None)
    assert persistence.progress_storage.clear(essence=essence) == {}
    persistence.diffbase_storage.store(body=body, patch=patch, essence=essence)
    persistence.progress_storage.touch(body=body, patch=patch, value="now")
    assert not patch and persistence.diffbase_storage.fetch(body=body) is None


def test_a_job_of_any_depth_that_an_api_server_takes_is_that_jobs_alone(monkeypatch):
    """The watch of jobs reads all of them: one that it could not read would end the operator for every tenant."""
    kopf = pytest.importorskip("kopf", reason="the operator's own environment has kopf")
    from kopf._core.engines.indexing import OperatorIndexers
    from kopf._core.intents.registries import OperatorRegistry
    from kopf._core.reactor import inventory, processing

    from bagpipe_operator import main, names, times
    from bagpipe_operator.api import Job
    from bagpipe_operator.handlers import kopf_settings
    from bagpipe_operator.observe import Observed
    from bagpipe_operator.reconcile import desired
    from bagpipe_operator.settings import Settings
    from bagpipe_operator.store import Store

    deep = '{"a":[' * 4_900 + "1" + "]}" * 4_900
    meta = '{"name": "j", "namespace": "ns", "uid": "u", "resourceVersion": "3"}'
    line = f'{{"type": "ADDED", "object": {{"metadata": {meta}, "spec": {{"trainers": {{"podTemplate": {deep}}}}}}}}}'
    store, registry, settings = Store(), OperatorRegistry(), Settings.of({})
    resource = kopf.Resource(names.GROUP, names.VERSION, names.PLURAL)

    async def react(body: kopf.Body, **_: object) -> None:
        store.put({**dict(body), "kind": names.KIND})

    kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)(react)

    async def watch() -> int:
        await processing.process_resource_event(
            lifecycle=lambda handlers, **_: handlers,
            indexers=OperatorIndexers(),
            registry=registry,
            settings=kopf_settings(settings),
            memories=inventory.ResourceMemories(),
            memobase=None,
            resource=resource,
            raw_event=json.loads(line),
            event_queue=asyncio.Queue(),
        )
        return 0

    def to_the_end(running: object) -> int:
        running.close()
        return asyncio.run(watch())

    before = sys.getrecursionlimit()
    monkeypatch.setattr(sys, "argv", ["bagpipe-operator"])
    monkeypatch.setattr(main.logs, "configure", lambda level: None)
    monkeypatch.setattr(main, "to_the_end", to_the_end)
    try:
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == 0
        decision = desired(Job.of(store.job(("ns", "j"))), Observed(), settings, times.now())
    finally:
        sys.setrecursionlimit(before)
    [failed] = [c for c in decision.status.conditions if c.type == names.Condition.FAILED]
    assert failed.reason == "InvalidSpec" and "at most 64 levels" in failed.message

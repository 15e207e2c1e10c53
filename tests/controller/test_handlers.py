"""What kopf calls: the index fills the store, and only events, which come after all indexes, queue a key."""

import asyncio

import pytest

kopf = pytest.importorskip("kopf", reason="the operator's own environment has kopf")


def test_the_first_listing_queues_nothing(monkeypatch):
    """A job must not be looked at before all its children are listed: a missing one would seem deleted."""
    from bagpipe_operator import handlers
    from bagpipe_operator.settings import Settings
    from bagpipe_operator.store import Store
    from bagpipe_operator.unclaimed import Unclaimed
    from bagpipe_operator.workqueue import WorkQueue

    found = {}

    def capture(kind):
        return lambda *args, **kwargs: lambda fn: found.setdefault((kind, kwargs["id"]), fn)

    monkeypatch.setattr(kopf, "index", capture("index"))
    monkeypatch.setattr(kopf.on, "event", capture("event"))

    async def go() -> None:
        store, queue = Store(), WorkQueue()
        handlers.registry(store, queue, Settings.of({}), Unclaimed(None, ""))
        body = {"metadata": {"name": "j", "namespace": "ns", "resourceVersion": "1"}}
        await found["index", "keep-bagpipejob"](body=body)
        assert store.job(("ns", "j")) is not None and queue.depth == 0
        await found["event", "react-bagpipejob"](event={"type": None}, body=body)
        assert queue.depth == 1
        await queue.get()
        await found["event", "react-bagpipejob"](event={"type": "DELETED"}, body=body)
        assert store.job(("ns", "j")) is None

    asyncio.run(go())

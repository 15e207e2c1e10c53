"""Nothing is decided before the watches have told of everything that there was when they began."""

import asyncio
import logging

import pytest
from fake_api import FakeApi, FakeCluster

from bagpipe_operator import beginning, names
from bagpipe_operator.api_error import ApiError
from bagpipe_operator.beginning import Beginning
from bagpipe_operator.listing import Listed
from bagpipe_operator.listing import names as names_of
from bagpipe_operator.metrics import Metrics
from bagpipe_operator.store import Store

KINDS = [Listed("BagpipeJob", ("/jobs",)), Listed("Pod", ("/a/pods", "/b/pods"), "app=bagpipe")]


class Lists:
    """Collections by path, in pages of two names; made within a loop."""

    def __init__(self, **collections: list[str]) -> None:
        self.collections = {"/jobs": [], "/a/pods": [], "/b/pods": []} | collections
        self.asked: list[dict[str, str]] = []
        self.errors: list[ApiError] = []
        self.asked_again = asyncio.Event()

    async def names(self, url, **params):
        if any(url == asked["url"] and "continue" not in params for asked in self.asked):
            self.asked_again.set()
        self.asked.append({"url": url, **params})
        if self.errors:
            raise self.errors.pop()
        there = self.collections[url]
        begin = int(params.get("continue") or 0)
        items = [{"metadata": {"uid": uid, "name": uid, "namespace": "ns"}} for uid in there[begin : begin + 2]]
        more = str(begin + 2) if begin + 2 < len(there) else ""
        return {"items": items, "metadata": {"continue": more}}


def tell(watches: Beginning, *uids: str) -> None:
    for uid in uids:
        watches.told({"metadata": {"uid": uid}})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(beginning, "_STILL_SECONDS", 0.05)
    monkeypatch.setattr(beginning, "_LOOK_SECONDS", 0.005)


def begun(scenario) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_it_is_over_when_the_last_object_has_been_told():
    async def scenario():
        lists = Lists(**{"/jobs": ["1", "2", "3"], "/b/pods": ["4"]})
        watches = Beginning(lists, KINDS)
        tell(watches, "1", "2", "4", "9")  # Also one that has gone, or is younger than the list.
        waiting = asyncio.ensure_future(watches.complete())
        await lists.asked_again.wait()
        assert not waiting.done() and not watches.over
        tell(watches, "3")
        await waiting
        assert watches.over
        assert {asked.get("labelSelector") for asked in lists.asked if asked["url"] != "/jobs"} == {"app=bagpipe"}
        tell(watches, "5")  # Afterwards nothing is kept.

    begun(scenario)


def test_what_goes_before_its_watch_begins_is_not_waited_for(caplog):
    async def scenario():
        lists = Lists(**{"/jobs": ["1", "2"]})
        watches = Beginning(lists, KINDS)
        tell(watches, "1")
        waiting = asyncio.ensure_future(watches.complete())
        await lists.asked_again.wait()
        assert not waiting.done()
        lists.collections["/jobs"].remove("2")
        await waiting

    with caplog.at_level(logging.WARNING):
        begun(scenario)
    assert {record.among_them for record in caplog.records} == {"BagpipeJob ns/2"}


def test_an_api_server_that_does_not_answer_is_asked_again():
    async def scenario():
        lists = Lists(**{"/jobs": ["1"]})
        lists.errors = [ApiError(0, "cut"), ApiError(410, "the continue token is too old", "Expired")]
        watches = Beginning(lists, KINDS)
        tell(watches, "1")
        await watches.complete()
        assert not lists.errors

    begun(scenario)


def test_a_kind_that_is_not_served_has_no_objects():
    async def scenario():
        lists = Lists(**{"/a/pods": ["1"]})
        lists.errors = [ApiError(404, "the server could not find the requested resource", "NotFound")]
        await Beginning(lists, [Listed("Pod", ("/a/pods",))]).complete()
        lists.errors = [ApiError(404, "the server could not find the requested resource", "NotFound")]
        watches = Beginning(lists, KINDS)
        waiting = asyncio.ensure_future(watches.complete())
        await lists.asked_again.wait()
        assert not waiting.done()  # Jobs there always are: their kind is only not served yet.
        tell(watches, "1")
        await waiting

    begun(scenario)


def test_a_kind_that_was_not_served_when_the_watches_began_is_not_waited_for():
    async def scenario():
        await Beginning(Lists(**{"/a/pods": ["1"]}), KINDS).complete(without=["Pod"])

    begun(scenario)


def test_an_answer_that_is_no_list_is_an_error_of_the_api_server():
    async def scenario():
        class Odd:
            async def names(self, url, **params):
                return {"items": ["what"]}

        with pytest.raises(ApiError, match="Pod: expected a list of objects"):
            await names_of(Odd(), Listed("Pod", ("/pods",)))

    begun(scenario)


def test_a_job_is_not_looked_at_before_its_children_are_known_and_what_goes_unseen_is_dropped(monkeypatch):
    """The real handlers: the first listing fills the store and the queue, and says when all has been told."""
    kopf = pytest.importorskip("kopf", reason="the operator's own environment has kopf")
    from bagpipe_operator import handlers
    from bagpipe_operator.relists import Relists
    from bagpipe_operator.settings import Settings
    from bagpipe_operator.unclaimed import Unclaimed
    from bagpipe_operator.workqueue import WorkQueue

    api = FakeApi()
    labels = {names.LABEL_MANAGED_BY: names.MANAGER, names.LABEL_JOB: "j"}
    job = api.put(names.KIND, {"metadata": {"name": "j"}, "spec": {}})
    child = api.put("ConfigMap", {"metadata": {"name": "j-config", "labels": labels}})

    async def scenario():
        cluster, store, queue, settings = FakeCluster(api, Metrics()), Store(), WorkQueue(), Settings.of({})
        served = {names.KIND, "ConfigMap"}
        watches = Beginning(cluster, [kind for kind in handlers.listed(settings) if kind.kind in served])
        relists = Relists(cluster, store, queue, [Listed("ConfigMap", ("/api/v1/configmaps",))])
        registry = handlers.registry(store, queue, settings, Unclaimed(cluster, ""), watches, relists)
        react = {h.id: h.fn for h in registry._watching.get_all_handlers()}
        assert len(react) == len(handlers.listed(settings))
        waiting = asyncio.ensure_future(watches.complete())
        await react["react-bagpipejob"](event={"type": None}, body=kopf.Body(job))
        assert store.job(("ns", "j")) is not None and queue.depth == 1
        await asyncio.sleep(0)
        assert not waiting.done()
        await react["react-configmap"](event={"type": None}, body=kopf.Body(child))
        await waiting
        queue.done(await queue.get())
        return store, queue, react, relists, kopf.Body(job), kopf.Body(child)

    async def watch_begins_anew():
        store, queue, react, relists, job_there, child_there = await scenario()
        other = {**child, "metadata": {**child["metadata"], "name": "j-other", "uid": "uid-of-other"}}
        await react["react-configmap"](event={"type": "ADDED"}, body=kopf.Body(other))
        queue.done(await queue.get())
        monkeypatch.setattr("bagpipe_operator.relists._LOOK_SECONDS", 0.01)
        following = asyncio.ensure_future(relists.follow())
        await asyncio.sleep(0.1)
        assert store.get("ConfigMap", "ns", "j-other") is not None and queue.depth == 0  # Nothing was listed again.
        await react["react-configmap"](event={"type": None}, body=child_there)
        queue.done(await queue.get())
        assert await queue.get() == ("ns", "j")
        following.cancel()
        assert store.get("ConfigMap", "ns", "j-other") is None
        assert store.get("ConfigMap", "ns", "j-config") is not None
        await react["react-bagpipejob"](event={"type": "DELETED"}, body=job_there)
        assert store.job(("ns", "j")) is None

    begun(watch_begins_anew)


def test_what_is_younger_than_a_list_has_not_gone():
    store = Store()
    labels = {names.LABEL_JOB: "j"}
    for uid, version in (("old", "5"), ("listed", "5"), ("young", "7")):
        store.put({"kind": "Pod", "metadata": meta_of(uid, version, labels)})
    assert [raw["metadata"]["uid"] for raw in store.gone("Pod", {"listed"}, 6)] == ["old"]
    assert store.gone("Job", set(), 6) == []


def meta_of(uid, version, labels):
    return {"name": uid, "namespace": "ns", "uid": uid, "resourceVersion": version, "labels": labels}


def test_every_kind_is_listed_where_it_is_watched():
    from bagpipe_operator.handlers import listed
    from bagpipe_operator.settings import Settings

    two = {
        kind.kind: kind for kind in listed(Settings.of({"namespaces": ["a", "b"], "kueue": True, "gangSchedulers": []}))
    }
    assert two["Pod"].urls == ("/api/v1/namespaces/a/pods", "/api/v1/namespaces/b/pods") and two["Pod"].selector
    assert two["BagpipeJob"].urls[0] == "/apis/bagpipe.dev/v1alpha1/namespaces/a/bagpipejobs"
    assert not two["BagpipeJob"].selector and not two["Workload"].selector
    assert two["ResourceFlavor"].urls == ("/apis/kueue.x-k8s.io/v1beta1/resourceflavors",)

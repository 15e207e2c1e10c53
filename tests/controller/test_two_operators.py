"""Several operators in one cluster: each its own jobs, one leader for a class, and nobody fights over an object."""

import asyncio
import copy
import datetime as dt

import pytest
from fake_api import FakeApi, FakeCluster
from hypothesis import given
from hypothesis import strategies as st
from rig import Rig, job

from bagpipe_operator import handlers, leader, names
from bagpipe_operator.beginning import Beginning
from bagpipe_operator.health import Health
from bagpipe_operator.leader import Election
from bagpipe_operator.metrics import Metrics
from bagpipe_operator.settings import Settings
from bagpipe_operator.store import Store
from bagpipe_operator.unclaimed import PATIENCE, Unclaimed
from bagpipe_operator.workqueue import WorkQueue


def test_each_operator_has_its_own_jobs(world):
    """A job is run by the operator of its class and by no other."""
    plain, gpu = {}, {"operatorClass": "gpu"}
    for policy, asked, settings in ((plain, True, {}), (gpu, False, {}), (plain, False, gpu), (gpu, True, gpu)):
        assert (world({"runPolicy": policy}, settings=settings).decide() is not None) is asked


def test_a_job_that_nobody_can_read_is_still_its_operators(world):
    """A malformed document is judged by the operator of its class alone."""
    bad = {"runPolicy": {"operatorClass": "gpu", "backoffLimit": "many"}}
    assert world(bad).decide() is None
    assert world(bad, settings={"operatorClass": "gpu"}).settle().condition("Failed")["reason"] == "InvalidSpec"


class Seen(Unclaimed):
    """Counts what it is shown."""

    def __init__(self):
        super().__init__(None, "")
        self.shown = []

    def see(self, raw):
        self.shown.append("see")

    def lost(self, raw):
        self.shown.append("lost")


def test_jobs_of_others_are_not_kept(monkeypatch):
    """A job of another class is in no queue, no metric and no list of logs to read; only that it is there is known."""
    found = {}

    def capture(kind):
        return lambda *args, **kwargs: lambda fn: found.setdefault((kind, kwargs["id"]), fn)

    monkeypatch.setattr(handlers.kopf.on, "event", capture("event"))
    meta = {"name": "j", "namespace": "ns", "resourceVersion": "1"}
    body = {"metadata": meta, "spec": {"runPolicy": {"operatorClass": "gpu"}}}

    async def go():
        for operator_class, kept in (("", False), ("gpu", True)):
            found.clear()
            store, queue, unclaimed = Store(), WorkQueue(), Seen()
            settings = Settings.of({"operatorClass": operator_class})
            handlers.registry(store, queue, settings, unclaimed, Beginning(None, []), None)
            await found["event", "react-bagpipejob"](event={"type": None}, body=body)
            assert unclaimed.shown == ([] if kept else ["see"])
            await found["event", "react-bagpipejob"](event={"type": "ADDED"}, body=body)
            assert (store.job(("ns", "j")) is not None, queue.depth) == (kept, int(kept))
            await found["event", "react-bagpipejob"](event={"type": "DELETED"}, body=body)
            assert unclaimed.shown == ([] if kept else ["see", "see", "lost"])

    asyncio.run(go())


def seen(policy, **more):
    """A job as a watch shows it; without a status, if none is given."""
    meta = {"name": "j", "namespace": "ns", "uid": "12345678-9"}
    return {"metadata": meta, "spec": {"runPolicy": policy}, **more}


class Nobodys:
    """The list of others' jobs, a clock that moves when told, and the events that come of it."""

    def __init__(self, operator_class=""):
        self.now, self.api = 0.0, FakeApi()
        self.list = self.another(operator_class)

    def another(self, operator_class):
        return Unclaimed(FakeCluster(self.api, Metrics()), operator_class, lambda: self.now)

    def after(self, seconds):
        """The reasons and messages of all events, once so much time has passed."""
        self.now += seconds
        asyncio.run(self.list.tell())
        return [(raw["reason"], raw["message"]) for (kind, _, _), raw in self.api.objects.items() if kind == "Event"]


def test_a_job_of_a_class_that_nobody_serves_is_told():
    """A job without a status for half a minute gets one event, which names its class; no operator runs it."""
    nobodys = Nobodys()
    nobodys.list.see(seen({"operatorClass": "gqu"}))
    assert nobodys.after(PATIENCE - 1) == []
    ((reason, message),) = nobodys.after(1)
    assert reason == "NoOperator" and "no operator of class 'gqu' has looked at this job" in message
    event = next(raw for (kind, _, _), raw in nobodys.api.objects.items() if kind == "Event")
    assert event["type"] == "Warning" and event["involvedObject"]["uid"] == "12345678-9"
    nobodys.list.see(seen({"operatorClass": "gqu"}))  # Seen again, as after a relist.
    assert len(nobodys.after(599)) == 1


def test_only_jobs_without_a_status_are_told():
    """A job whose own operator wrote a status, one that is deleted, and one that is gone are nobody's no longer."""
    policy = {"operatorClass": "gpu"}
    deleted = seen(policy)
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    for later in (seen(policy, status={"phase": "Starting"}), deleted, None):
        nobodys = Nobodys()
        nobodys.list.see(seen(policy))
        nobodys.list.see(later) if later else nobodys.list.lost(seen(policy))
        assert nobodys.after(PATIENCE) == []


def test_several_operators_tell_a_job_once_and_again_when_the_event_is_forgotten():
    """Two leaders post one event; after Kubernetes has dropped it, it comes again."""
    nobodys = Nobodys()
    second = nobodys.another("gpu")
    for one in (nobodys.list, second):
        one.see(seen({"operatorClass": "gqu"}))
    assert len(nobodys.after(PATIENCE)) == 1
    asyncio.run(second.tell())
    assert len(nobodys.after(1)) == 1
    nobodys.api.objects.clear()
    assert len(nobodys.after(600)) == 1


def test_a_new_job_of_the_name_waits_anew():
    """A job that was deleted and made again has half a minute of its own."""
    nobodys = Nobodys()
    nobodys.list.see(seen({"operatorClass": "gqu"}))
    nobodys.now += PATIENCE - 1
    again = seen({"operatorClass": "gqu"})
    again["metadata"]["uid"] = "other"
    nobodys.list.see(again)
    assert nobodys.after(1) == [] and len(nobodys.after(PATIENCE)) == 1


@pytest.mark.parametrize(
    ("policy", "ours", "words"),
    [
        ({}, "gpu", "no operator without a class"),
        ({"operatorClass": "x"}, "gpu", "runs jobs of class 'gpu'"),
        ({"managedBy": "example.com/other"}, "", "leaves this job to 'example.com/other'"),
        ({"managedBy": "example.com/other", "operatorClass": "x"}, "", "leaves this job to 'example.com/other'"),
    ],
)
def test_the_words_say_who_was_asked_for(policy, ours, words):
    """The event names the class or the manager that the job asks for, and what the operator that speaks runs."""
    nobodys = Nobodys(ours)
    nobodys.list.see(seen(policy))
    assert words in nobodys.after(PATIENCE)[0][1]


def test_an_api_server_that_refuses_the_event_ends_nothing():
    """A refused event is tried again later, and the next job is told all the same."""
    nobodys = Nobodys()
    nobodys.list.see(seen({"operatorClass": "gqu"}))
    nobodys.api.refuse = lambda method, obj: (403, "Forbidden", "no")
    assert nobodys.after(PATIENCE) == []
    nobodys.api.refuse = lambda method, obj: None
    assert len(nobodys.after(600)) == 1


class Installation:
    """One replica of one release."""

    def __init__(self, api: FakeApi, release: str, identity: str, **settings: str) -> None:
        self.settings = Settings.of({"release": release, "leaseNamespace": "other", "leaseName": "l", **settings})
        self.election = Election(FakeCluster(api, Metrics()), identity, self.settings)


@pytest.fixture
def two(monkeypatch):
    """Two releases of a class, and a second replica of the first."""
    monkeypatch.setenv("POD_NAME", "pod-x")
    api = FakeApi()
    api.namespaces |= {"a", "b"}
    return api, Installation(api, "a/x", "1"), Installation(api, "a/x", "2"), Installation(api, "b/y", "3")


def test_a_second_installation_waits_and_says_so(two, monkeypatch):
    """One of two installations of a class leads; the other is not ready, and says in an event whom it waits for."""
    api, first, standby, second = two

    async def go():
        assert await first.election._try()
        monkeypatch.setattr(leader.asyncio, "sleep", stop)
        for waiting in (standby, second):
            with pytest.raises(StopAsyncIteration):
                await waiting.election.acquire()
        assert standby.election.refused_by == "" and second.election.refused_by == "a/x"
        for waiting, code in ((standby, 200), (second, 503)):
            health = Health(Metrics(), WorkQueue(), Store())
            health.refused_by = lambda waiting=waiting: waiting.election.refused_by
            assert (await health._readyz(None)).status == code

    asyncio.run(go())
    events = [raw for (kind, _, _), raw in api.objects.items() if kind == "Event"]
    assert [(e["metadata"]["namespace"], e["reason"]) for e in events] == [("b", "OtherInstallation")]
    assert "run by the installation a/x; b/y waits" in events[0]["message"]


async def stop(_):
    raise StopAsyncIteration


def test_the_second_takes_over_when_the_first_is_gone(two):
    """A released lease is anybody's, and its annotation says whose it is now."""
    api, first, _, second = two

    async def go():
        assert await first.election._try() and not await second.election._try()
        await first.election.release()
        assert await second.election._try() and second.election.refused_by == ""

    asyncio.run(go())
    assert api.objects["Lease", "other", "l"]["metadata"]["annotations"] == {names.ANNOTATION_RELEASE: "b/y"}


@pytest.fixture
def contested(rig):
    """A job whose Service somebody else sets back after each write of ours."""
    rig.submit(job(runPolicy={"startupDeadlineSeconds": 1_000_000}))
    rig.settle()
    key = ("Service", "ns", "j-oracle")

    def set_back():
        raw = copy.deepcopy(rig.api.objects[key])
        if raw["spec"].get("clusterIP") == "None":
            raw["spec"]["clusterIP"] = "10.0.0.1"
            rig.api.put("Service", raw)

    return rig, key, set_back


def test_what_is_changed_back_and_forth_is_written_later_each_time(contested):
    """What is always changed back is written fewer than 15 times in twenty minutes, and put right at the end."""
    rig, key, set_back = contested
    writes = 0
    for _ in range(1200):
        before = rig.api.objects[key]["metadata"]["resourceVersion"]
        set_back()
        rig.again()
        changed = rig.api.objects[key]["metadata"]["resourceVersion"] != before
        writes += changed and rig.api.objects[key]["spec"]["clusterIP"] == "None"
        rig.api.now += dt.timedelta(seconds=1)
    assert 5 <= writes < 15
    said = rig.condition("Reconciled")
    assert (said["status"], said["reason"]) == ("False", "Contested") and "Service/j-oracle" in said["message"]
    assert rig.events().count("Contested") == 1
    rig.api.now += dt.timedelta(seconds=400)
    rig.again()
    assert rig.api.objects[key]["spec"]["clusterIP"] == "None"
    rig.api.now += dt.timedelta(seconds=601)
    rig.again()
    assert rig.condition("Reconciled")["status"] == "True"


def test_a_hand_that_slips_is_put_right_at_once(contested):
    """A change by hand, and a second one, are undone without a wait."""
    rig, key, set_back = contested
    for _ in range(3):
        set_back()
        rig.again()
        assert rig.api.objects[key]["spec"]["clusterIP"] == "None"
    assert rig.condition("Reconciled").get("status") != "False"


@given(st.integers(1, 200))
def test_a_key_comes_no_faster_than_once_a_second_for_long(count):
    """However often a key is added, after a burst it waits; another key does not."""

    async def go():
        queue: WorkQueue[str] = WorkQueue()
        done, begun = 0, asyncio.get_running_loop().time()
        for _ in range(count):
            queue.add("a")
            if queue.depth:
                await queue.get()
                queue.done("a")
                done += 1
        assert done <= 61 + asyncio.get_running_loop().time() - begun
        queue.add("b")
        assert queue.depth == 1
        queue.forget("a")
        queue.add("a")
        assert queue.depth == 2

    asyncio.run(go())


def test_a_key_that_waits_for_its_turn_comes(rig):
    """A key that came too often is put off, not dropped."""
    assert isinstance(rig, Rig)

    async def go():
        queue: WorkQueue[str] = WorkQueue()
        queue._left["a"] = (0.99, asyncio.get_running_loop().time())
        queue.add("a")
        assert queue.depth == 0 and await asyncio.wait_for(queue.get(), 20) == "a"

    rig.go(go())

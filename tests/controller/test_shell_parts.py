"""The shell's parts that decide by themselves: the store, the queue, the lease, drift, overlays, keys, progress."""

import asyncio
import base64
import copy
import json
import pickle
import random

import pytest
import yaml

from bagpipe_operator import children, curve, drift, podstate
from bagpipe_operator.api import Job
from bagpipe_operator.leader import Sighting
from bagpipe_operator.names import Role
from bagpipe_operator.observe import observe
from bagpipe_operator.podcheck.overlay import overlay
from bagpipe_operator.progress import newest
from bagpipe_operator.store import Store
from bagpipe_operator.workqueue import WorkQueue


def pod(version: int, name: str = "p", job: str | None = "j") -> dict:
    labels = {"bagpipe.dev/job": job} if job else {}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": labels, "resourceVersion": str(version)},
    }


def test_store_keeps_the_newest():
    """An older version never replaces a newer one, whatever the order in which they come."""
    store = Store()
    assert store.put(pod(5)) == ("ns", "j")
    store.put(pod(3))
    assert store.children(("ns", "j"))[1][0]["metadata"]["resourceVersion"] == "5"


def test_store_keeps_large_jobs_small():
    """Tenants whose documents are as large as the API server takes cost a tenth of it while nobody looks at them."""
    columns = [{"name": f"column{n}", "rows": n} for n in range(5000)]
    spec = {"data": {"columns": {"sparse": columns}}}
    meta = {"name": "j", "namespace": "ns", "uid": "u", "resourceVersion": "1", "labels": {"bagpipe.dev/job": "j"}}
    raw = {"kind": "BagpipeJob", "metadata": meta, "spec": spec, "status": {"phase": "Running"}}
    config = {"kind": "ConfigMap", "metadata": {**meta, "name": "j-config"}, "data": {"job.yaml": json.dumps(spec)}}
    small = {**raw, "metadata": {**meta, "name": "k"}, "spec": {"seed": 1}}
    store = Store()
    for one in (raw, config, small):
        store.put(copy.deepcopy(one))
    assert (
        store.job(("ns", "j")) == raw and store.children(("ns", "j"))[0] == [config] and store.job(("ns", "k")) == small
    )
    assert [head.phase for head in store.heads()] == ["Running"] * 2
    assert len(pickle.dumps(store._objects)) < len(json.dumps(raw)) / 3
    store.remove(raw)
    assert store.job(("ns", "j")) is None and [head.name for head in store.heads()] == ["k"]


def test_store_keeps_pods_without_their_templates(world):
    """One job has as many pods as it likes, each with a template of a megabyte: nothing of that is the store's."""
    large = base64.b85encode(random.Random(0).randbytes(100_000)).decode()
    labels = {f"l{i}.example/{large[i * 9 : i * 9 + 9].encode().hex()}": "x" for i in range(900)}
    sidecar = {"name": "side", "image": "x", "restartPolicy": "Always", "args": [large]}
    spec = {
        "initContainers": [sidecar, {"name": "fetch", "image": "x"}],
        "volumes": [
            {"name": "c", "persistentVolumeClaim": {"claimName": "mine"}},
            {"name": "e", "ephemeral": {"a": 1}},
        ],
        "schedulerName": "ours",
    }
    w = world().settle()
    store, raws = Store(), w.pods()
    for raw in raws:
        raw["metadata"] |= {"annotations": {"a": large}, "resourceVersion": "5"}
        raw["metadata"]["labels"] |= labels
        main = {**raw["spec"]["containers"][0], "env": [{"name": "A", "value": large}]}
        raw["spec"] = {**raw["spec"], **spec, "containers": [{"name": "other", "args": ["--attempt", "9"]}, main]}
    w.end_init(raws[-1], 3)
    w.end_init(raws[0], 3, name="side")
    raws[1]["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a.example/b"]}
    raws[2]["spec"]["nodeName"] = "n1"
    for raw in raws:
        store.put(raw)
    kept = {raw["metadata"]["name"]: raw for raw in store.children(("ns", "j"))[1]}
    assert len(kept) == len(raws) == 5
    for raw in raws:
        for attempt in (0, None):
            told = [podstate.parse(one, Role.SERVER, attempt) for one in (raw, kept[raw["metadata"]["name"]])]
            assert told[0] == told[1] and told[0].claims
        assert observe("u", [], [raw]) == observe("u", [], [kept[raw["metadata"]["name"]]])
    assert len(pickle.dumps(store._objects)) < 5 * 2_000
    raws[-1]["status"] = {"phase": "Succeeded"}
    store.put({"kind": "BagpipeJob", "metadata": {"namespace": "ns", "name": "j", "resourceVersion": "5"}})
    store.remove(raws[-1])
    [ended] = store.ended(("ns", "j"))
    assert len(json.dumps(ended)) < 2_000


def test_what_the_store_returns_is_the_callers_own():
    """Who changes an object changes no other's picture of it."""
    store = Store()
    store.put(pod(5))
    store.children(("ns", "j"))[1][0]["metadata"].clear()
    assert store.children(("ns", "j"))[1][0]["metadata"]["resourceVersion"] == "5"


def test_store_knows_the_uids_of_children():
    """They are asked for every few seconds, for each job that waits."""
    store = Store()
    store.put(pod(5))
    assert list(store.child_uids(("ns", "j"))) == ["p"]
    assert list(store.child_uids(("ns", "other"))) == []


def test_a_large_documents_text_is_made_once(monkeypatch):
    """It takes a second for each megabyte, in which no other job is looked at; what is small is not kept."""
    made, dump = [], yaml.safe_dump
    monkeypatch.setattr(yaml, "safe_dump", lambda raw, **options: made.append(1) or dump(raw, **options))
    meta = {"name": "j", "namespace": "ns", "uid": "u"}
    for seed in (1, 1, 2):
        spec = {"data": {"path": "/x"}, "model": {"notes": "x" * 70_000}, "seed": seed}
        job = Job.of({"metadata": meta, "spec": spec})
        assert yaml.safe_load(children.document(job))["spec"] == spec
    assert len(made) == 2 and len(children._texts) <= children._KEPT


def test_store_does_not_raise_the_dead():
    """An answer that comes after the deletion is not kept; an object made anew is."""
    store = Store()
    store.put(pod(5))
    store.remove(pod(7))
    store.put(pod(6))
    assert store.children(("ns", "j")) == ([], [])
    store.put(pod(8))
    assert len(store.children(("ns", "j"))[1]) == 1


def test_store_forgets_jobs_without_children():
    """Nothing is left of a job whose children are gone."""
    store = Store()
    store.put(pod(1))
    store.remove(pod(2))
    assert repr(store) == "<Store of 0 objects, 0 jobs with children>"


def test_objects_without_a_job_are_ignored():
    """What bears no job's label is not ours."""
    store = Store()
    assert store.put(pod(1, job=None)) is None and repr(store).startswith("<Store of 0")


def test_flavors_are_kept_by_name():
    """Objects that belong to no namespace are kept, and found by their kind."""
    store = Store()
    flavor = {"kind": "ResourceFlavor", "metadata": {"name": "f", "resourceVersion": "1"}, "spec": {}}
    assert store.put(flavor) is None and list(store.cluster_scoped("ResourceFlavor")) == ["f"]


def test_queue_gives_each_key_once():
    """A key that is added often is worked on once."""

    async def go() -> None:
        queue: WorkQueue[str] = WorkQueue()
        for _ in range(3):
            queue.add("a")
        assert await queue.get() == "a" and queue.depth == 0

    asyncio.run(go())


def test_queue_comes_back_to_what_changed_meanwhile():
    """A key that is added while it is being worked on comes again, and not before it is done."""

    async def go() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        await queue.get()
        queue.add("a")
        assert queue.depth == 0
        queue.done("a")
        assert queue.depth == 1

    asyncio.run(go())


def test_queue_waits_longer_after_each_failure():
    """Failures back off; success starts over."""

    async def go() -> None:
        queue: WorkQueue[str] = WorkQueue()
        delays = []
        for _ in range(4):
            queue.add("a")
            await queue.get()
            delays.append(queue.failed("a"))
        assert delays == sorted(delays) and delays[-1] > 4 * delays[0]
        queue.forget("a")

    asyncio.run(go())


def test_a_key_that_was_asked_to_wait_is_not_woken():
    """What the API server asked for holds against every event of that key, for a minute at most."""

    async def go() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        await queue.get()
        queue.add("a")
        assert queue.failed("a", 3600) == 60
        for _ in range(5):
            queue.add("a")
            queue.add("b")
        assert queue.depth == 1 and await queue.get() == "b"
        queue.forget("a")
        queue.add("a")
        assert queue.depth == 1

    asyncio.run(go())


def test_an_earlier_time_stands():
    """Asking for later does not put off what is due earlier."""

    async def go() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("a", 0.01)
        queue.add_after("a", 60)
        assert await asyncio.wait_for(queue.get(), 1) == "a"

    asyncio.run(go())


def test_lease_is_judged_by_our_own_clock():
    """A lease is free when we have not seen it change for its duration, whatever time it claims."""
    seen = Sighting()
    lease = {"spec": {"holderIdentity": "other", "renewTime": "1999-01-01T00:00:00Z"}}
    seen.see(lease, now=100.0)
    assert not seen.free("me", 15, now=114.9)
    seen.see({"spec": {"holderIdentity": "other", "renewTime": "1999-01-01T00:00:01Z"}}, now=110.0)
    assert not seen.free("me", 15, now=124.9) and seen.free("me", 15, now=125.0)
    assert seen.free("other", 15, now=110.0)


@pytest.mark.parametrize(
    ("wanted", "live", "same"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": {"x": 1}}, {"a": {"x": 1, "y": 2}}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": [{"n": 1}]}, {"a": [{"n": 1, "default": True}]}, True),
        ({"a": {}}, {}, True),
        ({"a": "x"}, {}, False),
    ],
)
def test_drift(wanted, live, same):
    """The API server may add; it may not differ."""
    assert drift.contains(live, wanted) is same


def test_overlay_merges_named_things():
    """Containers, variables and mounts merge by name, other lists are replaced, null removes, tolerations add up."""
    base = {
        "containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}],
        "tolerations": [{"key": "k"}],
        "gone": 1,
    }
    patch = {
        "containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}, {"name": "b"}],
        "tolerations": [{"key": "l"}],
        "gone": None,
    }
    merged = overlay(base, patch)
    assert merged["containers"][0] == {
        "name": "a",
        "image": "1",
        "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
    }
    assert [c["name"] for c in merged["containers"]] == ["a", "b"]
    assert merged["tolerations"] == [{"key": "k"}, {"key": "l"}] and "gone" not in merged
    assert base["gone"] == 1


@pytest.mark.parametrize(
    ("key", "below", "above", "expected"),
    [
        ("env", {"value": "1"}, {"valueFrom": {"x": 1}}, {"valueFrom": {"x": 1}}),
        ("env", {"valueFrom": {"x": 1}}, {"value": ""}, {"value": ""}),
        ("env", {"value": "1"}, {}, {"value": "1"}),
        ("volumes", {"emptyDir": {}}, {"configMap": {"name": "c"}}, {"configMap": {"name": "c"}}),
        ("volumes", {"emptyDir": {"medium": "Memory"}}, {"emptyDir": {"sizeLimit": "1Gi"}}, None),
    ],
)
def test_another_source_takes_the_place_of_the_first(key, below, above, expected):
    """A variable and a volume have one source: a role's own replaces that of all roles."""
    expected = {"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} if expected is None else expected
    merged = overlay({key: [{"name": "x", **below}]}, {key: [{"name": "x", **above}]})
    assert merged == {key: [{"name": "x", **expected}]}


def test_one_port_is_open_to_two_protocols():
    """Ports merge by number and protocol, as for the API server."""
    udp, tcp = {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "name": "dns"}
    assert overlay({"ports": [tcp]}, {"ports": [udp]})["ports"] == [tcp, udp]
    assert overlay({"ports": [tcp]}, {"ports": [{"containerPort": 53, "protocol": "TCP"}]})["ports"] == [
        {**tcp, "protocol": "TCP"}
    ]


def test_x25519_agrees_with_itself():
    """Two parties come to one secret, and the base point's multiples are 32 bytes."""
    ours, theirs = bytes(range(32)), bytes(range(32, 64))
    shared = [curve.x25519(a, int.from_bytes(curve.x25519(b), "little")) for a, b in ((ours, theirs), (theirs, ours))]
    assert shared[0] == shared[1] and len(shared[0]) == 32


def test_z85_known_answer():
    """ZeroMQ RFC 32: the eight bytes of its example."""
    assert curve.z85(bytes([0x86, 0x4F, 0xD2, 0x6F, 0xB5, 0x59, 0xF7, 0x5B])) == "HelloWorld"


def test_progress_takes_the_last_whole_record():
    """Half a line, people's lines and events are passed over; the rest is given in the status' words."""
    record = '{"time": 1, "step": 10, "total_steps": 100, "loss": 0.5, "examples_per_second": 50.0}'
    log = f'0, "loss": 1}}\n{record}\n{{"event": "evaluating", "step": 11}}\nhello'
    assert newest(log, 5) == {"step": 10, "totalSteps": 100, "loss": 0.5, "examplesPerSecond": 50.0, "etaSeconds": 9}
    assert newest("nothing", 5) is None

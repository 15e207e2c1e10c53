"""What the operator relies on in an API server: each claim is tried on the fake one and on a real one.

Every function takes the operator's own client and a namespace of its own. `tests/controller` runs them on the fake,
`tests/e2e` on the cluster that `$KUBECONFIG` names.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from bagpipe_operator import names
from bagpipe_operator.api_error import ApiError, Outcome
from bagpipe_operator.cluster import Cluster, created_not_applied, path

Claim = Callable[[Cluster, str], Awaitable[None]]


async def outcome(request: Awaitable[Any]) -> Outcome | None:
    """How it ended; none: well."""
    try:
        await request
    except ApiError as error:
        return error.outcome
    return None


def config_map(namespace: str, name: str = "a", **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data or {"x": "1"},
    }


def owned_by(uid: str, name: str = "j") -> list[dict[str, Any]]:
    return [{"apiVersion": names.API_VERSION, "kind": names.KIND, "name": name, "uid": uid, "controller": True}]


def bagpipe_job(namespace: str, name: str = "j") -> dict[str, Any]:
    spec = {"data": {"format": "synthetic"}, "runPolicy": {"suspend": True, "managedBy": "somebody-else"}}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": meta, "spec": spec}


def batch_job(namespace: str, **container: Any) -> dict[str, Any]:
    main = {"name": "c", "image": "nowhere.invalid/none:1", **container}
    spec = {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [main]}}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "b", "namespace": namespace}, "spec": spec}


async def a_second_create_conflicts_and_changes_nothing(api: Cluster, ns: str) -> None:
    made = await api.create("ConfigMap", ns, config_map(ns))
    assert await outcome(api.create("ConfigMap", ns, config_map(ns, y="2"))) is Outcome.EXISTS
    found = await api.find("ConfigMap", ns, "a")
    assert found is not None and found["data"] == {"x": "1"} and found["metadata"]["uid"] == made["metadata"]["uid"]


async def find_gives_nothing_for_what_is_not_there(api: Cluster, ns: str) -> None:
    assert await api.find("ConfigMap", ns, "nobody") is None
    assert await outcome(api.get(path("ConfigMap", ns, "nobody"))) is Outcome.ABSENT


async def an_apply_with_a_uid_makes_nothing(api: Cluster, ns: str) -> None:
    body = config_map(ns)
    body["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    assert await outcome(api.apply(body)) is Outcome.CHANGED
    assert await api.find("ConfigMap", ns, "a") is None


async def an_apply_with_another_uid_touches_nothing(api: Cluster, ns: str) -> None:
    await api.create("ConfigMap", ns, config_map(ns))
    body = config_map(ns, y="2")
    body["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    assert await outcome(api.apply(body)) is Outcome.CHANGED
    found = await api.find("ConfigMap", ns, "a")
    assert found is not None and found["data"] == {"x": "1"}


async def an_apply_takes_away_what_was_created_only_after_own_fields(api: Cluster, ns: str) -> None:
    owner = await api.create(names.KIND, ns, bagpipe_job(ns))
    for name, converted in (("a", False), ("b", True)):
        body = config_map(ns, name, x="1", y="2")
        body["metadata"]["ownerReferences"] = owned_by(owner["metadata"]["uid"])
        await api.create("ConfigMap", ns, body)
        read = await api.find("ConfigMap", ns, name)
        assert read is not None and created_not_applied(read)
        if converted:
            await api.own_fields(read)
            again = await api.find("ConfigMap", ns, name)
            assert again is not None and not created_not_applied(again)
        less = config_map(ns, name, x="3")
        less["metadata"]["uid"] = read["metadata"]["uid"]
        left = await api.apply(less)
        assert left["data"] == ({"x": "3"} if converted else {"x": "3", "y": "2"})
        assert bool(left["metadata"].get("ownerReferences")) is not converted


async def an_apply_leaves_what_others_said(api: Cluster, ns: str) -> None:
    await api.create("ConfigMap", ns, config_map(ns))
    read = await api.find("ConfigMap", ns, "a")
    assert read is not None
    await api.own_fields(read)
    other = await api.find("ConfigMap", ns, "a")
    assert other is not None
    other["metadata"]["labels"] = {"theirs": "yes"}
    other.pop("kind")
    await api.replace("ConfigMap", ns, "a", {**other, "kind": "ConfigMap", "apiVersion": "v1"})
    body = config_map(ns, x="2")
    body["metadata"]["uid"] = read["metadata"]["uid"]
    left = await api.apply(body)
    assert left["metadata"]["labels"] == {"theirs": "yes"} and left["data"] == {"x": "2"}


async def an_apply_that_says_the_same_writes_nothing(api: Cluster, ns: str) -> None:
    await api.create("ConfigMap", ns, config_map(ns))
    read = await api.find("ConfigMap", ns, "a")
    assert read is not None
    await api.own_fields(read)
    body = config_map(ns)
    body["metadata"]["uid"] = read["metadata"]["uid"]
    first, second = await api.apply(body), await api.apply(body)
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


async def a_replace_of_a_stale_copy_conflicts(api: Cluster, ns: str) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "l", "namespace": ns},
        "spec": {"holderIdentity": "one", "leaseDurationSeconds": 15},
    }
    made = await api.create("Lease", ns, lease)
    await api.replace("Lease", ns, "l", {**made, "spec": {**made["spec"], "holderIdentity": "two"}})
    late = api.replace("Lease", ns, "l", {**made, "spec": {**made["spec"], "holderIdentity": "three"}})
    assert await outcome(late) is Outcome.CHANGED
    assert (await api.get(path("Lease", ns, "l")))["spec"]["holderIdentity"] == "two"
    assert await outcome(api.create("Lease", ns, lease)) is Outcome.EXISTS


async def a_status_is_written_for_the_version_that_was_read(api: Cluster, ns: str) -> None:
    made = await api.create(names.KIND, ns, {**bagpipe_job(ns), "status": {"attempt": 7}})
    assert "status" not in made  # A subresource: no create and no change of the rest writes it.
    version = {"resourceVersion": made["metadata"]["resourceVersion"]}
    new = await api.patch_status(names.KIND, ns, "j", {"metadata": version, "status": {"attempt": 1, "phase": "x"}})
    assert new["status"] == {"attempt": 1, "phase": "x"}
    assert new["metadata"]["generation"] == made["metadata"]["generation"]
    late = api.patch_status(names.KIND, ns, "j", {"metadata": version, "status": {"attempt": 2}})
    assert await outcome(late) is Outcome.CHANGED
    version = {"resourceVersion": new["metadata"]["resourceVersion"]}
    gone = await api.patch_status(names.KIND, ns, "j", {"metadata": version, "status": {"phase": None}})
    assert gone["status"] == {"attempt": 1}


async def a_status_of_the_wrong_type_is_refused(api: Cluster, ns: str) -> None:
    await api.create(names.KIND, ns, bagpipe_job(ns))
    assert await outcome(api.patch_status(names.KIND, ns, "j", {"status": {"attempt": "two"}})) is Outcome.REFUSED


async def an_invalid_child_is_refused(api: Cluster, ns: str) -> None:
    assert await outcome(api.create("Job", ns, batch_job(ns, image=""))) is Outcome.REFUSED
    refused = api.create("Job", ns, batch_job(ns, resources={"limits": {"cpu": "many"}}))
    assert await outcome(refused) is Outcome.REFUSED


async def a_fixed_field_of_a_job_is_refused(api: Cluster, ns: str) -> None:
    made = await api.create("Job", ns, batch_job(ns))
    body = batch_job(ns, image="nowhere.invalid/none:2")
    body["metadata"]["uid"] = made["metadata"]["uid"]
    assert await outcome(api.apply(body)) is Outcome.REFUSED


async def a_deletion_meets_only_the_object_it_names(api: Cluster, ns: str) -> None:
    made = await api.create("ConfigMap", ns, config_map(ns))
    await api.delete("ConfigMap", ns, "a", "00000000-0000-0000-0000-000000000000")
    assert await api.find("ConfigMap", ns, "a") is not None
    await api.delete("ConfigMap", ns, "a", made["metadata"]["uid"])
    assert await api.find("ConfigMap", ns, "a") is None
    await api.delete("ConfigMap", ns, "a", made["metadata"]["uid"])


async def what_is_not_there_is_absent(api: Cluster, ns: str) -> None:
    log = api.text(path("Pod", ns, "nobody", "log"), tailLines="20")
    assert await outcome(log) is Outcome.ABSENT
    nowhere = f"{ns}-nowhere"
    assert await outcome(api.create("ConfigMap", nowhere, config_map(nowhere))) is Outcome.ABSENT


CLAIMS: tuple[Claim, ...] = (
    a_second_create_conflicts_and_changes_nothing,
    find_gives_nothing_for_what_is_not_there,
    an_apply_with_a_uid_makes_nothing,
    an_apply_with_another_uid_touches_nothing,
    an_apply_takes_away_what_was_created_only_after_own_fields,
    an_apply_leaves_what_others_said,
    an_apply_that_says_the_same_writes_nothing,
    a_replace_of_a_stale_copy_conflicts,
    a_status_is_written_for_the_version_that_was_read,
    a_status_of_the_wrong_type_is_refused,
    an_invalid_child_is_refused,
    a_fixed_field_of_a_job_is_refused,
    a_deletion_meets_only_the_object_it_names,
    what_is_not_there_is_absent,
)

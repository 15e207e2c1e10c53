"""Whose are the claims and pods that bear the names of a StatefulSet's own?

It takes any claim of the right name, and deletes it with itself; and while somebody's pod has the name of one of its
own, it waits for that to go and tells nobody. Kubernetes makes both, so only their names say beforehand which they will
be. This is asked before the set may make a pod that it did not have.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from bagpipe_operator import names
from bagpipe_operator.names import Reason
from bagpipe_operator.observe import Obstacle, is_deleting, owner_of
from bagpipe_operator.podstate import Raw


def wanted(raw: Mapping[str, Any]) -> frozenset[str]:
    """Names of the claims that this object's pods will use; empty: it is no StatefulSet, or has none."""
    spec, name = raw.get("spec") or {}, raw["metadata"]["name"]
    if raw["kind"] != "StatefulSet":
        return frozenset()
    templates = spec.get("volumeClaimTemplates") or ()
    return frozenset(f"{t['metadata']['name']}-{name}-{i}" for t in templates for i in range(spec["replicas"]))


_PODS = 8
"""How many of a set's pods are looked for: it numbers them from 0, and so does whoever makes others of that name."""


def pods(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the first pods that this object will make; empty: it is no StatefulSet, or makes none."""
    if raw["kind"] != "StatefulSet":
        return ()
    return tuple(f"{raw['metadata']['name']}-{i}" for i in range(min(raw["spec"]["replicas"], _PODS)))


def pod_in_the_way(found: Raw | None, live: Raw | None) -> Obstacle | None:
    """A pod of such a name that is not the live set's own; none: there is none, or it is."""
    if found is None or (live is not None and owner_of(found) == live["metadata"]["uid"]):
        return None
    return _obstacle(found, f"Pod/{found['metadata']['name']}")


def in_the_way(wanted: frozenset[str], there: Iterable[Raw], live: Raw | None) -> Obstacle | None:
    """The first of these claims that is not the live set's own; none: all names are free, or its own."""
    for raw in sorted(there, key=lambda r: str(r["metadata"]["name"])):
        name = raw["metadata"]["name"]
        if name in wanted and not (live is not None and _is_of(raw, live)):
            return _obstacle(raw, f"PersistentVolumeClaim/{name}")
    return None


def _is_of(raw: Raw, live: Raw) -> bool:
    """Owned by the set; Kubernetes makes the claim a moment before it names the owner, with the set's labels."""
    owners = raw["metadata"].get("ownerReferences") or ()
    if owners:
        return any(o["uid"] == live["metadata"]["uid"] for o in owners)
    have, job = raw["metadata"].get("labels") or {}, live["metadata"]["labels"]
    return all(have.get(key) == job.get(key) for key in (names.LABEL_JOB, names.LABEL_ROLE))


def _obstacle(raw: Raw, what: str) -> Obstacle:
    if is_deleting(raw):
        return Obstacle(reason=Reason.OLDER_JOB, message=f"{what} exists and is being deleted")
    if any(o["kind"] == "StatefulSet" for o in raw["metadata"].get("ownerReferences") or ()):
        return Obstacle(reason=Reason.OLDER_JOB, message=f"{what} of an older StatefulSet is still there")
    message = f"{what} exists and was made by somebody else; it was left as it is. Rename the job, or that object"
    return Obstacle(reason=Reason.NAME_TAKEN, message=message, final=True)

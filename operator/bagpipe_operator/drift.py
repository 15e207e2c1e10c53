"""Does a live object still say what we want, and what can be said to it at all?

The API server adds defaults, so we compare only what we set: every field wanted must be there and
equal. Parts that Kubernetes does not let anyone change (a Job's template, a claim's spec) are taken
from the live object, so that a newer operator's opinion of them waits for the next attempt.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bagpipe_operator import names, podstate
from bagpipe_operator.observe import Written
from bagpipe_operator.podstate import Raw

_FIXED = {
    "Job": ("template", "selector", "completionMode", "podFailurePolicy", "completions"),
    "StatefulSet": ("volumeClaimTemplates", "serviceName", "podManagementPolicy", "selector"),
    "PersistentVolumeClaim": ("accessModes", "resources", "storageClassName", "volumeMode", "volumeName"),
}


def settle(wanted: Mapping[str, Any], live: Raw | None) -> dict[str, Any]:
    """`wanted` with the unchangeable parts of `live`."""
    if live is not None and wanted["kind"] == "PersistentVolumeClaim" and not live["metadata"].get("ownerReferences"):
        # A claim that was kept for later is never bound to a job again: deleting the job must not delete it.
        wanted = {**wanted, "metadata": {k: v for k, v in wanted["metadata"].items() if k != "ownerReferences"}}
    if live is not None and wanted["kind"] == "Workload":
        return _settled_workload(wanted, live)
    fixed = _FIXED.get(wanted["kind"], ()) if live else ()
    if not fixed or live is None:
        return dict(wanted)
    there = live.get("spec") or {}
    spec = {key: value for key, value in wanted["spec"].items() if key not in fixed}
    spec |= {key: there[key] for key in fixed if key in there and key in wanted["spec"]}
    if wanted["kind"] == "StatefulSet" and _same_attempt(spec, there):
        spec["template"] = there["template"]
    return {**wanted, "spec": spec}


def _settled_workload(wanted: Mapping[str, Any], live: Raw) -> dict[str, Any]:
    """While quota is reserved, what it was counted by stands; what the job needs by then is another Workload's."""
    listed = (live.get("status") or {}).get("conditions") or ()
    if not any(c.get("type") == "QuotaReserved" and c.get("status") == "True" for c in listed):
        return dict(wanted)
    kept = {key: value for key, value in wanted["spec"].items() if key not in _RESERVED}
    kept |= {key: live["spec"][key] for key in _RESERVED if key in live["spec"]}
    labels = dict(wanted["metadata"]["labels"])
    asked = (live["metadata"].get("labels") or {}).get(names.LABEL_ASKED)
    labels |= {names.LABEL_ASKED: asked} if asked else {}
    return {**wanted, "metadata": {**wanted["metadata"], "labels": labels}, "spec": kept}


_RESERVED = ("podSets", "queueName", "priorityClassSource", "priorityClassName", "priority")


def _same_attempt(wanted: Raw, live: Raw) -> bool:
    """Whether the pods of both belong to one attempt: they then stay as they were made, whatever a newer release makes.

    A StatefulSet's template could be changed, and a server that comes back would be another one than its peers.
    """
    asked, there = (podstate.attempt_of_template(spec.get("template") or {}) for spec in (wanted, live))
    return asked == there != -1


def contains(live: Any, wanted: Any) -> bool:
    """Whether `live` has all that `wanted` says."""
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            return False
        return all(_empty(value) or contains(live.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        return isinstance(live, list | tuple) and len(live) == len(wanted) and all(map(contains, live, wanted))
    return bool(live == wanted)


def _empty(value: Any) -> bool:
    """The API server drops empty maps and lists, or fills them in; either way nothing was asked for."""
    return value is None or (isinstance(value, dict | list | tuple) and not value)


def differs(wanted: Mapping[str, Any], live: Raw | None) -> bool:
    """Whether a write is needed; besides what is wanted, an owner that is not wanted any more makes one so."""
    if live is None or not contains(live, wanted):
        return True
    return bool(live["metadata"].get("ownerReferences")) and not wanted["metadata"].get("ownerReferences")


def written(asked: Mapping[str, Any], answered: Raw) -> Written:
    """To remember a write by: digests of what was asked for and of all that an apply can change in the answer."""
    meta = answered["metadata"]
    substance = {
        **{key: value for key, value in answered.items() if key not in ("apiVersion", "metadata", "status")},
        "labels": meta.get("labels"),
        "uid": meta.get("uid"),
    }
    return Written(asked=_digest(asked), answered=_digest(substance))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()

"""What kopf calls: every event becomes an entry of the store and a key in the queue. Nothing is decided here.

`on.event` only: it writes nothing to any object (no finalizer, no annotation), so a job can be deleted with the
operator gone. Nobody takes a key from the queue before the store is complete (`beginning.py`).
"""

from typing import Any

import kopf

from bagpipe_operator import gangs, names
from bagpipe_operator.api import RunPolicy
from bagpipe_operator.beginning import Beginning
from bagpipe_operator.cluster import path
from bagpipe_operator.heads import JobKey
from bagpipe_operator.listing import Listed
from bagpipe_operator.relists import Relists
from bagpipe_operator.settings import Settings
from bagpipe_operator.store import Store
from bagpipe_operator.unclaimed import Unclaimed
from bagpipe_operator.workqueue import WorkQueue

_Resource = tuple[str, str, str]
"""Group, version and plural, as in the path of a collection."""
_CHILDREN = {
    ("", "v1", "pods"): "Pod",
    ("", "v1", "services"): "Service",
    ("", "v1", "configmaps"): "ConfigMap",
    ("", "v1", "persistentvolumeclaims"): "PersistentVolumeClaim",
    ("apps", "v1", "statefulsets"): "StatefulSet",
    ("batch", "v1", "jobs"): "Job",
    ("networking.k8s.io", "v1", "networkpolicies"): "NetworkPolicy",
    ("policy", "v1", "poddisruptionbudgets"): "PodDisruptionBudget",
}
_KUEUE = {
    ("kueue.x-k8s.io", "v1beta1", "workloads"): "Workload",
    ("kueue.x-k8s.io", "v1beta1", "resourceflavors"): "ResourceFlavor",
    ("kueue.x-k8s.io", "v1beta1", "workloadpriorityclasses"): "WorkloadPriorityClass",
}
_GANGS = {
    name: {(gang.api_version.split("/")[0], gang.api_version.split("/")[1], "podgroups"): gang.kind}
    for name, gang in gangs.KNOWN.items()
}
_LISTED_AT_ONCE = 250
"""Objects in one answer when a watch begins: a list of all pods of 5,000 jobs took more than a gigabyte of memory."""
_SELECTOR = f"{names.LABEL_MANAGED_BY}={names.MANAGER}"


def listed(settings: Settings) -> list[Listed]:
    """The kinds that are watched, for `Beginning` and `Relists`."""
    found = []
    for resource, kind in _kinds(settings).items():
        urls = dict.fromkeys(path(kind, namespace) for namespace in settings.namespaces or (None,))
        found.append(Listed(kind, tuple(urls), _SELECTOR if resource in _selected(settings) else ""))
    return found


def _kinds(settings: Settings) -> dict[_Resource, str]:
    kinds = {(names.GROUP, names.VERSION, names.PLURAL): names.KIND, **_CHILDREN, **(_KUEUE if settings.kueue else {})}
    for name in settings.gang_schedulers:
        kinds |= _GANGS[name]
    return kinds


def _selected(settings: Settings) -> list[_Resource]:
    """Those of which only our own objects are watched."""
    return [*_CHILDREN, *(resource for name in settings.gang_schedulers for resource in _GANGS[name])]


def registry(
    store: Store,
    queue: WorkQueue[JobKey],
    settings: Settings,
    unclaimed: Unclaimed,
    beginning: Beginning,
    relists: Relists,
) -> kopf.OperatorRegistry:
    """Handlers bound to this store and queue, and to the list of others' jobs that nobody runs."""
    result = kopf.OperatorRegistry()
    for resource, kind in _kinds(settings).items():
        _watch(result, resource, kind, store, queue, settings.operator_class, unclaimed, beginning, relists)
    for login in (kopf.login_with_service_account, kopf.login_with_kubeconfig):
        kopf.on.login(id=login.__name__, registry=result, retries=3)(login)
    return result


def _watch(
    registry: kopf.OperatorRegistry,
    resource: tuple[str, str, str],
    kind: str,
    store: Store,
    queue: WorkQueue[JobKey],
    operator_class: str,
    unclaimed: Unclaimed,
    beginning: Beginning,
    relists: Relists,
) -> None:
    def ours(raw: dict[str, Any]) -> bool:
        """A job of another operator is not kept: it is neither reconciled nor counted nor followed."""
        return kind != names.KIND or RunPolicy.for_whom(raw.get("spec")).is_of(operator_class)

    async def react(event: kopf.RawEvent, body: kopf.Body, **_: Any) -> None:
        raw = _raw(body, kind)
        if beginning.over and event["type"] is None:
            relists.listed()
        beginning.told(raw)
        if not ours(raw):
            (unclaimed.lost if event["type"] == "DELETED" else unclaimed.see)(raw)
            return
        key = store.remove(raw) if event["type"] == "DELETED" else store.put(raw)
        if key is not None:
            queue.add(key)

    kopf.on.event(*resource, id=f"react-{kind.lower()}", registry=registry)(react)


def _raw(body: kopf.Body, kind: str) -> dict[str, Any]:
    """The object as a dict, with its kind, which the items of a list lack."""
    return {**dict(body), "kind": kind}


class _NoDifferences(kopf.DiffBaseStorage):
    """kopf compares no states of an object for us: a copy of each one would cost more than all that we do with it."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        """There is nothing to store."""


class _NoProgress(kopf.ProgressStorage):
    """Handlers of events are called once, and leave nothing on an object."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        """There is nothing to store."""

    def purge(self, **_: Any) -> None:
        """There is nothing to remove."""

    def touch(self, **_: Any) -> None:
        """No object is written to."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    """kopf as a watcher: no posting, no scanning of namespaces and CRDs, lists in parts."""
    result = kopf.OperatorSettings()
    result.posting.enabled = False
    result.scanning.disabled = True
    result.watching.chunk_size = _LISTED_AT_ONCE
    result.persistence.diffbase_storage = _NoDifferences()
    result.persistence.progress_storage = _NoProgress()
    result.queueing.idle_timeout = 1.0  # A listed object keeps a task for so long.
    result.networking.request_timeout = 20
    result.watching.server_timeout = 300
    result.watching.client_timeout = 330
    result.watching.reconnect_backoff = 1
    for group, _, plural in _selected(settings):
        result.watching.label_selectors[group, plural] = _SELECTOR
    return result

"""What the watches told us, newest wins: jobs, everything that bears a job's label, and Kueue's flavors.

Our own writes are put here too, as soon as they are answered, so that a decision never rests on what
we ourselves changed a moment ago. Versions only rise; a tombstone keeps an answer that comes after
the deletion from bringing the dead back.

Objects are kept as compressed JSON, which takes a tenth of the memory of dicts, and each caller gets a dict of its own:
thousands of jobs may wait, and most of them are not looked at for minutes. What is asked of all jobs at once is kept
beside them. Of a pod no more is kept than anybody asks for.
"""

import json
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterator, ValuesView
from dataclasses import dataclass
from typing import Any

from bagpipe_operator import names, podstate
from bagpipe_operator.heads import Head, JobKey
from bagpipe_operator.observe import attempt_of, controller_of, has_ended
from bagpipe_operator.podstate import Raw

_Key = tuple[str, str, str]

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""A whole document in an annotation: nothing asks for it, and it would take more memory than all the rest."""
_TOMBSTONES = 10_000


@dataclass(frozen=True, slots=True)
class _Kept:
    version: int
    uid: str
    packed: bytes
    """The object as JSON, compressed."""

    @property
    def raw(self) -> Raw:
        found: Raw = json.loads(zlib.decompress(self.packed))
        return found


class Store:
    """An index of objects by kind and name, and of children by job."""

    def __init__(self) -> None:
        self._objects: dict[_Key, _Kept] = {}
        self._heads: dict[JobKey, Head] = {}
        self._shared: defaultdict[str, dict[str, Raw]] = defaultdict(dict)
        """Objects that belong to no namespace, by kind and name: few, and asked for at every look at a queued job."""
        self._by_job: defaultdict[JobKey, set[_Key]] = defaultdict(set)
        self._ended: defaultdict[JobKey, dict[_Key, _Kept]] = defaultdict(dict)
        """Batch Jobs that had ended when they were deleted, and pods that had ended well, of jobs that have not."""
        self._dead: OrderedDict[_Key, int] = OrderedDict()

    def put(self, raw: Raw) -> JobKey | None:
        """Keep an object if it is newer than the known one; returns the job that it belongs to, if any."""
        key, job = _key(raw), _job_key(raw)
        version = _version(raw)
        known = self._objects.get(key)
        stray = job is None and "namespace" in raw["metadata"]
        if stray or version <= self._dead.get(key, 0) or (known is not None and version < known.version):
            return job
        meta = {k: v for k, v in raw["metadata"].items() if k != "managedFields"}
        if annotations := meta.get("annotations"):
            meta["annotations"] = {k: v for k, v in annotations.items() if k != _LAST_APPLIED}
        lean = podstate.lean({**raw, "metadata": meta})
        self._objects[key] = _Kept(version, meta.get("uid", ""), _packed(lean))
        if job is None:
            self._shared[key[0]][key[2]] = lean
        elif key[0] == names.KIND:
            self._heads[job] = Head.of(lean)
            if self._heads[job].finished:
                self._ended.pop(job, None)
        else:
            self._by_job[job].add(key)
        return job

    def remove(self, raw: Raw) -> JobKey | None:
        """Drop an object that is gone from the API server; returns the job that it belonged to, if any.

        How a batch Job ended, and what a pod left that ended well, is kept until the status of their job tells it: a
        policy of the cluster may delete ended Jobs at once, and a Job that is merely gone would be made again.
        """
        key, job = _key(raw), _job_key(raw)
        head = self._heads.get(job) if job is not None else None
        if job is not None and head is not None and not head.finished and has_ended(raw):
            self._keep_ended(job, key, raw)
        self._dead[key] = max(_version(raw), self._dead.get(key, 0))
        self._dead.move_to_end(key)
        while len(self._dead) > _TOMBSTONES:
            self._dead.popitem(last=False)
        known = self._objects.get(key)
        if known is not None and known.version <= _version(raw):
            self._drop(key, job)
        return job

    def _keep_ended(self, job: JobKey, key: _Key, raw: Raw) -> None:
        """Of the newest attempt alone: nobody asks for those before."""
        attempt = _attempt(raw)
        newest = max((_attempt(kept.raw) for kept in self._ended[job].values()), default=attempt)
        if attempt > newest:
            self._ended[job].clear()
        if attempt >= newest:
            uid = raw["metadata"].get("uid", "")
            self._ended[job][key] = _Kept(_version(raw), uid, _packed(podstate.lean(_as_it_ended(raw))))

    def _drop(self, key: _Key, job: JobKey | None) -> None:
        del self._objects[key]
        if job is None:
            self._shared[key[0]].pop(key[2], None)
        elif key[0] == names.KIND:
            self._heads.pop(job, None)
            self._ended.pop(job, None)
        elif key in self._by_job.get(job, ()):
            self._by_job[job].discard(key)
            if not self._by_job[job]:
                del self._by_job[job]

    def restore(self, raw: Raw) -> None:
        """Keep what was read a moment ago, whatever a watch has said.

        A watch tells the end of an object also when that has lost the label by which it was selected.
        """
        self._dead.pop(_key(raw), None)
        self.put(raw)

    def forget(self, kind: str, namespace: str, name: str, uid: str) -> bool:
        """The API server has no object with this UID, although no watch has said so; false: neither had we."""
        known = self.get(kind, namespace, name)
        if known is not None and known["metadata"].get("uid") == uid:
            self.remove(known)
            return True
        return False

    def gone(self, kind: str, there: Collection[str], version: int) -> list[Raw]:
        """Objects of a kind that have gone: they were last seen at or before this version, and a list of it lacks them.

        Args:
            there: UIDs of the objects in the list.
            version: the list's resource version.
        """
        mine = ((key, kept) for key, kept in self._objects.items() if key[0] == kind)
        return [kept.raw for _, kept in mine if kept.version <= version and kept.uid not in there]

    def job(self, key: JobKey) -> Raw | None:
        """A job as last seen; none: there is none, or it is another operator's."""
        return self.get(names.KIND, *key)

    def get(self, kind: str, namespace: str, name: str) -> Raw | None:
        """An object as last seen; `namespace` is empty for one that belongs to no namespace."""
        found = self._objects.get((kind, namespace, name))
        return None if found is None else found.raw

    def heads(self) -> ValuesView[Head]:
        """The heads of all jobs of this operator."""
        return self._heads.values()

    def children(self, key: JobKey) -> tuple[list[Raw], list[Raw]]:
        """The children and the pods that bear this job's name as a label, whatever job owns them."""
        mine = [self._objects[k].raw for k in sorted(self._by_job.get(key, ()))]
        return [r for r in mine if r["kind"] != "Pod"], [r for r in mine if r["kind"] == "Pod"]

    def ended(self, key: JobKey) -> list[Raw]:
        """Batch Jobs and pods of this job's name that had ended when they were deleted; none once the job has ended."""
        return [kept.raw for kept in self._ended.get(key, {}).values()]

    def child_uids(self, key: JobKey) -> Iterator[str]:
        """UIDs of what `children` returns."""
        return (self._objects[k].uid for k in self._by_job.get(key, ()))

    def cluster_scoped(self, kind: str) -> dict[str, Raw]:
        """All objects of a kind that belongs to no namespace, by name."""
        return dict(self._shared.get(kind, {}))

    def __repr__(self) -> str:
        return f"<Store of {len(self._objects)} objects, {len(self._by_job)} jobs with children>"


def _packed(raw: Raw) -> bytes:
    # Level 1: an object changes more often than it is read, and a higher level saves little of such small texts.
    return zlib.compress(json.dumps(raw, separators=(",", ":")).encode(), 1)


def _attempt(raw: Raw) -> int:
    """Of a batch Job, or of a pod that one has made."""
    name = raw["metadata"]["name"] if raw["kind"] == "Job" else controller_of(raw).get("name", "")
    return attempt_of({"metadata": {"name": name}})


def _as_it_ended(raw: Raw) -> Raw:
    """A deleted object as it was before somebody asked for its deletion."""
    meta = {k: v for k, v in raw["metadata"].items() if k not in ("managedFields", "deletionTimestamp")}
    return {**raw, "metadata": meta}


def _key(raw: Raw) -> _Key:
    return raw["kind"], raw["metadata"].get("namespace", ""), raw["metadata"]["name"]


def _version(raw: Raw) -> int:
    return int(raw["metadata"].get("resourceVersion") or 0)


def _job_key(raw: Raw) -> JobKey | None:
    meta: dict[str, Any] = raw["metadata"]
    if raw["kind"] == names.KIND:
        return meta["namespace"], meta["name"]
    job = (meta.get("labels") or {}).get(names.LABEL_JOB)
    return (meta["namespace"], job) if job and "namespace" in meta else None

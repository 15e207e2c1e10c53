"""A client for BagpipeJobs on a cluster: what `bagpipe job ...` does, for Python.

    client = BagpipeClient(namespace="ml")
    name = client.submit("job.yaml")
    job = client.wait(name, timeout_seconds=3600)
    for line in client.logs(name, role="trainer", follow=True): ...

It speaks to the API server alone, like kubectl, with the same credentials. Needs the extra `cluster`.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bagpipe.client.answers import ClusterError, JobNotFound, NotAllowed, data_of, items_of, told
from bagpipe.client.checked import check_pods
from bagpipe.client.connection import connect
from bagpipe.client.followed import Followed
from bagpipe.client.installation import Installation
from bagpipe.client.known import known_status
from bagpipe.client.pod_logs import REQUEST_SECONDS, PodLogs
from bagpipe.client.pods import has_ended, has_log, identity, last_lines, waits_for
from bagpipe.client.story import printable, tell
from bagpipe.config.document import API_VERSION, KIND
from bagpipe.config.load import JobFile, read_job_file
from bagpipe.errors import ConfigError, ExitCode
from bagpipe.local.beginning import check_document
from bagpipe.lowlevel.clock import SYSTEM_CLOCK, Clock

(GROUP, VERSION), PLURAL = API_VERSION.split("/"), "bagpipejobs"
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 120.0
"""How long a wait goes on although the API server does not answer: it may be replaced, or the network may."""
_CONDITIONS = ("Failed", "Complete", "Deleting", "Suspended", "Restarting", "Running")
"""Conditions that can explain a phase, the most important one first."""


class JobFailed(ClusterError):
    """The job ended without success; carries its view."""

    def __init__(self, view: "JobView") -> None:
        super().__init__(f"job {view.name} failed: {view.reason}: {view.message}")
        self.view = view
        self.exit_code = {"BadConfig": ExitCode.BAD_CONFIG, "BadData": ExitCode.BAD_DATA}.get(
            view.reason, ExitCode.SOFTWARE
        )


class WaitTimeout(ClusterError):
    """The deadline of a wait passed."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as the cluster shows it."""

    name: str
    namespace: str
    phase: str
    attempt: int
    restarts: int
    disruptions: int
    progress: Mapping[str, Any]
    summary: Mapping[str, Any]
    reason: str
    """Of the condition that explains the phase; so is `message`."""
    message: str
    created: str
    raw: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        return self.phase in ("Complete", "Failed")

    @property
    def deleted(self) -> bool:
        """Somebody has deleted it, and something keeps it: it makes no step any more."""
        return "deletionTimestamp" in self.raw["metadata"]

    @property
    def uid(self) -> str:
        """Tells it from another job of its name, before it or after it."""
        return str(self.raw["metadata"].get("uid", ""))

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "JobView":
        status, _ = known_status(raw)
        conditions = {c["type"]: c for c in status.get("conditions", ())}
        explaining = [conditions[kind] for kind in _CONDITIONS if kind in conditions]
        why = next((c for c in explaining if c["status"] == "True"), explaining[-1] if explaining else {})
        return cls(
            name=raw["metadata"]["name"],
            namespace=raw["metadata"]["namespace"],
            phase=status.get("phase", "Pending"),
            attempt=status.get("attempt", 0),
            restarts=status.get("restarts", 0),
            disruptions=status.get("disruptions", 0),
            progress=status.get("progress", {}),
            summary=status.get("summary", {}),
            reason=why.get("reason", ""),
            message=printable(why.get("message") or ""),
            created=raw["metadata"].get("creationTimestamp", ""),
            raw=raw,
        )


class BagpipeClient:
    """BagpipeJobs of one namespace."""

    def __init__(
        self, namespace: str | None = None, *, context: str | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Connects as kubectl does: `$KUBECONFIG`, else the pod's own account.

        Args:
            clock: waits between two requests to the API server.

        Raises:
            ConfigError: the extra is not installed, or nothing says where the cluster is.
        """
        try:
            import kubernetes
        except ImportError:
            raise ConfigError(
                "`bagpipe job` needs the Kubernetes client: pip install 'bagpipe-train[cluster]'"
            ) from None
        api, found = connect(kubernetes, context)
        self.namespace = namespace or found
        self._clock = clock
        self._errors = kubernetes.client.exceptions.ApiException
        self._jobs: Any = kubernetes.client.CustomObjectsApi(api)
        self._core: Any = kubernetes.client.CoreV1Api(api)

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────

    def submit(self, job_file: str | Path, overrides: tuple[str, ...] = (), *, name: str | None = None) -> str:
        """Check the file as `bagpipe run` does, then create the job; returns its name."""
        return self.create(read_job_file(Path(job_file), overrides), name=name)

    def create(self, file: JobFile, *, name: str | None = None, installed: Installation | None = None) -> str:
        """Create a job that has been read; returns its name.

        Args:
            installed: the installation that will run the job, where that is known (`read_installation`).

        Raises:
            ConfigError: the file names another namespace than this client's, the job's run is known to fail
                (`check_document`), or Kubernetes would refuse its pods or never start them (`check_pods`), or the
                cluster refuses the job.
            UserCodeError: the model's file is here, and is no Python.
        """
        check_document(file.job.spec, elsewhere=True)
        check_pods(file, installed)
        wanted = file.job.metadata.namespace
        if wanted not in (None, self.namespace):
            raise ConfigError(
                f"metadata.namespace: the job belongs into {wanted}, but this client works in {self.namespace}; "
                f"use a client of namespace {wanted}, or remove the namespace from the job"
            )
        metadata = {**(file.document.get("metadata") or {}), "name": name or file.job.metadata.name}
        metadata["namespace"] = self.namespace
        with self._told(metadata["name"]):
            made = self._jobs.create_namespaced_custom_object(
                *self._where(), body={**file.document, "metadata": metadata}, _request_timeout=REQUEST_SECONDS
            )
        return str(made["metadata"]["name"])

    def get(self, name: str) -> JobView:
        return self._got(name, REQUEST_SECONDS)

    def _got(self, name: str, seconds: float) -> JobView:
        """As `get`, by a request that ends after so many seconds."""
        with self._told(name):
            raw = self._jobs.get_namespaced_custom_object(*self._where(), name, _request_timeout=seconds)
        return self._view(raw)

    def _view(self, raw: Any) -> JobView:
        """Raises ClusterError where something else than an API server answered: a proxy, or a page to log in."""
        meta = raw.get("metadata") if isinstance(raw, Mapping) else None
        if not isinstance(meta, Mapping) or not {"name", "namespace"} <= meta.keys():
            raise ClusterError(f"expected a job from the API server, found {str(raw)[:60]!r}: is it behind a proxy?")
        return JobView.of(raw)

    def list(self) -> "list[JobView]":
        """All jobs of the namespace, sorted by name."""
        with self._told(PLURAL):
            raw = self._jobs.list_namespaced_custom_object(*self._where(), _request_timeout=REQUEST_SECONDS)
        items = raw.get("items") if isinstance(raw, Mapping) else None
        if not isinstance(items, list):
            raise ClusterError(f"expected a list from the API server, found {str(raw)[:60]!r}: is it behind a proxy?")
        return sorted((self._view(item) for item in items), key=lambda view: view.name)

    def suspend(self, name: str) -> None:
        """Stop at a checkpoint and free every pod."""
        self._patch(name, {"runPolicy": {"suspend": True}})

    def resume(self, name: str) -> None:
        """Go on from the last checkpoint."""
        self._patch(name, {"runPolicy": {"suspend": False}})

    def scale(self, name: str, trainers: int) -> None:
        """Restart from a checkpoint with another number of trainers."""
        self._patch(name, {"trainers": {"replicas": trainers}})

    def delete(self, name: str) -> None:
        with self._told(name):
            self._jobs.delete_namespaced_custom_object(*self._where(), name, _request_timeout=REQUEST_SECONDS)

    def wait(
        self, name: str, *, timeout_seconds: float | None = None, on_change: Callable[[JobView], None] | None = None
    ) -> JobView:
        """Wait until the job is complete; `on_change` is called with every change on the way.

        An API server that does not answer ends no wait before two minutes have passed.

        Raises:
            JobFailed: it failed.
            WaitTimeout: it did not end in time.
            JobNotFound, NotAllowed, ClusterError: it cannot be read, or was deleted.
        """
        last = first = None
        end = None if timeout_seconds is None else self._clock.now() + timeout_seconds
        heard = self._clock.now()
        while True:
            left = REQUEST_SECONDS if end is None else min(REQUEST_SECONDS, max(end - self._clock.now(), 1.0))
            try:
                view = self._got(name, left)
            except (JobNotFound, NotAllowed):
                raise
            except ClusterError:
                late = self._clock.now() - heard >= PATIENCE_SECONDS or (end is not None and self._clock.now() >= end)
                if late:
                    raise
                self._clock.pause(POLL_SECONDS)
                continue
            heard = self._clock.now()
            first = first or view
            _same(first, view)
            if on_change is not None and view.raw.get("status") != last:
                last = view.raw.get("status")
                on_change(view)
            if view.phase == "Complete":
                return view
            if view.phase == "Failed":
                raise JobFailed(view)
            if view.deleted:
                raise ClusterError(f"job {name} was deleted before it had ended: see `bagpipe job describe {name}`")
            if end is not None and self._clock.now() >= end:
                raise WaitTimeout(f"job {name} is {view.phase} after {timeout_seconds:g} s; {view.message}")
            self._clock.pause(POLL_SECONDS)

    def describe(self, name: str) -> str:
        """The job's story in one page: phase, progress, timeline, pods, last failure, conditions, result."""
        view = self.get(name)
        raw = view.raw
        about = f"involvedObject.kind={KIND},involvedObject.uid={view.uid}"

        def events() -> Any:
            return items_of(self._listed(self._core.list_namespaced_event, field_selector=about))

        def pods() -> Any:
            return items_of(self._listed(self._core.list_namespaced_pod, label_selector=f"bagpipe.dev/job={name}"))

        unread: list[str] = []
        parts: list[Any] = []
        for read in (events, pods, lambda: self._kept(view)):
            try:
                with self._told(name):
                    parts.append(read())
            except NotAllowed as error:  # Who may see the job, and not all of this, sees the rest.
                unread.append(str(error))
                parts.append({})
        return tell(raw, parts[0], parts[1], dt.datetime.now(dt.UTC), parts[2], unread)

    def _listed(self, listing: Callable[..., Any], **options: str) -> Any:
        return listing(self.namespace, **options, _preload_content=False, _request_timeout=REQUEST_SECONDS)

    # ── logs ─────────────────────────────────────────────────────────────────────────────────────

    def logs(
        self,
        name: str,
        *,
        role: str = "oracle",
        index: int = 0,
        follow: bool = False,
        tail: int | None = None,
        previous: bool = False,
    ) -> Iterator[str]:
        """Lines of one process's log; if the job has failed and its pods are gone, the last lines the operator kept.

        Args:
            role: `oracle`, `server` or `trainer`.
            index: shard of a server, rank of a trainer.
            follow: wait for the process's pod, and go on with the next pod when it is replaced.
            tail: only so many of the last lines; None: all.
            previous: the log of the container before its last restart.

        Raises:
            JobNotFound: there is no such job, or neither a pod nor kept lines of this process.
            ClusterError: the process has not started, and nobody asked to wait for that.
        """
        pods = PodLogs(self._core, self.namespace, self._told)
        if follow:
            yield from self._followed(pods, name, role, index, tail, previous)
            return
        view = self.get(name)
        pod = pods.newest(name, role, index)
        if pod is None:
            lines = self._kept(view).get(f"{role}-{index}.log")
            if lines is None:
                raise JobNotFound(f"job {name} has no pod of {role} {index} now; it is {view.phase}")
            yield from last_lines(lines, tail)
        elif not has_log(pod):
            why = waits_for(pod)
            raise ClusterError(f"{role} {index} of job {name} has not started{why}; --follow waits until it has")
        else:
            for line in pods.lines(pod, tail_lines=tail, previous=previous):
                yield line.decode(errors="replace")

    def _followed(
        self, pods: PodLogs, name: str, role: str, index: int, tail: int | None, previous: bool
    ) -> Iterator[str]:
        """As `logs` that are followed."""
        first, at = None, Followed(cut=False)
        pod: Mapping[str, Any] | None = None
        read: set[tuple[str, int]] = set()
        """Processes whose log was read to its end."""
        failing: float | None = None
        while True:
            view = self.get(name)
            first = first or view
            _same(first, view)
            before, pod = pod, pods.newest(name, role, index, read, pod)
            if pod is None and (view.finished or view.deleted):
                yield from last_lines("" if read or at.since else self._kept(view).get(f"{role}-{index}.log", ""), tail)
                return
            if pod is None or not has_log(pod):
                pod = before
                self._clock.pause(POLL_SECONDS)
                continue
            if before is None or before["metadata"]["uid"] != pod["metadata"]["uid"]:
                at = Followed(cut=tail is not None)
            # Lines may have come between the end of a stream and that of the process, if it had not ended before.
            last = previous or view.finished or view.deleted or has_ended(pod)
            try:
                for line in pods.further(pod, at, tail, previous=previous, last=last):
                    failing = None
                    yield line.decode(errors="replace")
            except NotAllowed:
                raise
            except ClusterError:  # The pod was deleted just now, or its node or the API server is away.
                failing = self._clock.now() if failing is None else failing
                if self._clock.now() - failing >= PATIENCE_SECONDS:
                    raise
                self._clock.pause(POLL_SECONDS)
                continue
            failing, tail = None, None  # Only the first process is cut short.
            if last:
                read.add(identity(pod))
            else:
                self._clock.pause(at.pause_seconds)

    def _kept(self, view: JobView) -> dict[str, str]:
        """Last lines of the pods of a failed job that are gone, by process; empty: none were kept."""
        name = known_status(view.raw)[0].get("logs", {}).get("configMap")
        if not name:
            return {}
        try:
            with self._told(name):
                answer = self._core.read_namespaced_config_map(
                    name, self.namespace, _preload_content=False, _request_timeout=REQUEST_SECONDS
                )
        except JobNotFound:  # Somebody has deleted it; the job is there.
            return {}
        return data_of(answer)

    # ── below ────────────────────────────────────────────────────────────────────────────────────

    def _told(self, what: str | None) -> AbstractContextManager[None]:
        return told(self._errors, self.namespace, what)

    def _where(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL

    def _patch(self, name: str, spec: Mapping[str, Any]) -> None:
        with self._told(name):
            self._jobs.patch_namespaced_custom_object(
                *self._where(), name, {"spec": spec}, _request_timeout=REQUEST_SECONDS
            )


def _same(first: JobView, now: JobView) -> None:
    """Raises ClusterError if a job was deleted and another one of its name was made meanwhile."""
    if first.uid != now.uid:
        since = "another job of that name has been made since; give the command again for that one"
        raise ClusterError(f"job {first.name} was deleted, and {since}")

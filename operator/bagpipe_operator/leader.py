"""Lease election: who may write. Pure rule first, the loop around it below.

As in client-go: a lease is judged by the moment at which *we* saw it change, never by its own
timestamps, so that clocks need not agree. The holder stops writing well before others may take over
(the fence), and a process that lost the lease ends: nothing of its memory can be wrong afterwards.

There is one lease for each class of operators, wherever they are installed, so that of two installations of a class
one waits. That is no stand-by but a mistake in the installation, so it is told: see `Election.refused_by`.
"""

import asyncio
import datetime as dt
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bagpipe_operator import event_body, names, times
from bagpipe_operator.api_error import ApiError, Outcome
from bagpipe_operator.cluster import Cluster, path
from bagpipe_operator.names import Reason
from bagpipe_operator.settings import Settings

log = logging.getLogger(__name__)

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass
class Sighting:
    """The lease as last seen, and when it last changed by our own clock."""

    holder: str = ""
    release: str = ""
    """Installation of the holder; empty: it does not say."""
    renewed: str = ""
    changed_at: float = 0.0

    def see(self, lease: Mapping[str, Any], now: float) -> None:
        """Take note of the lease as it was read at `now` (seconds of our own clock)."""
        spec = lease.get("spec") or {}
        holder, renewed = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
        self.release = ((lease.get("metadata") or {}).get("annotations") or {}).get(names.ANNOTATION_RELEASE, "")
        if (holder, renewed) != (self.holder, self.renewed):
            self.holder, self.renewed, self.changed_at = holder, renewed, now

    def free(self, identity: str, duration: float, now: float) -> bool:
        """Whether `identity` may take it."""
        return self.holder in ("", identity) or now >= self.changed_at + duration


class Election:
    """Holds the lease, or waits for it."""

    def __init__(self, cluster: Cluster, identity: str, settings: Settings) -> None:
        self._cluster, self._identity, self._settings = cluster, identity, settings
        self._seen = Sighting()
        self._told = ""
        self._held_until = 0.0

    @property
    def refused_by(self) -> str:
        """Another installation that serves our class; empty: none does, as far as we saw."""
        other = self._seen.release if self._seen.holder not in ("", self._identity) else ""
        return other if other != self._settings.release else ""

    def may_write(self) -> bool:
        """Whether we hold the lease; false a third of its duration before another process may take it."""
        return time.monotonic() < self._held_until

    async def acquire(self) -> None:
        """Wait until the lease is ours."""
        while not await self._try():
            if self.refused_by != self._told:
                await self._tell()
            await asyncio.sleep(self._settings.renew_seconds / 2)

    async def _tell(self) -> None:
        """Once for each installation that is in the way: in the log, and in an event about our own pod."""
        self._told = self.refused_by
        if not self._told:
            return
        whose = f"jobs of class {self._settings.operator_class!r}" if self._settings.operator_class else "jobs"
        words = (
            f"{whose} are run by the installation {self._told}; {self._settings.release} waits until that is gone. "
            "Uninstall one of them, or give this one an operatorClass of its own"
        )
        log.error("another installation leads", extra={"said": words})
        namespace, _, _ = self._settings.release.partition("/")
        pod = os.environ.get("POD_NAME")
        if not pod:
            return
        involved = {"apiVersion": "v1", "kind": "Pod", "name": pod, "namespace": namespace}
        body = event_body.about(involved, "Warning", Reason.OTHER_INSTALLATION, words, times.now())
        try:
            await self._cluster.create("Event", namespace, body)
        except ApiError as error:
            log.warning("event not posted", extra={"error": str(error)})

    async def keep(self) -> None:
        """Renew the lease until it is lost; returns then."""
        while self.may_write():
            await asyncio.sleep(self._settings.renew_seconds)
            await self._try()
        log.error("lease lost", extra={"lease": self._settings.lease_name, "identity": self._identity})

    async def release(self) -> None:
        """Give the lease back, so that another process may take it at once."""
        if not self.may_write():
            return
        self._held_until = 0.0
        try:
            lease = await self._cluster.get(self._path())
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._cluster.replace("Lease", self._settings.lease_namespace, self._settings.lease_name, lease)
        except ApiError as error:
            log.warning("lease not released", extra={"error": str(error)})

    def _path(self) -> str:
        return path("Lease", self._settings.lease_namespace, self._settings.lease_name)

    async def _try(self) -> bool:
        """One attempt to take or renew it; true if it is ours now."""
        asked = time.monotonic()
        settings = self._settings
        try:
            lease = await self._read()
            if lease is None:
                await self._cluster.create("Lease", settings.lease_namespace, self._body({}))
            else:
                self._seen.see(lease, asked)
                if not self._seen.free(self._identity, settings.lease_seconds, asked):
                    return False
                await self._cluster.replace("Lease", settings.lease_namespace, settings.lease_name, self._body(lease))
        except ApiError as error:
            if error.outcome not in (Outcome.CHANGED, Outcome.EXISTS):  # Another replica was faster.
                log.warning("lease not reached", extra={"error": str(error)})
            return False
        # From before the request: its answer may have taken long. A third of the time is the fence.
        self._held_until = asked + settings.lease_seconds * 2 / 3
        return True

    async def _read(self) -> dict[str, Any] | None:
        try:
            return await self._cluster.get(self._path())
        except ApiError as error:
            if error.outcome is Outcome.ABSENT:
                return None
            raise

    def _body(self, lease: Mapping[str, Any]) -> dict[str, Any]:
        now = dt.datetime.now(dt.UTC).strftime(_TIME)
        old = lease.get("spec") or {}
        mine = old.get("holderIdentity") == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._settings.lease_seconds),
            "acquireTime": old.get("acquireTime", now) if mine else now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (not mine),
        }
        metadata = dict(lease.get("metadata") or {})
        metadata |= {"name": self._settings.lease_name, "namespace": self._settings.lease_namespace}
        release = {names.ANNOTATION_RELEASE: self._settings.release}
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **release}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}

"""After a watch has listed its objects once more, what has gone meanwhile is dropped, for nobody tells of it.

A watch lists again when the API server no longer knows what happened since the watch last heard of it, as after a
restart of the API server. A list has what is there. A deletion that fell into the gap is in no list and in no watch,
and a pod that seems to live would be waited for without end.
"""

import asyncio
import logging
from collections.abc import Collection

from bagpipe_operator.api_error import ApiError, Outcome
from bagpipe_operator.cluster import Cluster
from bagpipe_operator.heads import JobKey
from bagpipe_operator.listing import Listed, names
from bagpipe_operator.store import Store
from bagpipe_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
_LONGEST_SECONDS = 600.0
"""Also where nothing was listed again, as far as we know: a list without objects is told by nobody either."""


class Relists:
    """Remembers that something was listed again, and compares the store with what there is."""

    def __init__(self, cluster: Cluster, store: Store, queue: WorkQueue[JobKey], kinds: Collection[Listed]) -> None:
        self._cluster, self._store, self._queue = cluster, store, queue
        self._kinds = tuple(kinds)
        self._again = False

    def listed(self) -> None:
        """An object was told as one of a list, after all had been known.

        What cuts one watch off cuts off others, and a list that is empty by now tells no object: all are compared.
        """
        self._again = True

    async def follow(self) -> None:
        """Compare soon after something was listed again, and now and then; never returns."""
        loop = asyncio.get_running_loop()
        compared = loop.time()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._again or loop.time() - compared > _LONGEST_SECONDS:
                await self.compare()
                compared = loop.time()

    async def compare(self) -> None:
        """Drop what has gone without a word, and look at the jobs that it belonged to."""
        self._again = False
        for listed in self._kinds:
            try:
                there = await names(self._cluster, listed)
            except ApiError as error:
                if error.outcome is not Outcome.ABSENT:  # A kind that is not served has no objects.
                    log.warning("names not listed", extra={"kind": listed.kind, "error": str(error)})
                    self._again = True
                continue
            for raw in self._store.gone(listed.kind, there.by_uid.keys(), there.version):
                key = self._store.remove(raw)
                facts = {"object": f"{raw['kind']}/{raw['metadata']['name']}", "job": "/".join(key or ())}
                log.info("gone without a word of its watch", extra=facts)
                if key is not None:
                    self._queue.add(key)

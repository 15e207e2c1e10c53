"""When have the watches told of everything that there was when they began? Before that nothing is decided.

A job that is looked at before all its children are known seems to have lost them. So the names of all objects are
listed beside the watches, and every object of this list is waited for. One that is listed and has gone before its watch
begins is never told of, so names are listed once more where the wait makes no progress.

kopf has a barrier of its own, which comes with its indexes. It wakes every object that waits whenever another one has
come, which is quick for hundreds of objects; of the 57,000 of 5,000 jobs a few thousand had come after four minutes.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping

from bagpipe_operator import names as names_of_kinds
from bagpipe_operator.api_error import ApiError, Outcome
from bagpipe_operator.cluster import Cluster
from bagpipe_operator.listing import Listed, names
from bagpipe_operator.podstate import Raw

log = logging.getLogger(__name__)

_STILL_SECONDS, _LONGEST_SECONDS = 2.0, 60.0
"""Seconds without any progress, after which names are listed again: at first, and at most."""
_LOOK_SECONDS = 0.1
_NAMED = 5


class Beginning:
    """Collects what the watches tell until that is everything."""

    def __init__(self, cluster: Cluster, kinds: Collection[Listed]) -> None:
        self._cluster, self._kinds = cluster, tuple(kinds)
        self._told: set[str] | None = set()
        """UIDs; None once everything has been told of."""

    @property
    def over(self) -> bool:
        """Whether everything has been told of."""
        return self._told is None

    def told(self, raw: Raw) -> None:
        """An object, as a watch tells it: there, changed or gone."""
        if self._told is not None:
            self._told.add(raw["metadata"].get("uid", ""))

    async def complete(self, without: Collection[str] = ()) -> None:
        """Wait until all objects that there are have been told of; a log line says now and then which have not.

        Args:
            without: kinds that the API server did not know when the watches began, so that nobody watches them.
        """
        self._kinds = tuple(listed for listed in self._kinds if listed.kind not in without)
        pause, told = _STILL_SECONDS, self._told
        while told is not None:
            there = await self._there()
            if there is None:
                continue
            missing = await self._still_missing(there, told, pause)
            if not missing:
                log.info("all objects are known", extra={"objects": len(told)})
                self._told = told = None
                return
            among = sorted(there[uid] for uid in missing)[:_NAMED]
            facts = {"missing": len(missing), "of": len(there), "among_them": ", ".join(among)}
            log.warning("objects are not known yet", extra=facts)
            pause = min(2 * pause, _LONGEST_SECONDS)

    async def _still_missing(self, there: Mapping[str, str], told: set[str], still: float) -> set[str]:
        """Those that have not been told of when all have, or when none has been for `still` seconds."""
        loop = asyncio.get_running_loop()
        missing, since = there.keys() - told, loop.time()
        while missing and loop.time() - since < still:
            await asyncio.sleep(_LOOK_SECONDS)
            if left := missing - told:
                since = loop.time() if len(left) < len(missing) else since
            missing = left
        return missing

    async def _there(self) -> dict[str, str] | None:
        """Kind and name of all objects by UID; None: the API server does not say, which kopf's watches meet too."""
        there: dict[str, str] = {}
        for listed in self._kinds:
            try:
                there |= (await names(self._cluster, listed)).by_uid
            except ApiError as error:
                if error.outcome is Outcome.ABSENT and listed.kind != names_of_kinds.KIND:  # It is not served.
                    continue
                log.warning("names not listed", extra={"kind": listed.kind, "error": str(error)})
                await asyncio.sleep(_STILL_SECONDS)
                return None
        return there

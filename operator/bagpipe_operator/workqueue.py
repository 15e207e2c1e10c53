"""A queue of keys: each at most once, never two workers on one, later where asked, with back-off.

A key that is added while it is being worked on comes again afterwards: the work may have begun before the event that
added it. A key that comes again and again for long is slowed to once a second, so that a fight with another writer
costs at most one write a second. Time comes from the event loop.
"""

import asyncio
import random
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_FIRST, _LONGEST = 0.2, 60.0
_PER_SECOND = 1.0


class WorkQueue(Generic[K]):
    """Keys to reconcile."""

    def __init__(self, burst: float = 60) -> None:
        """`burst`: how often a key may come before it has to wait; a job's own life is over sooner than that."""
        self._burst = burst
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: dict[K, float] = {}
        """Keys in `_ready`, and since when."""
        self._working: dict[K, float] = {}
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._left: dict[K, tuple[float, float]] = {}
        """How often a key may still come at once, and since when."""
        self._not_before: dict[K, float] = {}
        """Keys for which the API server has asked us to wait, and until when."""
        self._moved_at = 0.0
        """When a worker last took a key or gave one back."""

    def add(self, key: K) -> None:
        """Queue a key for the next free worker; one that has come too often (`burst`) waits a while first."""
        if key in self._working:
            self._again.add(key)
        elif (asked := self._not_before.get(key, 0.0) - asyncio.get_running_loop().time()) > 0:
            self.add_after(key, asked)
        elif (left := self._allowance(key)) < 1:
            self.add_after(key, (1 - left) / _PER_SECOND + 0.001)
        elif key not in self._waiting:
            self._waiting[key] = asyncio.get_running_loop().time()
            self._ready.put_nowait(key)

    def _allowance(self, key: K) -> float:
        left, since = self._left.get(key, (self._burst, 0.0))
        return min(left + (asyncio.get_running_loop().time() - since) * _PER_SECOND, self._burst)

    def add_after(self, key: K, seconds: float) -> None:
        """Queue a key in `seconds`, unless it is due earlier already."""
        loop = asyncio.get_running_loop()
        when = loop.time() + max(seconds, 0.0)
        timer = self._timers.get(key)
        if timer is not None and not timer.cancelled() and loop.time() < timer.when() <= when:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_at(when, self._due, key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def get(self) -> K:
        """Wait for the next key; its worker gives it back by `done` or `failed`."""
        key = await self._ready.get()
        del self._waiting[key]
        self._not_before.pop(key, None)
        self._left[key] = (self._allowance(key) - 1, asyncio.get_running_loop().time())
        self._working[key] = self._moved_at = asyncio.get_running_loop().time()
        return key

    def done(self, key: K) -> None:
        """Give back a key whose work went well; its back-off begins anew."""
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: K, at_least: float = 0.0) -> float:
        """Give back a key whose work failed: it comes again after a delay that grows each time; returns it in seconds.

        Args:
            at_least: seconds for which nothing brings the key back, not even an event about its job.
        """
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay: float = min(_FIRST * 2 ** min(count - 1, 20), _LONGEST) * random.uniform(0.8, 1.2)
        delay = max(delay, min(at_least, _LONGEST))
        if at_least:
            self._not_before[key] = asyncio.get_running_loop().time() + min(at_least, _LONGEST)
        self._release(key)
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """Drop everything about a key whose job is gone."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        self._failures.pop(key, None)
        self._left.pop(key, None)
        self._not_before.pop(key, None)

    def _release(self, key: K) -> None:
        del self._working[key]
        self._moved_at = asyncio.get_running_loop().time()
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    @property
    def depth(self) -> int:
        """How many keys wait for a worker."""
        return len(self._waiting)

    def stalled(self) -> float:
        """Seconds for which there was work and no worker took or gave back a key."""
        since = [*self._waiting.values(), *self._working.values()]
        now = asyncio.get_running_loop().time()
        return now - max(self._moved_at, min(since)) if since else 0.0

"""The log of one process of a job, pod after pod."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

from bagpipe.client.answers import items_of
from bagpipe.client.followed import Followed, read_log, whole_lines
from bagpipe.client.pods import attempt_of, identity
from bagpipe.client.story import index_of
from bagpipe.errors import ConfigError

REQUEST_SECONDS = 30.0


class PodLogs:
    """Pods of one namespace, and what their processes have written."""

    def __init__(self, core: Any, namespace: str, told: Callable[[str], AbstractContextManager[None]]) -> None:
        """Sends no request so far.

        Args:
            core: the package's CoreV1Api.
            told: within it the errors of requests about a job or a pod of that name become lines.
        """
        self._core, self._namespace, self._told = core, namespace, told

    def newest(
        self,
        name: str,
        role: str,
        index: int,
        read: Collection[tuple[str, int]] = (),
        now: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any] | None:
        """The process's pod of the newest attempt.

        Args:
            read: processes that are passed over.
            now: the pod whose log is followed: it comes first, and no older one after it.
        """
        selector = f"bagpipe.dev/job={name},bagpipe.dev/role={role}"
        with self._told(name):
            answer = self._core.list_namespaced_pod(
                self._namespace, label_selector=selector, _preload_content=False, _request_timeout=REQUEST_SECONDS
            )
        pods = [p for p in items_of(answer) if index_of(p) == index and identity(p) not in read]
        if now is not None:
            pods = [p for p in pods if attempt_of(p) >= attempt_of(now)]
            pods = [p for p in pods if p["metadata"]["uid"] == now["metadata"]["uid"]] or pods
        return max(pods, key=attempt_of, default=None)

    def lines(
        self,
        pod: Mapping[str, Any],
        *,
        follow: bool = False,
        since: str | None = None,
        rest: bool = True,
        **options: Any,
    ) -> Iterator[bytes]:
        """Lines of the log that the pod's process writes; see `read_log` and `whole_lines`."""
        name = pod["metadata"]["name"]
        options = {key: value for key, value in options.items() if value is not None}
        options |= {"container": "bagpipe", "follow": follow}
        timeout = (REQUEST_SECONDS, None if follow else REQUEST_SECONDS)
        with self._told(name):  # Also while it is read: the connection may be cut in the middle.
            answer = read_log(self._core, name, self._namespace, since, options, timeout)
            yield from whole_lines(answer.stream(), rest=rest)

    def further(
        self, pod: Mapping[str, Any], at: Followed, tail: int | None, *, previous: bool, last: bool
    ) -> Iterator[bytes]:
        """Lines of a pod's log that have not been shown; `last`: nobody asks for more of this process."""
        if at.process not in (None, identity(pod)):  # It was restarted; what the one before it said at its end:
            with suppress(ConfigError):  # Its log may be gone.
                yield from at.new(self.lines(pod, timestamps=True, since=at.since, previous=True))
        at.begin(identity(pod))
        tail = None if at.since else tail
        if tail == 0:  # Where the log ends now; what comes from here on is new.
            deque(at.new(self.lines(pod, timestamps=True, tail_lines=1, previous=previous)), maxlen=0)
            tail = None
        options: dict[str, Any] = {"timestamps": True, "tail_lines": tail, "previous": previous}
        yield from at.new(self.lines(pod, follow=True, since=at.since, rest=last, **options))

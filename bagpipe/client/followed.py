"""Where the reading of one pod's log has come to, so that it can go on after its stream has ended.

A proxy's idle limit ends a stream while the process runs. It is asked for again from the time of the last lines, and
what has been shown is dropped.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0


def read_log(
    core: Any,
    pod: str,
    namespace: str,
    since: str | None,
    options: Mapping[str, Any],
    timeout: tuple[float, float | None],
) -> Any:
    """A stream of one pod's log.

    Args:
        core: the package's CoreV1Api.
        since: a time, as of a line.
        options: by their names in the package.
        timeout: seconds to connect, and between two pieces.
    """
    if since is None:
        return core.read_namespaced_pod_log(pod, namespace, **options, _preload_content=False, _request_timeout=timeout)
    names = {"tail_lines": "tailLines"}
    return core.api_client.call_api(  # The method above does not know `sinceTime`.
        "/api/v1/namespaces/{namespace}/pods/{name}/log",
        "GET",
        path_params={"namespace": namespace, "name": pod},
        query_params=[("sinceTime", since), *((names.get(key, key), value) for key, value in options.items())],
        header_params={"Accept": "*/*"},
        auth_settings=["BearerToken"],
        _return_http_data_only=True,
        _preload_content=False,
        _request_timeout=timeout,
    )


def whole_lines(pieces: Iterable[bytes], *, rest: bool) -> Iterator[bytes]:
    """Lines without their ends.

    Args:
        rest: also what comes after the last end of a line.
    """
    begun: list[bytes] = []  # Pieces of a line whose end has not come: it may be as long as the log.
    for piece in pieces:
        *whole, after = piece.split(b"\n")
        if whole:
            whole[0], begun = b"".join((*begun, whole[0])), []
            yield from whole
        begun.append(after)
    if rest and (last := b"".join(begun)):
        yield last


class Followed:
    """What has been shown of one pod's log, whose lines begin with their times."""

    def __init__(self, *, cut: bool) -> None:
        """`cut`: lines before the first one were left out, and stay so."""
        self.process: Any = None
        """Whose lines were the last ones; None: there have been none."""
        self._cut = cut
        self._shown: dict[bytes, Counter[int]] = {}
        """Hashes of the lines of the two newest seconds: the API server goes on from a whole second, and streams of one
        process may be a moment out of order."""
        self._without: Counter[int] = Counter()
        """Hashes of lines that have no time, as of a node that gives none."""
        self._first = b""
        self._new = False
        self.pause_seconds = FIRST_PAUSE_SECONDS
        """How long to wait before the stream is asked for again."""

    def begin(self, process: Any) -> None:
        """The next lines are of this process: a server's process is restarted within its pod."""
        if process != self.process:
            self.process, self._without = process, Counter()

    @property
    def since(self) -> str | None:
        """The time to ask from, a whole second; None: from the beginning."""
        return min(self._shown).decode() if self._shown else None

    def new(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Of a stream that was asked for from `since`: the lines that have not been shown, without their times."""
        self._new = False
        shown = {second: Counter(hashes) for second, hashes in self._shown.items()}
        without = Counter(self._without)
        first = self._first if self._cut and shown else b""
        for line in lines:
            stamp, _, text = line.partition(b" ")
            time = _STAMP.fullmatch(stamp)
            if not time:
                known, kept, text = without, self._without, line
            elif stamp < first:
                continue
            else:
                second = b"".join(time.groups())
                known, kept = shown.get(second, Counter()), self._kept(second)
                self._first = self._first or stamp
            mark = hash(line)
            if known[mark]:
                known[mark] -= 1
                continue
            kept[mark] += 1
            self._new = True
            yield text
        self.pause_seconds = FIRST_PAUSE_SECONDS if self._new else min(self.pause_seconds * 2, LONGEST_PAUSE_SECONDS)

    def _kept(self, second: bytes) -> Counter[int]:
        found = self._shown.setdefault(second, Counter())
        if len(self._shown) > 2:
            del self._shown[min(self._shown)]
        return found

"""One pod as the client sees it: which process it is, whether that has a log, and what it waits for."""

from collections.abc import Mapping
from typing import Any


def attempt_of(pod: Mapping[str, Any]) -> int:
    """By its label, which anybody may have changed."""
    label = str(pod["metadata"]["labels"].get("bagpipe.dev/attempt"))
    return int(label) if label.isdecimal() else -1


def _main_container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Status of the process's own container: a pod template may have added others."""
    listed = (pod.get("status") or {}).get("containerStatuses") or [{}]
    return next((c for c in listed if c.get("name") == "bagpipe"), listed[0])


def waits_for(pod: Mapping[str, Any]) -> str:
    """Why its container waits, in brackets; empty: nobody says."""
    reason = ((_main_container(pod).get("state") or {}).get("waiting") or {}).get("reason")
    return f" ({reason})" if reason else ""


def identity(pod: Mapping[str, Any]) -> tuple[str, int]:
    """Names one process: a pod and its restart, because a server is restarted within its pod."""
    return pod["metadata"]["uid"], _main_container(pod).get("restartCount", 0)


def last_lines(text: str, lines: int | None) -> list[str]:
    every = text.splitlines()
    return every if lines is None else every[len(every) - min(lines, len(every)) :]


def has_log(pod: Mapping[str, Any]) -> bool:
    """Whether its process has started, now or before its last end: one that waits to start again has a log too."""
    main = _main_container(pod)
    state, last = main.get("state") or {}, main.get("lastState") or {}
    return "running" in state or "terminated" in state or "terminated" in last


def has_ended(pod: Mapping[str, Any]) -> bool:
    """Whether the process that the pod tells of writes no more lines; another may start in its place."""
    state = _main_container(pod).get("state") or {}
    return "running" not in state and has_log(pod)

"""One event as the API server takes it: news about an object, for `kubectl describe`."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from bagpipe_operator import names, times

_LONGEST = 1024
"""Characters of a message that the API server takes."""


def job(namespace: str, name: str, uid: str) -> dict[str, str]:
    """Reference to a `BagpipeJob`, as `about` takes it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": name,
        "namespace": namespace,
        "uid": uid,
    }


def about(involved: Mapping[str, str], kind: str, reason: str, message: str, now: dt.datetime) -> dict[str, Any]:
    """The body of a new Event.

    Args:
        involved: reference to the object: apiVersion, kind, name, namespace, and its UID where that is known.
        kind: `Normal` or `Warning`.
        reason: one word for machines.
        message: for people; what is too long is cut.
        now: when it happened.
    """
    when = times.text(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{involved['name']}.", "namespace": involved["namespace"]},
        "involvedObject": dict(involved),
        "type": kind,
        "reason": reason,
        "message": message[:_LONGEST],
        "source": {"component": names.MANAGER},
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }

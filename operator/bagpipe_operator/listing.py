"""The names of all objects of a kind that is watched, without anything else of them."""

from dataclasses import dataclass

from bagpipe_operator.api_error import ApiError
from bagpipe_operator.cluster import Cluster

_AT_ONCE = 500
"""Names in one answer of the API server."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A kind of objects that is watched."""

    kind: str
    urls: tuple[str, ...]
    """Paths of the collections: one for all namespaces, or one for each that is served."""
    selector: str = ""
    """Labels by which they are chosen."""


@dataclass(frozen=True, slots=True)
class Names:
    """What there was of a kind at some moment."""

    by_uid: dict[str, str]
    """Kind, namespace and name, for people, by UID."""
    version: int
    """Resource version of that moment. An object that is not listed, and was not seen in a later version, has gone."""


async def names(cluster: Cluster, listed: Listed) -> Names:
    """List a kind, in pages.

    Raises:
        ApiError: it cannot be read.
    """
    try:
        return await _names(cluster, listed)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # An answer that is no list of objects.
        raise ApiError(0, f"{listed.kind}: expected a list of objects, found {error!r}") from error


async def _names(cluster: Cluster, listed: Listed) -> Names:
    found: dict[str, str] = {}
    versions = []
    for url in listed.urls:
        asked = {"limit": str(_AT_ONCE)} | ({"labelSelector": listed.selector} if listed.selector else {})
        more: dict[str, str] = {}
        while True:
            page = await cluster.names(url, **asked, **more)
            for raw in page.get("items") or ():
                meta = raw["metadata"]
                where = f"{meta['namespace']}/" if "namespace" in meta else ""
                found[meta.get("uid", "")] = f"{listed.kind} {where}{meta['name']}"
            meta = page.get("metadata") or {}
            versions.append(int(meta.get("resourceVersion") or 0))
            more = {"continue": meta.get("continue") or ""}
            if not more["continue"]:
                break
    return Names(found, min(versions, default=0))

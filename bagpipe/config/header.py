"""Finds the job in a YAML document: as people write it, or as `kubectl get -o yaml` prints it.

Fields that the API server writes into an object (`status`, `uid`, `managedFields`, ...) say nothing about what to
train, and are left out; a `List` of one job is that job.
"""

from typing import Any

from bagpipe.config.document import API_VERSION, KIND
from bagpipe.config.yaml_lines import Document
from bagpipe.errors import ConfigError

SERVER_METADATA = (
    "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generation", "managedFields",
    "ownerReferences", "resourceVersion", "selfLink", "uid",
)  # fmt: skip
"""Fields of `metadata` that the cluster writes."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""An annotation of kubectl's: the whole object once more."""


def job_of(document: Document) -> Document:
    """The job that a document holds, without what a cluster added to it.

    Raises:
        ConfigError: the document is empty, or holds something else, or several jobs.
    """
    if document.value is None:
        raise ConfigError(
            f"{document.source}: empty; expected a job (apiVersion: {API_VERSION}, kind: {KIND}, spec: ...)"
        )
    if not isinstance(document.value, dict):
        found = "a list" if isinstance(document.value, list) else repr(document.value)
        raise ConfigError(
            f"{document.source}: expected a mapping with apiVersion, kind, metadata and spec, found {found}"
        )
    if "items" in document.value and document.value.get("kind") in ("List", f"{KIND}List"):
        return job_of(_only_item(document))
    _check_header(document)
    return Document(document.source, _without_server_fields(document.value), document.lines)


def _only_item(document: Document) -> Document:
    items = document.value["items"]
    if not isinstance(items, list) or len(items) != 1 or not isinstance(items[0], dict) or "items" in items[0]:
        found = f"{len(items)} objects" if isinstance(items, list) else "no list"
        raise ConfigError(
            f"{document.where(('items',))}: items: expected one {KIND}, found {found}; name one job, as in "
            f"kubectl get bpj NAME -o yaml"
        )
    return document.below(("items", 0), items[0])


def _check_header(document: Document) -> None:
    """Another kind of document deserves a better answer than its first unknown key."""
    for key, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        found = document.value.get(key, expected)
        if found != expected:
            raise ConfigError(
                f"{document.where((key,))}: {key}: expected {expected}, found {found!r}; is this a job file?"
            )


def _without_server_fields(value: dict[str, Any]) -> dict[str, Any]:
    kept = {key: inner for key, inner in value.items() if key != "status"}
    metadata = kept.get("metadata")
    if isinstance(metadata, dict):
        metadata = {key: inner for key, inner in metadata.items() if key not in SERVER_METADATA}
        annotations = metadata.get("annotations")
        if isinstance(annotations, dict) and LAST_APPLIED in annotations:
            metadata["annotations"] = {key: inner for key, inner in annotations.items() if key != LAST_APPLIED}
        kept["metadata"] = metadata
    return kept

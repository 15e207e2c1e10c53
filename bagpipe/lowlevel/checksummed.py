"""JSON objects that bear a checksum of themselves, so that a damaged byte in one of their numbers is noticed."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

CHECKSUM = "checksum"
"""The entry that holds it: SHA-256 of the object without this entry, as msgspec writes it on one line."""


def with_checksum(found: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its checksum as the last entry; `found` is what a decoder made, so that it is written alike."""
    return {**found, CHECKSUM: _checksum(found)}


def without_checksum(content: bytes) -> Any:
    """What `content` holds, compared with its checksum and without it. What has none is taken as it is.

    Raises:
        ValueError: it is not JSON, or not as it was written.
    """
    try:
        found = msgspec.json.decode(content)
    except RecursionError:
        raise ValueError("nested deeper than anything that is written here") from None
    if isinstance(found, dict) and CHECKSUM in found and found.pop(CHECKSUM) != _checksum(found):
        raise ValueError("its own checksum differs")
    return found


def _checksum(found: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(found)).hexdigest()

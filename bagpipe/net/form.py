"""A digest of the schema of all messages of this build, which two builds compare before they talk.

`PROTOCOL_VERSION` is raised by people; the form changes by itself. The topology carries the job's whole specification,
so a build with one more setting sends a message that another build cannot read: it would be dropped, and the job would
wait until a deadline. Texts that only describe (docstrings, descriptions of settings) are no part of it.
"""

import functools
import hashlib
from typing import Any

import msgspec

from bagpipe.lowlevel.strict_json import encode
from bagpipe.net.wire import MESSAGE_TYPES

_WORDS = frozenset({"title", "description"})
"""Keys of a JSON schema that only describe."""


@functools.cache
def form() -> str:
    """Twelve hexadecimal digits. Takes some 20 ms the first time."""
    _, kinds = msgspec.json.schema_components(MESSAGE_TYPES)
    return hashlib.sha256(encode(_without_words(kinds)).encode()).hexdigest()[:12]


def _without_words(part: Any, *, names: bool = True) -> Any:
    """The same schema without descriptions. Below `properties` and at the top, keys are names and all of them stay."""
    if isinstance(part, list):
        return [_without_words(one, names=False) for one in part]
    if not isinstance(part, dict):
        return part
    return {
        key: _without_words(value, names=key == "properties")
        for key, value in sorted(part.items())
        if names or key not in _WORDS
    }

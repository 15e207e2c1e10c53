"""The one error of a request to the API server, and what each answer means for the caller.

Every way in which a request can end badly becomes an `ApiError`; what to do about it is its `outcome`:

    ABSENT      the object, its namespace or its kind does not exist
    EXISTS      an object of that name exists already
    CHANGED     our copy is stale: the watch brings a newer one
    REFUSED     this very object is not accepted, now or later: the same request gets the same answer
    FORBIDDEN   not now: a quota, a permission or a policy stands in the way, and somebody may move it
    LATER       no answer, or one that asks for patience
    FENCED      this process may not write any more: its lease has run out
"""

import json
import re
from enum import StrEnum


class Outcome(StrEnum):
    """What an error means for the caller."""

    ABSENT = "absent"
    EXISTS = "exists"
    CHANGED = "changed"
    REFUSED = "refused"
    FORBIDDEN = "forbidden"
    LATER = "later"
    FENCED = "fenced"


_REFUSED_CODES = frozenset({400, 405, 406, 413, 414, 415, 422})
_DENIED = "denied the request"
"""How the API server reports an admission webhook or policy that said no to this object."""
_OF_WEBHOOKS = frozenset({403, 404, 409})
"""Codes with which a webhook may refuse, and which mean another thing of the API server itself."""
_NO_ROLE = re.compile(r'cannot (\w+) resource "([\w./-]+)"')
"""How the API server's authorizer says that no role of ours allows a request."""


class ApiError(Exception):
    """A request that the API server did not carry out.

    Args:
        code: HTTP's status; 0: there was no whole answer.
        message: the API server's words.
        reason: the API server's reason (`AlreadyExists`, `Conflict`, ...), where it gave one.
        retry_after: seconds that the API server asked us to wait.
    """

    def __init__(self, code: int, message: str, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.code, self.message, self.reason, self.retry_after = code, message, reason, retry_after
        self.outcome = _outcome(code, message, reason)

    @property
    def by_policy(self) -> bool:
        """Whether an admission webhook or policy said no, which is no judgement on what was sent."""
        return _DENIED in self.message

    @property
    def denied(self) -> tuple[str, str] | None:
        """Verb and resource that no role of ours allows; none: a refusal of another kind (a quota, a policy)."""
        found = _NO_ROLE.search(self.message) if self.code == 403 else None
        return (found[1], found[2]) if found else None

    @classmethod
    def of_answer(cls, code: int, body: bytes, retry_after: str | None = None) -> "ApiError":
        """From an answer of 400 or above; its body is a `Status` object, or anything at all."""
        try:
            status = json.loads(body)
        except (ValueError, RecursionError):
            status = None
        if not isinstance(status, dict):
            status = {"message": body[:200].decode(errors="replace")}
        seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
        return cls(code, str(status.get("message") or ""), str(status.get("reason") or ""), seconds)


class Fenced(ApiError):
    """A write of a process that has lost the lease; nothing was sent."""

    def __init__(self, request: str) -> None:
        super().__init__(0, f"{request}: this replica does not hold the lease any more")
        self.outcome = Outcome.FENCED


def _outcome(code: int, message: str, reason: str) -> Outcome:
    if code in _OF_WEBHOOKS and _DENIED in message:
        return Outcome.REFUSED
    if code == 404:
        return Outcome.ABSENT
    if code == 409:
        return Outcome.EXISTS if reason == "AlreadyExists" else Outcome.CHANGED
    if code in _REFUSED_CODES:
        return Outcome.REFUSED
    return Outcome.FORBIDDEN if code == 403 else Outcome.LATER

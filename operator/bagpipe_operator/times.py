"""Moments as Kubernetes writes them, and sums of moments and seconds that never overflow."""

import datetime as dt

EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)
NEVER = dt.datetime.max.replace(tzinfo=dt.UTC, microsecond=0)


def now() -> dt.datetime:
    """The present moment, in UTC."""
    return dt.datetime.now(dt.UTC)


def parse(text: object) -> dt.datetime | None:
    """A moment, from what the API server shows; none: there is none, or it is no moment."""
    try:
        found = dt.datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=found.tzinfo or dt.UTC) if found else None


def text(when: dt.datetime) -> str:
    """A moment as Kubernetes writes it: in UTC, to the second."""
    return when.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def later(when: dt.datetime, seconds: float) -> dt.datetime:
    """`when` plus `seconds`; `NEVER` where no date is that late."""
    try:
        return when + dt.timedelta(seconds=seconds)
    except OverflowError:
        return NEVER


def earliest(*moments: dt.datetime | None) -> dt.datetime | None:
    """The earliest of these moments; none: there is none."""
    return min((m for m in moments if m is not None), default=None)

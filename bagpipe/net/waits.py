"""Seconds as zmq takes them: whole milliseconds in a C integer, where a negative one would mean for ever."""

import math

LONGEST_MILLISECONDS = 2**31 - 1


def milliseconds(seconds: float) -> int:
    """Never below 0, and at most as long as zmq can count; NaN is no wait at all."""
    return 0 if math.isnan(seconds) else int(min(max(0.0, seconds) * 1000, LONGEST_MILLISECONDS))

"""Converts seconds to what zmq takes: whole milliseconds in a C integer, where a negative one would mean forever."""

import math

LONGEST_MILLISECONDS = 2**31 - 1


def milliseconds(seconds: float) -> int:
    """Milliseconds from 0 to the longest that zmq can count; NaN gives 0."""
    return 0 if math.isnan(seconds) else int(min(max(0.0, seconds) * 1000, LONGEST_MILLISECONDS))

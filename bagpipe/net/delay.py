"""For tests: holds every message back for a random time, so that messages arrive in unusual orders.

`BAGPIPE_DELAY_SECONDS` switches it on in every role of a job. Results must not change (contract X1).
"""

import os
import random
from collections.abc import Callable

from bagpipe.lowlevel.clock import SYSTEM_CLOCK

DELAY_SECONDS = "BAGPIPE_DELAY_SECONDS"


def message_delay() -> Callable[[], None]:
    """What to call before a message is sent: nothing, or a wait of up to the set time."""
    longest = float(os.environ.get(DELAY_SECONDS) or 0.0)
    if not longest:
        return lambda: None
    draw = random.Random()  # schedules should differ from run to run: results may not

    def hold() -> None:
        SYSTEM_CLOCK.pause(longest * draw.random() ** 3)

    return hold

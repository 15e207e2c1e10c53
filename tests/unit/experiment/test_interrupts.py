"""A second signal does not break off what the first one began to take away."""

import os
import signal

import pytest

from bagpipe.experiment.session import Interrupted, signals_interrupt


def test_only_the_first_signal_interrupts() -> None:
    """Several signals in a row, as from a supervisor: what a `finally` does is done whole."""
    done = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            done.append("taken away")

    with pytest.raises(Interrupted, match="SIGTERM"), signals_interrupt():
        work()
    assert done == ["taken away"]

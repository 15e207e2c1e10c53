"""The paper's package: `from BagPipe import init_cache`. Everything is in `bagpipe`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bagpipe.api import BagCache
from bagpipe.api import init_cache as _init_cache

__all__ = ["BagCache", "init_cache", "init_emb_server", "init_oracle_cacher"]

init_cache = partial(_init_cache, answer_seconds=600.0)
"""The paper starts trainers first and the others by hand, so these wait for them."""


def init_emb_server(argv: Sequence[str]) -> None:
    """Serve embedding tables until the job is over; `argv` as for `embedding_server.py`."""
    from bagpipe.paper.server import run

    run(argv)


def init_oracle_cacher(argv: Sequence[str]) -> None:
    """Plan a job to its end; `argv` as for `oracle_cacher.py`."""
    from bagpipe.paper.oracle import run

    run(argv, Path(__file__).resolve().parent.parent)

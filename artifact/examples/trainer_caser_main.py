"""Train Caser (docs/artifact.md)."""

import sys

from bagpipe.paper.flags import exit_with
from bagpipe.paper.kinds import CASER
from bagpipe.paper.trainer import run

if __name__ == "__main__":
    exit_with(lambda: run(sys.argv[1:], CASER))

"""Hold the embedding tables (docs/artifact.md)."""

import sys

from bagpipe.paper.flags import exit_with
from bagpipe.paper.server import run

if __name__ == "__main__":
    exit_with(lambda: run(sys.argv[1:]))

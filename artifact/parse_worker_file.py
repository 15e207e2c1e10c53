"""Average time per iteration of a trainer's log, and its standard deviation (docs/artifact.md)."""

import sys

from bagpipe.paper.flags import exit_with
from bagpipe.paper.log_parser import run

if __name__ == "__main__":
    exit_with(lambda: run(sys.argv[1:]))

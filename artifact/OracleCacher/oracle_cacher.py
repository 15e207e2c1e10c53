"""Read ahead and plan (docs/artifact.md)."""

import sys
from pathlib import Path

from bagpipe.paper.flags import exit_with
from bagpipe.paper.oracle import run

if __name__ == "__main__":
    exit_with(lambda: run(sys.argv[1:], Path(__file__).resolve().parent.parent))

"""Compile the kernels of a job once, before many processes at the same time find that they are not compiled.

One small job with every role a thread of this process; numba keeps the results beside the sources. `make test` does
this while mypy runs.
"""

import argparse
import tempfile
from pathlib import Path

import msgspec

from bagpipe.config.document import Job
from bagpipe.testing.threads import run_in_threads

SPEC = {
    "model": {"name": "dlrm", "bottomMlp": [8], "overMlp": [8]},
    "data": {
        "format": "synthetic",
        "testFraction": 0.1,
        "synthetic": {"examples": 1000, "tableSizes": [100, 200], "multiHot": 2},
    },
    "embedding": {"dim": 8, "optimizer": {"name": "adagrad", "lr": 0.02}},
    "batchSize": 64,
    "checkpoint": {"every": 5},
    "servers": {"replicas": 2},
    "trainers": {"replicas": 2, "device": "cpu", "threads": 1},
}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bagpipe-kernels-") as folder:
        run_in_threads(msgspec.convert({"spec": SPEC}, Job), Path(folder) / "run", timeout_seconds=600)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()

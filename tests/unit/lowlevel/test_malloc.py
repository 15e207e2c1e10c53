"""Freed arrays stay with the process: the next step's arrays cost no page faults."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from bagpipe.lowlevel.malloc import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    print("no switch")
    sys.exit()
def step():
    for array in [np.empty(4 << 20, np.uint8) for _ in range(8)]:
        array.fill(1)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_steps_arrays_cost_no_page_faults() -> None:
    """Eighty arrays of 4 MiB are 81,920 pages; recycled, hardly any is asked for again."""
    told = subprocess.run([sys.executable, "-c", PROGRAM, "kept"], capture_output=True, text=True, check=True)
    if told.stdout.strip() == "no switch":
        pytest.skip("this C library has no mallopt")
    assert int(told.stdout) < 500

"""What a model computes on starts at a 64-byte boundary, wherever its bytes came from."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from bagpipe.cache.aligned import aligned

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("offset", [4, 8, 16, 32, 60])
def test_a_copy_is_aligned(offset):
    """From any offset of a received frame: the same numbers, in torch's memory, at a 64-byte boundary."""
    frame = bytearray(4096 + 128)
    start = offset - np.frombuffer(frame, np.uint8).ctypes.data % 64 + 64
    array = np.frombuffer(frame, np.float32, 1000, start).reshape(100, 10)
    array[:] = np.random.default_rng(0).random((100, 10), np.float32)
    copy = aligned(array)
    assert copy.data_ptr() % 64 == 0
    assert torch.equal(copy, torch.tensor(array))


@pytest.mark.parametrize("path", ["bagpipe/trainer/loop.py", "bagpipe/api.py"])
def test_batches_reach_the_model_through_it(path):
    """Features and labels of a plan are never wrapped where they lie: a run would differ in its bits from the next."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and n.args and isinstance(n.args[0], ast.Attribute)]
    used = {n.args[0].attr: ast.unparse(n.func) for n in calls if n.args[0].attr in ("dense_BF", "labels_BL")}
    assert used == {"dense_BF": "aligned", "labels_BL": "aligned"}

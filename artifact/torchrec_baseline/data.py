"""Batches of the paper's JSON lines for one rank of the baseline: just what Bagpipe gives to that rank.

Global batch s is examples s x G .. (s + 1) x G - 1 of the file, which is repeated as needed; rank r takes the r-th
contiguous share. Everything is parsed before the clock starts, as the original baseline did.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import torch


def read_batches(
    path: Path, *, batch_size: int, rank: int, world_size: int, count: int
) -> list[tuple[torch.Tensor, ...]]:
    """`count` batches of dense `[B, F]`, ids `[B, T]` and labels `[B]`."""
    wanted = batch_size * world_size
    lines = _endless(path)
    batches = []
    for _ in range(count):
        batch = list(itertools.islice(lines, wanted))
        share = [json.loads(line) for line in batch[rank * batch_size : (rank + 1) * batch_size]]
        dense = torch.tensor([record["dense"] for record in share], dtype=torch.float32)
        ids = torch.tensor([record["sparse"] for record in share], dtype=torch.int64)
        labels = torch.tensor([_label(record["label"]) for record in share], dtype=torch.float32)
        batches.append((dense, ids, labels))
    return batches


def _label(value: float | list[float]) -> float:
    return float(value[0] if isinstance(value, list) else value)


def _endless(path: Path) -> Iterator[str]:
    files = sorted(path.glob("part_*.txt")) if path.is_dir() else [path]
    while True:
        seen = 0
        for file in files:
            with file.open(encoding="utf-8") as lines:
                for line in lines:
                    if line.strip():
                        seen += 1
                        yield line
        if not seen:
            raise SystemExit(f"error: {path}: no examples; give a file of JSON lines, or a folder of part_0.txt, ...")

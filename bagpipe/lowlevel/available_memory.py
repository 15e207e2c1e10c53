"""Finds how much memory this process may still use: what the machine has free, or the limit of its container."""

import os
from pathlib import Path

_LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with a container's memory limit: control groups of version 2 and 1."""


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that can be had without swapping, the page cache counted as free.

    A container's limit is taken whole: a role is the only process of its container, and asks when it begins.

    Args:
        root: where `proc` and `sys` are.
    """
    return min(_machine_bytes(root), *(_limit_bytes(root / limit) for limit in _LIMITS))


def _machine_bytes(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:  # Not Linux.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def _limit_bytes(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # No such group, or "max".
        return 1 << 62

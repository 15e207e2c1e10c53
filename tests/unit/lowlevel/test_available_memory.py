"""Memory is what the machine has free or the container allows, whichever is less."""

from pathlib import Path

import pytest

from bagpipe.lowlevel.available_memory import available_bytes

GIB = 1 << 30


def machine(root: Path, files: dict[str, str]) -> Path:
    meminfo = f"MemTotal: {64 * GIB >> 10} kB\nMemFree: 1024 kB\nMemAvailable: {16 * GIB >> 10} kB\n"
    for name, text in {"proc/meminfo": meminfo, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16 * GIB),
        ({"sys/fs/cgroup/memory.max": "max\n"}, 16 * GIB),
        ({"sys/fs/cgroup/memory.max": f"{2 * GIB}\n"}, 2 * GIB),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{3 * GIB}\n"}, 3 * GIB),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 16 * GIB),
    ],
)
def test_the_least_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    """The container's limit (cgroup 1 or 2) counts where there is one that is below the machine's free memory."""
    assert available_bytes(machine(tmp_path, files)) == expected


def test_this_machine_has_some() -> None:
    """The real files give a plausible number of bytes."""
    assert 1 << 20 < available_bytes() < 1 << 62

"""Keeps freed memory in the process.

A step allocates and frees some ten MiB of arrays, each of a size that glibc takes from the kernel and gives back: every
step would pay for zeroed pages again, in the peers' benchmark some 9 ms of CPU and a cold cache. With this switch
arrays of up to `LARGEST` are recycled, and up to `KEPT` of free memory stays in the process.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGEST = 32 << 20
"""Bytes; the largest value that glibc accepts."""
KEPT = 256 << 20
"""Bytes of free memory above the heap's last allocation."""


def keep_freed_memory() -> bool:
    """Keep freed memory in this process from now on; False where the C library has no such switch."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))

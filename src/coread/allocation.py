"""How the C library hands out memory."""

import ctypes

_M_MMAP_THRESHOLD = -3
"""mallopt(3)."""

LARGE = 2**18
"""Bytes: the pixels of one slice are as much, and more."""


def give_back_large_blocks() -> None:
    """Have each large block given back to the system as soon as it is freed.

    By default glibc keeps ever larger ones for the next time, and what lies between them cannot be given back: after a
    CT of 300 slices, a worker held 0.9 GB of which nothing was in use.
    """
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE)

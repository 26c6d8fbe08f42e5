"""Keeps Python's garbage collector from looking through what stays anyway.

A quarter of the time that it takes to load torch and MONAI goes into looking for garbage among their objects.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect nothing inside the block."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def loading_libraries() -> Iterator[None]:
    """The same, and never look again at what is there at the end. Nothing may be among it that is to be freed."""
    with uncollected():
        yield
        gc.freeze()

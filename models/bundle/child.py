"""The process that a bundle with Python of its own runs in, from its first line: it gives up the network and ties its
life to the worker's before anything else is imported, since a process with threads can do neither.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """``sys.argv``: the bundle's folder."""
    for ending in (signal.SIGTERM, signal.SIGINT):  # the worker decides: the job in hand ends first
        signal.signal(ending, signal.SIG_IGN)
    _leave_the_network()
    # Last, so that nothing in a bundle takes the place of what is installed, or runs when Python starts.
    sys.path += _module_folders(Path(sys.argv[1]))

    from coread.collection import loading_libraries

    with loading_libraries():
        from coread.models.bundle.isolation import serve

    serve()


def _leave_the_network() -> None:
    """As far as the system lets a process do so; and end when the worker ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getppid()
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def _module_folders(bundle: Path) -> list[str]:
    """Where a bundle's own modules are found: from its root, and beside each other."""
    return [str(bundle), *sorted({str(path.parent) for path in bundle.rglob("*.py")} - {str(bundle)})]


if __name__ == "__main__":
    main()

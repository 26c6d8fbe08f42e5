"""In a process of its own, since what is set here holds for all of one."""

import subprocess
import sys

PROGRAM = """
import sys
from pathlib import Path
from coread.allocation import LARGE, give_back_large_blocks

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "given back":
    give_back_large_blocks()
bytes(32 * 2**20)  # glibc takes it as a sign that large blocks come and go
before = held()
blocks = [bytes(bytearray(b"x") * 2 * LARGE) for _ in range(100)]
kept = bytes(bytearray(b"x") * 1000), blocks[-1]
blocks.clear()
print((held() - before) // LARGE)
"""


def held(way: str) -> int:
    """Large blocks that a process holds after it has freed a hundred of twice the size, but for the last."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_large_blocks_are_given_back_to_the_system_when_they_are_freed() -> None:
    assert held("given back") < 10
    assert held("as by default") > 100

"""In a process of its own, since memory is handed out to all of one."""

import subprocess
import sys

LARGE = 2**16
"""Bytes: small enough for glibc to keep it by default."""
PROGRAM = f"""
import sys
from pathlib import Path
from coread.allocation import give_back_freed_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

before = held()
blocks = [bytes(bytearray(b"x") * {LARGE}) for _ in range(1000)]
kept = bytes(bytearray(b"x") * 1000), blocks[-1]
blocks.clear()
if sys.argv[1] == "given back":
    give_back_freed_memory()
print((held() - before) // {LARGE})
"""


def held(way: str) -> int:
    """Blocks that a process holds after it has freed a thousand, but for the last."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_what_is_free_is_given_back_to_the_system_though_something_behind_it_is_in_use() -> None:
    assert held("given back") < 50
    assert held("as by default") > 900

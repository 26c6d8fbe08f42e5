"""In processes of their own, since torch reads its environment once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

MEGABYTES = 256
PROGRAM = f"""
from pathlib import Path
from coread import before_torch
import torch
scores = torch.ones({MEGABYTES} * 2**18)
print(Path("/proc/self/smaps_rollup").read_text())
"""
ALLOWED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_pages_mb(**environment: str) -> int:
    """Megabytes that a process with a large tensor holds in large pages."""
    named = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"} | environment
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=named, capture_output=True, text=True, check=True)
    (kilobytes,) = re.findall(r"AnonHugePages:\s+(\d+) kB", done.stdout)
    return int(kilobytes) // 1024


@pytest.mark.skipif(
    not ALLOWED.exists() or "[madvise]" not in ALLOWED.read_text(encoding="ascii"),
    reason="this kernel does not let a process choose the size of its pages",
)
def test_what_a_network_says_lies_in_large_pages_unless_the_environment_says_otherwise() -> None:
    assert large_pages_mb() > MEGABYTES / 2
    assert large_pages_mb(THP_MEM_ALLOC_ENABLE="0") < MEGABYTES / 2

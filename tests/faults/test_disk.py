"""The disk that holds everything runs full while studies arrive, and is freed: nothing is lost."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.harm import Fault
from tests.faults.trial import KNOWN_LEAKS, Trial
from tests.support import program

SIZE_MB = 96
"""Room for what the trial writes, and no more than a filler can write in a moment."""
BLOCK = b"\0" * 65536
STUDIES = 30

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    *KNOWN_LEAKS,
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that is a file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    done = subprocess.run([program("mount"), *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here, which needs root: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([program("umount"), "--lazy", str(folder)], check=True)


def fill(disk: Path) -> str:
    """Leave no byte free. What is freed meanwhile is taken, too."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for block in (BLOCK, BLOCK[:4096], BLOCK[:1]):
            try:
                while True:
                    file.write(block)
            except OSError:
                continue
    return "the disk is full"


def test_a_full_disk_delays_and_loses_nothing(small_disk: Path, tmp_path: Path, say: Callable[[object], None]) -> None:
    with Trial(tmp_path, name="full disk", studies=STUDIES, seed=7, data=small_disk / "data") as trial:
        full = Fault(
            name="disk",
            every_s=8,
            strike=lambda: fill(small_disk),
            mend=(small_disk / "filler").unlink,
            away_s=(12, 15),
        )
        summary = trial.run([full], seconds=50, sending_s=40)
        say(summary)
        assert os.statvfs(small_disk).f_bavail > 0
        assert not summary.complaints, f"{summary}\n{trial.logs()}"
        assert summary.faults["disk"] > 1, "nothing was tried"

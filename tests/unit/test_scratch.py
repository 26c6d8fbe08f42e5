"""Temporary folders do not outlive their process."""

import fcntl
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from coread.scratch import PREFIX, new_folder, sweep

HOLDER = """
import sys, time
from coread.scratch import new_folder
folder, remove = new_folder()
(folder / "channel0.nii.gz").write_bytes(b"a patient's pixels")
print(folder, flush=True)
time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_what_a_killed_process_leaves_is_swept_up_and_what_one_uses_is_not(temporary: Path) -> None:
    ours, remove = new_folder()
    (temporary / "somebody-elses").mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        theirs = Path(holder.stdout.readline().strip())
        assert theirs.parent == temporary
        assert theirs.stat().st_mode & 0o077 == 0, "nobody else may look into it"
        assert sweep() == 0
        assert (theirs / "channel0.nii.gz").exists()
        holder.send_signal(signal.SIGKILL)
    assert sweep() == 1
    assert sorted(path.name for path in temporary.iterdir()) == sorted([ours.name, "somebody-elses"])
    remove()
    assert not ours.exists()


def test_a_link_leads_nobody_elsewhere(temporary: Path) -> None:
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (temporary / f"{PREFIX}link").symlink_to(elsewhere)
    assert sweep() == 0
    assert elsewhere.exists()


def test_a_folder_that_is_swept_up_before_it_is_locked_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[Path] = []
    flock = fcntl.flock

    def lock(descriptor: int, operation: int) -> None:
        folder = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not locked:
            folder.rmdir()
        locked.append(folder)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    folder, remove = new_folder()
    assert folder == locked[1]
    assert folder.is_dir()
    remove()

"""Temporary folders do not outlive their process."""

import fcntl
import os
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
        try:
            assert holder.stdout is not None
            theirs = Path(holder.stdout.readline().strip())
            assert theirs.parent == temporary
            assert theirs.stat().st_mode & 0o077 == 0, "nobody else may look into it"
            assert sweep() == 0
            assert (theirs / "channel0.nii.gz").exists()
        finally:
            holder.kill()
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


def test_a_folder_that_cannot_be_removed_stops_nobody(temporary: Path) -> None:
    deep = temporary / f"{PREFIX}deep"
    deep.mkdir()
    inner = os.open(deep, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=inner)
        outer, inner = inner, os.open("d", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)
    assert sweep() in (0, 1)
    subprocess.run(["rm", "-rf", str(deep)], check=True)


@pytest.mark.parametrize("moment", ["flock", "open"])
def test_a_folder_that_is_swept_up_before_it_is_locked_is_made_anew(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    mkdtemp, flock = tempfile.mkdtemp, fcntl.flock

    def make(**more: str) -> str:
        made.append(Path(mkdtemp(**more)))
        if moment == "open" and len(made) == 1:
            made[0].rmdir()
        return str(made[-1])

    def lock(descriptor: int, operation: int) -> None:
        if moment == "flock" and len(made) == 1:
            made[0].rmdir()
        flock(descriptor, operation)

    monkeypatch.setattr(tempfile, "mkdtemp", make)
    monkeypatch.setattr(fcntl, "flock", lock)
    folder, remove = new_folder()
    assert len(made) == 2
    assert folder == made[1]
    assert folder.is_dir()
    remove()


def test_a_file_system_without_locks_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError("no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder, remove = new_folder()
    assert sweep() == 0
    assert folder.is_dir()
    remove()
    assert not folder.exists()

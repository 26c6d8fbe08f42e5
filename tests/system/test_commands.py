"""The commands as a person runs them: what goes wrong is one clear sentence and an exit status."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from coread.dicom_files import write_files
from coread.phantom import short_axis_volume, write_unfit_study
from tests.support import images_of, program, texts

COREAD = [sys.executable, "-m", "coread"]


def run(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COREAD, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def empty(folder: Path) -> None:
    folder.mkdir()


def no_folder(_folder: Path) -> None:
    pass


def no_dicom(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("not DICOM")


def missing_slice(folder: Path) -> None:
    images = images_of(short_axis_volume())
    write_files(images[:3] + images[4:], folder)


def wrong_modality(folder: Path) -> None:
    write_unfit_study(folder)


def corrupt_file(folder: Path) -> None:
    path = write_files(images_of(short_axis_volume()), folder)[2]
    path.write_bytes(path.read_bytes()[:3000])


def cut_header(folder: Path) -> None:
    path = write_files(images_of(short_axis_volume()), folder)[2]
    path.write_bytes(path.read_bytes()[:140])


def slow(case: tuple[object, ...]) -> object:
    """One of several cases that take the same way: each costs the seconds of a command's start."""
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("prepare", "said", "expected"),
    [
        slow((empty, "expected DICOM files in in, found none", False)),
        slow((no_folder, "expected a folder of DICOM files, found no folder in", False)),
        (no_dicom, "expected DICOM files in in, found none", False),
        (missing_slice, "expected slices 8.00 mm apart, found 16.00 mm between slices", True),
        slow((wrong_modality, "Modality is not MR, found CT", False)),
        (corrupt_file, "expected pixels that can be decoded", True),
        slow((cut_header, "in/0003.dcm", False)),
    ],
)
def test_bad_input_is_one_sentence_and_status_3(
    prepare: object,
    said: str,
    expected: bool,
    tmp_path: Path,
) -> None:
    """``expected``: whether a reading of the series is, so that a report says that there is none, and why."""
    assert callable(prepare)
    prepare(tmp_path / "in")
    done = run("analyze", "in", "-o", "out", folder=tmp_path)
    assert done.returncode == 3, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    reports = sorted(tmp_path.glob("out/*/*/*"))
    assert [path.name for path in reports] == ["SR-NOT-EVALUATED.dcm"] * expected
    for path in reports:
        assert any(said in text for text in texts(pydicom.dcmread(path)))


def test_a_dicomdir_is_no_image_whatever_its_name_is(tmp_path: Path) -> None:
    images = images_of(short_axis_volume())
    write_files(images, tmp_path / "in")
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.FileSetID = "TEST"
    directory.save_as(tmp_path / "in" / "dicomdir", enforce_file_format=True)
    done = run("analyze", "in", "-o", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    write_files(images_of(short_axis_volume()), tmp_path / "in")
    (tmp_path / "out").write_text("a file is in the way")
    done = run("analyze", "in", "-o", "out/further", folder=tmp_path)
    assert done.returncode == 2
    assert "out" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_bad_study_does_not_stop_the_others(tmp_path: Path) -> None:
    missing_slice(tmp_path / "in" / "bad")
    write_files(images_of(short_axis_volume(), name="good"), tmp_path / "in" / "good")
    done = run("analyze", "in", "-o", "out", folder=tmp_path)
    assert done.returncode == 3
    assert "a slice is missing" in done.stderr
    assert len(list((tmp_path / "out").glob("*/left_ventricle_sax/SEG.dcm"))) == 1


@pytest.mark.parametrize(
    ("settings", "arguments", "said"),
    [
        slow(("", ["analyze", "in", "-o", "out", "--model", "liver"], "there is no model called liver")),
        slow(("this is no TOML", ["analyze", "in", "-o", "out"], "coread.toml is not valid TOML")),
        ("colour = 1", ["doctor"], "colour: Extra inputs are not permitted"),
        ('[[route]]\nname = "a"\nmodels = ["liver"]', ["up"], "there is no model called liver"),
        slow(('[orthanc]\nexecutable = "NoOrthanc"', ["up"], "install Debian's orthanc")),
        ('[orthanc]\nplugin_folder = "/nowhere"', ["up"], "expected libOrthancPython.so in /nowhere"),
        slow(('[ledger]\nurl = "nonsense"', ["up"], "the ledger's URL is not usable")),
        ("", ["analyze"], "Missing argument"),
        ("", ["--config", "nowhere.toml", "doctor"], "nowhere.toml does not exist"),
        ('[worker]\ndevice = "cuda"', ["analyze", "in", "-o", "out"], "torch finds none"),
    ],
)
def test_a_mistake_in_the_settings_is_one_sentence_and_status_2(
    settings: str, arguments: list[str], said: str, tmp_path: Path
) -> None:
    write_files(images_of(short_axis_volume()), tmp_path / "in")
    (tmp_path / "coread.toml").write_text(settings)
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    program("Orthanc")
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))  # noqa: S104  # as Orthanc binds its DICOM port
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "coread.toml").write_text(f"[orthanc]\nhttp_port = 0\ndicom_port = {port}\n")
        done = run("up", folder=tmp_path)
    assert done.returncode == 2
    assert str(port) in done.stderr


def test_up_runs_until_it_is_told_to_stop_and_leaves_nothing_behind(tmp_path: Path) -> None:
    program("Orthanc")
    (tmp_path / "coread.toml").write_text("[orthanc]\nhttp_port = 0\ndicom_port = 0\n")
    with subprocess.Popen([*COREAD, "up"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        assert "Coread is up: DICOM COREAD on port" in up.stdout.readline()
        second = run("up", folder=tmp_path)
        assert second.returncode == 2
        assert "another `coread up` or `coread orthanc` runs" in second.stderr
        children = children_of(up.pid)
        assert len(children) == 3
        up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 0
        assert "Coread has stopped" in up.stdout.read()
    assert not any(map(is_running, children))
    logs = {path.name for path in (tmp_path / "coread-data" / "logs").iterdir()}
    assert logs == {"archivist.log", "orthanc.log", "worker.log"}


def test_a_killed_supervisor_takes_its_children_with_it(tmp_path: Path) -> None:
    program("Orthanc")
    (tmp_path / "coread.toml").write_text("[orthanc]\nhttp_port = 0\ndicom_port = 0\n")
    with subprocess.Popen([*COREAD, "up"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        up.stdout.readline()
        children = children_of(up.pid)
        up.kill()
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_doctor_says_that_everything_is_here(tmp_path: Path) -> None:
    program("Orthanc")
    done = run("doctor", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "Everything needed is here" in done.stdout


def test_doctor_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "coread.toml").write_text('[orthanc]\nexecutable = "NoOrthanc"\n')
    done = run("doctor", folder=tmp_path)
    assert done.returncode == 2
    assert "apt-get install orthanc" in done.stdout


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

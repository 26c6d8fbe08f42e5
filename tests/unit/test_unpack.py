import json
import re
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from coread.errors import ConfigurationError
from coread.models.unpack import MAX_ENTRIES, SMALL_BYTES, unpack

METADATA = json.dumps({"version": "1.2.3", "network_data_format": {}})
BUNDLE = {"configs/metadata.json": METADATA, "configs/inference.json": "{}", "models/model.pt": "four"}
CENTRAL_HEADER = b"PK\x01\x02"
FLAGS, DECLARED_BYTES = 8, 24
"""Where they stand in a header of the central directory (APPNOTE.TXT 4.3.12)."""


def packed(folder: Path, *more: tuple[str | zipfile.ZipInfo, str], files: dict[str, str] = BUNDLE) -> Path:
    path = folder / "bundle.zip"
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (*files.items(), *more):
            archive.writestr(name, content)
    return path


def with_header(path: Path, *, offset: int, field: bytes) -> Path:
    """The archive with a field changed in the first header of its central directory."""
    content = bytearray(path.read_bytes())
    start = content.index(CENTRAL_HEADER) + offset
    content[start : start + len(field)] = field
    path.write_bytes(content)
    return path


def files_in(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def refused(archive: Path, said: str) -> None:
    """Unpacking raises the error, and leaves nothing."""
    into = archive.parent / "models" / "new"
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        unpack(archive, into)
    assert sorted(path.name for path in archive.parent.rglob("*")) == ["bundle.zip", "models"]


def test_the_files_are_unpacked_under_their_names(tmp_path: Path) -> None:
    unpack(packed(tmp_path, ("docs/", "")), tmp_path / "models" / "new")
    assert files_in(tmp_path / "models" / "new") == BUNDLE
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["new"]


def test_a_folder_around_everything_is_left_away(tmp_path: Path) -> None:
    around = {f"spleen_v1/{name}": content for name, content in BUNDLE.items()}
    unpack(packed(tmp_path, files={"spleen_v1/": "", **around}), tmp_path / "new")
    assert files_in(tmp_path / "new") == BUNDLE


def test_a_bundle_that_is_only_configs_keeps_them(tmp_path: Path) -> None:
    unpack(packed(tmp_path, files={"configs/metadata.json": METADATA}), tmp_path / "new")
    assert files_in(tmp_path / "new") == {"configs/metadata.json": METADATA}


def test_no_file_may_be_executed_or_belong_to_another_afterwards(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("run.sh")
    entry.external_attr = (stat.S_IFREG | stat.S_ISUID | 0o777) << 16
    unpack(packed(tmp_path, (entry, "")), tmp_path / "new")
    assert (tmp_path / "new" / "run.sh").stat().st_mode & (stat.S_ISUID | 0o111) == 0


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "configs/../../x",
        "/x",
        "//x",
        "C:/x",
        "C:x",
        "..\\x",
        "a\\b",
        "./x",
        "a//b",
        ".",
        "a\nb",
        "a\x1bb",
        "x:y",
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    refused(packed(tmp_path, (name, "")), "expected plain names inside of the bundle, found")


def test_a_name_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path, ("x.pt-x.py", ""))
    path.write_bytes(path.read_bytes().replace(b"x.pt-x.py", b"x.pt\0x.py"))
    refused(path, "expected plain names inside of the bundle, found")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_a_link_or_a_device_is_refused(tmp_path: Path, kind: int) -> None:
    entry = zipfile.ZipInfo("models/link")
    entry.external_attr = (kind | 0o644) << 16
    refused(packed(tmp_path, (entry, "/etc/passwd")), "expected only files and folders, found models/link")


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    archive = with_header(packed(tmp_path), offset=FLAGS, field=b"\x01\x00")
    refused(archive, "expected no encryption, found configs/metadata.json encrypted")


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path, files={f"{number}": "" for number in range(MAX_ENTRIES + 1)})
    refused(archive, "expected at most 10,000 entries, found 10,001")


def test_an_archive_that_grows_without_measure_is_refused(tmp_path: Path) -> None:
    refused(packed(tmp_path, ("models/zeros.pt", "\0" * (SMALL_BYTES + 1))), "bytes of files")


def test_an_archive_that_declares_too_much_is_refused(tmp_path: Path) -> None:
    archive = with_header(packed(tmp_path), offset=DECLARED_BYTES, field=struct.pack("<I", 2**32 - 2))
    refused(archive, "expected at most 104,857,600 bytes of files")


def test_an_archive_that_holds_more_than_it_declares_is_refused(tmp_path: Path) -> None:
    archive = with_header(packed(tmp_path), offset=DECLARED_BYTES, field=struct.pack("<I", 1))
    refused(archive, "found it damaged")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("configs/metadata.json", "found configs/metadata.json twice"),
        ("configs/metadata.json/", "found configs/metadata.json twice"),
        ("configs/Metadata.json", "found configs/metadata.json and configs/Metadata.json"),
        ("Configs/other.json", "found configs and Configs"),
        ("models/model.pt/x", "expected to unpack it into"),
    ],
)
def test_names_that_meet_in_one_file_are_refused(tmp_path: Path, name: str, said: str) -> None:
    refused(packed(tmp_path, (name, "")), said)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "a folder `configs`, found nothing"),
        ({"x": ""}, "a folder `configs`, found x"),
        ({"a/x": "", "b/configs/metadata.json": METADATA}, "a folder `configs`, found a, b"),
        ({"configs/metadata.json": "{}", "configs/list.yaml": "- 1"}, "whose metadata has `network_data_format`"),
        ({"configs/metadata.json": "{"}, "bundle.zip: configs/metadata.json: expected JSON"),
        ({"configs/metadata.yaml": "a: !!python/name:os.system"}, "metadata.yaml: expected YAML of plain data"),
    ],
)
def test_an_archive_that_is_no_bundle_is_refused(tmp_path: Path, files: dict[str, str], said: str) -> None:
    refused(packed(tmp_path, files=files), said)


@pytest.mark.parametrize("cut", [0, 50, 100])
def test_a_damaged_archive_is_refused(tmp_path: Path, cut: int) -> None:
    path = packed(tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    refused(path, "found it damaged")


def test_content_that_does_not_match_its_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("configs/metadata.json", METADATA)
    path.write_bytes(path.read_bytes().replace(b"1.2.3", b"1.2.4"))
    refused(path, "found it damaged")


def test_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.zip: expected to unpack it"):
        unpack(tmp_path / "nowhere.zip", tmp_path / "new")


def test_nothing_is_unpacked_over_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected a new or empty folder"):
        unpack(packed(tmp_path), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.zip"]

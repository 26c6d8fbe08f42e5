"""The hook of each C-STORE knows which study an image is of, and who sends of a study outlives a restart."""

import io
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID as UID_
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from coread.plugin.holding import Held
from coread.plugin.study_of import DEFLATED, study_instance_uid_of
from coread.plugin.watch_file import LONGEST, WatchFile

UID, OTHER = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"
SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
)


def an_image(study: str = UID, *, syntax: UID_ = ExplicitVRLittleEndian, pixels: bytes = b"\0" * 64) -> bytes:
    """An image whose header has what is hard to follow before the StudyInstanceUID: sequences of both kinds of length,
    a study of the same kind in one of them, private values and long ones.
    """
    image, prior, code = Dataset(), Dataset(), Dataset()
    image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", f"{study}.7"
    code.CodeValue, code.LongCodeValue = "x", "y" * 70_000
    prior.StudyInstanceUID, prior.PurposeOfReferenceCodeSequence = OTHER, [code, Dataset()]
    prior["PurposeOfReferenceCodeSequence"].is_undefined_length = True
    image.ReferencedStudySequence = [prior, prior]
    image["ReferencedStudySequence"].is_undefined_length = syntax != JPEG2000Lossless
    image.private_block(0x0019, "ACME", create=True).add_new(1, "OB", b"\1" * 11_111)
    image.PatientName = "Doe^Jane"
    image.StudyInstanceUID, image.SeriesInstanceUID = study, f"{study}.6"
    image.add_new(0x7FE00010, "OB", pixels)
    if syntax == JPEG2000Lossless:
        image["PixelData"].is_undefined_length = True
        image["PixelData"].value = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\2\0\0\0ab"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    image.file_meta.MediaStorageSOPClassUID, image.file_meta.MediaStorageSOPInstanceUID = (
        image.SOPClassUID,
        image.SOPInstanceUID,
    )
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("study", [UID, f"{UID}1", "1.2"])
def test_the_study_of_an_image_is_read_off_its_header(syntax: UID_, study: str) -> None:
    assert study_instance_uid_of(an_image(study, syntax=syntax)) == study


def test_behind_a_value_of_unknown_representation_the_study_is_found() -> None:
    unknown = b"\x09\x00\x01\x10UN\0\0\xff\xff\xff\xff"  # its items are of implicit VR (PS3.5 6.2.2)
    inside = b"\x08\x00\x00\x01\x02\0\0\0ab"
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inside + b"\xfe\xff\x0d\xe0\0\0\0\0"
    content = an_image()
    at = content.index(b"\x10\x00\x10\x00PN")
    whole = content[:at] + unknown + item + b"\xfe\xff\xdd\xe0\0\0\0\0" + content[at:]
    assert pydicom.dcmread(io.BytesIO(whole)).StudyInstanceUID == UID
    assert study_instance_uid_of(whole) == UID


@given(at=st.integers(0, 1000), harm=st.binary(min_size=1, max_size=4), end=st.integers(0, 2000))
def test_a_harmed_header_has_no_study_or_any_and_breaks_nothing(at: int, harm: bytes, end: int) -> None:
    content = an_image()
    found = study_instance_uid_of(content[:at] + harm + content[at + len(harm) :])
    assert found is None or isinstance(found, str)
    assert study_instance_uid_of(content[:end]) in (None, UID)


@pytest.mark.parametrize("oddity", [b"1.2\0\0.3", b"1.2\\3.4", b"1.2x"])
def test_a_uid_that_is_none_is_not_believed(oddity: bytes) -> None:
    content = an_image("1.2.345")
    at = content.rindex(b"\x20\x00\x0d\x00UI") + 8
    assert study_instance_uid_of(content[:at] + oddity.ljust(8, b"\0") + content[at + 8 :]) is None


def test_a_padded_uid_is_the_uid() -> None:
    content = an_image("1.2.345")
    at = content.rindex(b"\x20\x00\x0d\x00UI") + 8
    assert study_instance_uid_of(content[:at] + b" 1.2.34 " + content[at + 8 :]) == "1.2.34"


def test_a_header_that_names_two_studies_is_of_neither() -> None:
    content = an_image()
    at = content.rindex(b"\x20\x00\x0d\x00UI")  # the one before is in a sequence
    element = content[at : content.index(b"\x20\x00\x0e\x00UI")]
    assert study_instance_uid_of(content[:at] + element + content[at:]) is None


def sent(content: bytes, *, aet: str = "CT_1") -> Any:
    return SimpleNamespace(GetInstanceRemoteAet=lambda: aet, GetInstanceData=lambda: content)


def test_an_image_belongs_to_its_own_study_alone_whatever_else_it_names() -> None:
    held = Held()
    held.watch(UID, aet="PACS")
    held.watch(OTHER, aet="PACS")
    assert not held.refuses(sent(an_image(f"{UID}9", pixels=f"..{UID}..".encode() * 2)))
    assert held.is_alone(UID)
    assert held.is_alone(OTHER), "it is named in a sequence"
    held.hold([OTHER], seconds=60)
    assert not held.refuses(sent(an_image()))
    assert not held.is_alone(UID)
    assert held.refuses(sent(an_image(OTHER)))


def test_of_a_header_that_cannot_be_followed_all_that_it_names_are_joined() -> None:
    held = Held()
    held.watch(UID, aet="PACS")
    assert not held.refuses(sent(an_image()[100:]))
    assert not held.is_alone(UID)


def syntax_element(syntax: str) -> bytes:
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    return b"\x02\x00\x10\x00UI" + len(value).to_bytes(2, "little") + value


@pytest.mark.parametrize("syntax", DEFLATED)
def test_in_what_is_deflated_and_cannot_be_followed_may_be_anything(syntax: str) -> None:
    content = an_image(syntax=DeflatedExplicitVRLittleEndian)
    named = content.replace(syntax_element(DeflatedExplicitVRLittleEndian), syntax_element(syntax))
    assert study_instance_uid_of(named) == UID
    meta = named[: named.index(syntax_element(syntax)) + len(syntax_element(syntax))]
    harmed = meta.replace(UID.encode(), b"1" * len(UID)) + b"\xff" * 1000
    assert study_instance_uid_of(harmed) is None
    held = Held()
    held.watch(UID, aet="PACS")
    assert not held.refuses(sent(harmed))
    assert not held.is_alone(UID)


def test_who_sends_under_no_title_is_somebody_else() -> None:
    held = Held()
    held.watch(UID, aet="")
    assert not held.refuses(sent(an_image(), aet=""))
    assert not held.is_alone(UID)


def test_of_two_who_hold_studies_at_once_neither_undoes_the_others() -> None:
    held = Held()
    other = threading.Thread(target=lambda: held.hold([OTHER], seconds=60))

    class Slow(list[str]):
        """While it is looked at, somebody else comes, and has time enough."""

        def __contains__(self, study: object) -> bool:
            if other.ident is None:
                other.start()
                other.join(0.1)
            return super().__contains__(study)

    held.hold(["1.2.3"], seconds=60)
    held.hold(Slow([UID]), seconds=60)
    other.join()
    assert [held.refuses(sent(study.encode())) for study in (UID, OTHER, "1.2.3")] == [True] * 3


@pytest.fixture
def restarted(tmp_path: Path) -> Callable[..., Held]:
    """A plugin that has just started, so long after now."""

    def start(later: timedelta = timedelta(0)) -> Held:
        return Held(file=WatchFile(tmp_path / "watched.json", clock=lambda: datetime.now(UTC) + later))

    return start


def test_who_has_sent_of_a_study_outlives_a_restart(restarted: Callable[..., Held], tmp_path: Path) -> None:
    held = restarted()
    for study in (UID, OTHER, "1.2.3"):
        held.watch(study, aet="PACS")
    held.unwatch("1.2.3")
    assert not held.refuses(sent(an_image(OTHER)))
    assert not held.refuses(sent(an_image(), aet="PACS"))
    again = restarted()
    assert [again.is_alone(study) for study in (UID, OTHER, "1.2.3")] == [True, False, False]
    again.watch(OTHER, aet="PACS")
    assert not restarted().is_alone(OTHER)
    assert not again.refuses(sent(an_image()))
    assert not restarted().is_alone(UID)
    assert (tmp_path / "watched.json").stat().st_mode & 0o077 == 0


def test_that_somebody_else_sends_is_on_disk_before_the_image_is_taken(tmp_path: Path) -> None:
    held = Held(file=WatchFile(tmp_path / "data" / "watched.json", clock=lambda: datetime.now(UTC)))
    (tmp_path / "data").mkdir()
    held.watch(UID, aet="PACS")
    (tmp_path / "data" / "watched.json").unlink()
    (tmp_path / "data").rmdir()
    assert held.refuses(sent(an_image())), "the sender keeps it"
    (tmp_path / "data").mkdir()
    assert not held.refuses(sent(an_image()))
    assert not held.is_alone(UID)


def test_where_nothing_can_be_written_nothing_older_is_left(restarted: Callable[..., Held], tmp_path: Path) -> None:
    held = restarted()
    held.watch(UID, aet="PACS")
    (tmp_path / ".watched.json.part").mkdir()  # in the way
    assert not held.refuses(sent(an_image()))
    assert not (tmp_path / "watched.json").exists()
    assert not restarted().is_alone(UID)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"study": "1.2"}]', b"\xff", b'{"study'])
def test_a_harmed_file_knows_nothing(restarted: Callable[..., Held], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "watched.json").write_bytes(content)
    assert not restarted().is_alone("1.2")


@pytest.mark.parametrize("later", [LONGEST + timedelta(seconds=1), timedelta(seconds=-60)])
def test_an_old_file_is_not_believed(restarted: Callable[..., Held], later: timedelta) -> None:
    restarted().watch(UID, aet="PACS")
    assert restarted().is_alone(UID)
    assert not restarted(later).is_alone(UID)

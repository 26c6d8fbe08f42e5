"""Our own Orthanc, as those see it who bring studies into it."""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial

from coread.archive import Archive
from coread.errors import NotDicom, SourceGone, SourceRefuses, StudyIncomplete
from coread.retrieval.retriever import Retrieved

PREAMBLE, PREFIX = 128, b"DICM"
"""How a DICOM file begins (PS3.10 7.1)."""
STUDY_INSTANCE_UID = 0x0020000D


class Shelf:
    """The studies in our Orthanc."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def store(self, file: bytes, *, study_instance_uid: str, source: str) -> None:
        """Put an instance of a study into our Orthanc.

        Raises SourceRefuses if it is no DICOM file, or one of another study, which a source that does not understand
        what it was asked may send; ArchiveUnavailable if our Orthanc does not take it now.
        """
        found = _study_of(file)
        if found != study_instance_uid:
            what = "something that is no DICOM file" if found is None else "an instance of another study"
            raise SourceRefuses(f"{source} was asked for the study {study_instance_uid} and sends {what}")
        try:
            self._archive.take_in(file)
        except NotDicom as error:
            raise SourceRefuses(
                f"{source} sends an instance of the study {study_instance_uid} that our Orthanc cannot read"
            ) from error

    def count(self, study_instance_uid: str) -> Retrieved | None:
        """What there is of a study; None if there is nothing."""
        sizes = []
        for orthanc_id in self._archive.studies_with(study_instance_uid):
            try:
                sizes.append(self._archive.size_of(orthanc_id))
            except SourceGone:
                continue  # deleted just now
        if not sizes:
            return None
        return Retrieved(instances=sum(each[0] for each in sizes), bytes=sum(each[1] for each in sizes))


def check_whole(
    shelf: Shelf, study_instance_uid: str, *, stated: int | None, came: int | None, source: str
) -> Retrieved | None:
    """What our Orthanc has of a study that has been retrieved; None if it has nothing of it.

    ``came``: how many instances the source has sent, if it is known. Raises StudyIncomplete if that, or what is here,
    is less than was stated.
    """
    here = shelf.count(study_instance_uid)
    counted = 0 if here is None else here.instances
    least = counted if came is None else min(counted, came)
    if stated is not None and here is not None and least < stated:
        raise StudyIncomplete(
            f"{source} says that the study {study_instance_uid} has {stated} instances, and {least} have come"
        )
    return here


def _study_of(file: bytes) -> str | None:
    """The StudyInstanceUID of a DICOM file; None if it is none."""
    if file[PREAMBLE : PREAMBLE + len(PREFIX)] != PREFIX:
        return None
    try:
        header = read_partial(BytesIO(file), stop_when=_is_past_it, specific_tags=[STUDY_INSTANCE_UID])
        uid = header.get_item(STUDY_INSTANCE_UID)
    except (InvalidDicomError, EOFError, ValueError, NotImplementedError, KeyError, OSError):
        return None
    value: Any = None if uid is None else uid.value
    return value.decode("ascii", errors="replace").strip("\0 ") if isinstance(value, bytes) else str(value or "")


def _is_past_it(tag: Any, _vr: str | None, _length: int) -> bool:
    return bool(tag > STUDY_INSTANCE_UID)


Count = Callable[[str], int | None]
"""StudyInstanceUID → how many instances the source states."""


class Stated:
    """What the source said last of a study: who asks, and then retrieves, asks the source once."""

    def __init__(self, ask: Count) -> None:
        self._ask = ask
        self._known: Mapping[str, int | None] = {}

    def of(self, study_instance_uid: str) -> int | None:
        """Ask, and keep the answer."""
        self._known = {study_instance_uid: self._ask(study_instance_uid)}
        return self._known[study_instance_uid]

    def last_of(self, study_instance_uid: str) -> int | None:
        """The answer that was kept, once; or else ask."""
        known, self._known = self._known, {}
        return known[study_instance_uid] if study_instance_uid in known else self._ask(study_instance_uid)

"""A study as the pipeline takes it, whether it lies in Orthanc or in a folder."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import MediaStorageDirectoryStorage

from coread.archive import Archive, ArchivedSeries, is_source
from coread.errors import NotDicom

UNPARSABLE = (
    InvalidDicomError,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    IndexError,
    NotImplementedError,
    OSError,
    struct.error,
    zlib.error,
)
"""What pydicom raises at files that are cut short or damaged."""

IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
"""What every image has."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A series that may be read: the header of one of its instances, and the means to load them all. ``size``: the
    number of instances.
    """

    header: Dataset
    size: int
    load: Callable[[], list[Dataset]]

    @property
    def series_instance_uid(self) -> str:
        return str(self.header.SeriesInstanceUID)


@dataclass(frozen=True, kw_only=True)
class Study:
    """The source series of one study."""

    study_instance_uid: str
    sop_instance_uids: frozenset[str]
    series: Sequence[Series]
    files: Sequence[Path] = ()
    """Where it lies, if it lies in a folder."""
    is_of_noise: bool = False
    """Whether nobody was imaged: then it matters not what is found, and where."""


def study_in_archive(archive: Archive, orthanc_id: str) -> Study:
    """A study in Orthanc. Only one instance of each series is fetched until a series is loaded."""
    study = archive.study(orthanc_id)

    def series_of(series: ArchivedSeries) -> Series:
        ids = sorted(series.instances, key=series.instances.__getitem__)
        return Series(
            header=_parse(next(archive.files(ids[:1])), series.instances[ids[0]], header_only=True),
            size=len(ids),
            load=lambda: [
                _parse(file, series.instances[orthanc_id])
                for orthanc_id, file in zip(ids, archive.files(ids), strict=True)
            ],
        )

    return Study(
        study_instance_uid=study.study_instance_uid,
        sop_instance_uids=frozenset(uid for series in study.sources for uid in series.instances.values()),
        series=[series_of(series) for series in study.sources if series.instances],
    )


def studies_in_folder(folder: Path) -> list[Study]:
    """The studies in a folder and its subfolders, in the order of their UIDs. Results are left out.

    Raises NotDicom if the folder holds no DICOM file, or one that starts like DICOM and cannot be parsed: which study
    it belongs to is unknown, and a study without one of its images could be read wrong.
    """
    if not folder.is_dir():
        raise NotDicom(f"expected a folder of DICOM files, found no folder {folder}; check the path")
    headers: dict[str, dict[str, list[tuple[Path, Dataset]]]] = {}
    for path, header in _dicom_files(folder):
        if is_source(modality=header.get("Modality"), manufacturer=header.get("Manufacturer")):
            study = headers.setdefault(str(header.StudyInstanceUID), {})
            study.setdefault(str(header.SeriesInstanceUID), []).append((path, header))
    if not headers:
        raise NotDicom(f"expected DICOM files in {folder}, found none; name the folder that holds a study")
    return [_study_of_files(uid, list(series.values())) for uid, series in sorted(headers.items())]


def _study_of_files(study_uid: str, groups: list[list[tuple[Path, Dataset]]]) -> Study:
    def series_of(files: list[tuple[Path, Dataset]]) -> Series:
        files = sorted(files, key=lambda file: str(file[1].SOPInstanceUID))
        return Series(
            header=files[0][1],
            size=len(files),
            load=lambda: [_parse(path.read_bytes(), str(path)) for path, _ in files],
        )

    uids = (str(header.SOPInstanceUID) for files in groups for _, header in files)
    return Study(
        study_instance_uid=study_uid,
        sop_instance_uids=frozenset(uids),
        series=[series_of(files) for files in groups],
        files=[path for files in groups for path, _ in files],
    )


def _dicom_files(folder: Path) -> Iterator[tuple[Path, Dataset]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and _starts_like_dicom(path) and not _is_directory(path):
            yield path, _parse(path.read_bytes(), str(path), header_only=True)


def _is_directory(path: Path) -> bool:
    """Whether a file is a DICOMDIR, whatever its name is: it lists images and is none."""
    try:
        return bool(read_file_meta_info(path).get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage)
    except UNPARSABLE:
        return False  # then it is said to be so where it is parsed


def _starts_like_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _parse(file: bytes, name: str, *, header_only: bool = False) -> Dataset:
    try:
        dataset = pydicom.dcmread(io.BytesIO(file), stop_before_pixels=header_only)
        absent = [keyword for keyword in IDENTIFIERS if not dataset.get(keyword)]
    except UNPARSABLE as error:
        raise NotDicom(
            f"expected a DICOM file, found one that cannot be parsed ({type(error).__name__}): {name}; "
            "send or copy the study again"
        ) from error
    if absent:
        raise NotDicom(f"expected {', '.join(absent)}, found none in {name}; the file is cut short or not an image")
    return dataset


def read_dicom(path: Path) -> Dataset:
    """The object in a file. Raises NotDicom if it cannot be parsed, or has no identifiers."""
    return _parse(path.read_bytes(), str(path))

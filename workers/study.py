"""A study as the pipeline takes it, whether it lies in Orthanc or in a folder."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import MediaStorageDirectoryStorage

from coread.archive import Archive, ArchivedSeries, is_source
from coread.errors import NotDicom
from coread.workers.images import File, ScannedImage, header_of, place_of, read_image, scanned
from coread.workers.scan import FIRST_ELEMENT, PREAMBLE, UNPARSABLE, Header, decimals, parsed
from coread.workers.stack import Place, Stack

AT_ONCE = 16
"""Files that a thread reads in turn: to hand out each by itself costs as much as to read it."""


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
    revision: str = ""
    """Which copies of the instances Orthanc holds, if it lies there."""
    others: Mapping[str, str] = field(default_factory=dict)
    """What is beside the source series, if it lies in Orthanc: Orthanc id of each instance → SOP Instance UID."""
    is_of_noise: bool = False
    """Whether nobody was imaged: then it matters not what is found, and where."""


def study_in_archive(archive: Archive, orthanc_id: str) -> Study:
    """A study in Orthanc. Only one instance of each series is fetched until a series is loaded."""
    study = archive.study(orthanc_id)

    def series_of(series: ArchivedSeries) -> Series:
        ids = sorted(series.instances, key=series.instances.__getitem__)
        return Series(
            header=parsed(next(archive.files(ids[:1])), series.instances[ids[0]], header_only=True),
            size=len(ids),
            load=lambda: _load_instances(archive, series, ids),
        )

    return Study(
        study_instance_uid=study.study_instance_uid,
        sop_instance_uids=frozenset(uid for series in study.sources for uid in series.instances.values()),
        series=[series_of(series) for series in study.sources if series.instances],
        revision=study.revision,
        others=study.others,
    )


def _load_instances(archive: Archive, series: ArchivedSeries, ids: Sequence[str]) -> list[Dataset]:
    """The images of a series, in the order of ``ids``."""
    stack = Stack([_stated_place(series.instance_tags.get(each, {})) for each in ids])
    return archive.read_files(ids, lambda index, file: read_image(file, series.instances[ids[index]], stack, index))


def _stated_place(tags: Mapping[str, str]) -> Place:
    """Where Orthanc remembers an instance to lie; it only says in what order to read."""
    position, orientation = (
        decimals(tags.get(keyword, "").encode()) for keyword in ("ImagePositionPatient", "ImageOrientationPatient")
    )
    return position, orientation


def studies_in_folder(folder: Path) -> list[Study]:
    """The studies in a folder and its subfolders, in the order of their UIDs. Results are left out.

    Raises NotDicom if the folder holds no DICOM file, or one that starts like DICOM and cannot be parsed: which study
    it belongs to is unknown, and a study without one of its images could be read wrong.
    """
    if not folder.is_dir():
        raise NotDicom(f"expected a folder of DICOM files, found no folder {folder}; check the path")
    headers: dict[str, dict[str, list[tuple[Path, Dataset]]]] = {}
    for path, header in headers_in(folder):
        try:
            if is_source(modality=header.get("Modality"), manufacturer=header.get("Manufacturer")):
                study = headers.setdefault(str(header.StudyInstanceUID), {})
                study.setdefault(str(header.SeriesInstanceUID), []).append((path, header))
        except UNPARSABLE as error:
            raise NotDicom(
                f"expected a file that says to which study it belongs, found {path}; send it again"
            ) from error
    if not headers:
        raise NotDicom(f"expected DICOM files in {folder}, found none; name the folder that holds a study")
    return [_study_of_files(uid, list(series.values())) for uid, series in sorted(headers.items())]


def _study_of_files(study_uid: str, groups: list[list[tuple[Path, Dataset]]]) -> Study:
    def series_of(files: list[tuple[Path, Dataset]]) -> Series:
        files = sorted(files, key=lambda file: str(file[1].SOPInstanceUID))
        found = [(path, header_of(header)) for path, header in files]
        return Series(header=files[0][1], size=len(files), load=lambda: _load_files(found))

    uids = (str(header.SOPInstanceUID) for files in groups for _, header in files)
    return Study(
        study_instance_uid=study_uid,
        sop_instance_uids=frozenset(uids),
        series=[series_of(files) for files in groups],
        files=[path for files in groups for path, _ in files],
    )


def _load_files(files: Sequence[tuple[Path, Header | None]]) -> list[Dataset]:
    """The images in files, in their order; with each file the header that it had when the folder was looked through."""
    stack = Stack([place_of(header) for _, header in files])

    def read(index: int) -> Dataset:
        path, known = files[index]
        with File(path) as file:
            return read_image(file, str(path), stack, index, known=known)

    def read_some(first: int) -> list[Dataset]:
        return [read(index) for index in range(first, min(first + AT_ONCE, len(files)))]

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        some = threads.map(read_some, range(0, len(files), AT_ONCE))
        return [image for images in some for image in images]


def headers_in(folder: Path) -> Iterator[tuple[Path, Dataset]]:
    """The DICOM files in a folder and its subfolders, with their headers. Raises NotDicom if one cannot be parsed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (header := header_in(path)) is not None:
            yield path, header


def header_in(path: Path) -> Dataset | None:
    """The header of the object in a file; None if the file is no DICOM file, or lists others."""
    with File(path) as file:
        start = file.read(FIRST_ELEMENT)
        if start[PREAMBLE:] != b"DICM":
            return None
        header, _ = scanned(file, str(path), start=start)
    if header is not None:
        return ScannedImage(header)
    return None if _is_directory(path) else read_header(path)


def _is_directory(path: Path) -> bool:
    """Whether a file is a DICOMDIR, whatever its name is: it lists images and is none."""
    try:
        return bool(read_file_meta_info(path).get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage)
    except UNPARSABLE:
        return False  # then it is said to be so where it is parsed


def read_header(path: Path) -> Dataset:
    """The header of the object in a file. Raises NotDicom as ``read_dicom`` does."""
    return parsed(path.read_bytes(), str(path), header_only=True)


def read_dicom(path: Path) -> Dataset:
    """The object in a file. Raises NotDicom if it cannot be parsed, or has no identifiers."""
    return parsed(path.read_bytes(), str(path))

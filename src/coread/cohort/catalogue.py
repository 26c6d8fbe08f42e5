"""What a source lists: its studies, and the series of one."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

from pynetdicom.presentation import build_context

from coread.archive import Archive
from coread.archive_run import HERE
from coread.cohort.found import BYTES, SERIES_KEYS
from coread.errors import SourceGone
from coread.retrieval.answers import Answer
from coread.retrieval.dicomweb import Services, open_dicomweb
from coread.retrieval.dimse import FIND, Link, find
from coread.settings import Settings
from coread.settings_sources import DicomwebSource, DimseSource, Here

PAGE = 10_000
"""Studies of our own Orthanc that are asked for at a time."""
BATCH = 200
"""Of so many of them the attributes are asked for at a time."""
THREADS = 4


class Catalogue(Protocol):
    """What can be asked of a source. Raises as ``coread.retrieval`` does."""

    name: str
    may_limit: bool
    """Whether it may give only some of the answers, and nothing by which the others could be had."""

    def studies(self, keys: Mapping[str, str], *, asked: Sequence[str]) -> Iterator[Answer]:
        """The studies that match keyword → value (PS3.4 C.2.2.2), with the attributes that are ``asked`` for."""
        ...

    def series(self, study_instance_uid: str) -> list[Answer]:
        """The series of a study."""
        ...


class DimseCatalogue:
    """A source that is asked by C-FIND."""

    may_limit = True

    def __init__(self, link: Link) -> None:
        self._link = link
        self.name = link.source.name

    def studies(self, keys: Mapping[str, str], *, asked: Sequence[str]) -> Iterator[Answer]:
        """See Catalogue.studies."""
        return self._find("STUDY", {**dict.fromkeys(asked, ""), **keys})

    def series(self, study_instance_uid: str) -> list[Answer]:
        """See Catalogue.series."""
        return list(self._find("SERIES", {**dict.fromkeys(SERIES_KEYS, ""), "StudyInstanceUID": study_instance_uid}))

    def _find(self, level: str, keys: Mapping[str, str]) -> Iterator[Answer]:
        return find(self._link, level, keys, contexts=[build_context(FIND)])


class DicomwebCatalogue:
    """A source that is asked by QIDO-RS."""

    may_limit = False

    def __init__(self, services: Services) -> None:
        self._services = services
        self.name = services.source.name

    def studies(self, keys: Mapping[str, str], *, asked: Sequence[str]) -> Iterator[Answer]:
        """See Catalogue.studies."""
        return self._services.find("/studies", keys, fields=[each for each in asked if each not in keys])

    def series(self, study_instance_uid: str) -> list[Answer]:
        """See Catalogue.series."""
        fields = [each for each in SERIES_KEYS if each != "SeriesInstanceUID"]
        return list(self._services.find(f"/studies/{study_instance_uid}/series", {}, fields=fields))


class HereCatalogue:
    """Our own Orthanc. It says of each study how large it is."""

    name = HERE
    may_limit = False

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def studies(self, keys: Mapping[str, str], *, asked: Sequence[str]) -> Iterator[Answer]:  # noqa: ARG002
        """See Catalogue.studies. Everything that Orthanc's database has is given."""
        since = 0
        while ids := self._archive.list_studies(keys, since=since, limit=PAGE):
            for begin in range(0, len(ids), BATCH):
                yield from self._described(ids[begin : begin + BATCH])
            since += len(ids)

    def series(self, study_instance_uid: str) -> list[Answer]:
        """See Catalogue.series."""
        ids = self._archive.studies_with(study_instance_uid)
        return [_series(each) for each in self._archive.at_hand(ids, level="Series")]

    def _described(self, ids: Sequence[str]) -> Iterator[Answer]:
        series: dict[str, list[Answer]] = {}
        for each in self._archive.at_hand(ids, level="Series"):
            series.setdefault(str(each["ParentStudy"]), []).append(_series(each))
        studies = self._archive.at_hand(ids, level="Study")
        with ThreadPoolExecutor(THREADS) as threads:
            sizes = list(threads.map(lambda each: self._size(str(each["ID"])), studies))
        for study, size in zip(studies, sizes, strict=True):
            of_study = series.get(str(study["ID"]), [])
            counts = [int(each["NumberOfSeriesRelatedInstances"]) for each in of_study]
            yield {
                **_texts(study.get("PatientMainDicomTags", {})),
                **_texts(study["MainDicomTags"]),
                "ModalitiesInStudy": "\\".join(sorted({each.get("Modality", "") for each in of_study} - {""})),
                "NumberOfStudyRelatedInstances": str(sum(counts)),
                **({} if size is None else {BYTES: str(size)}),
            }

    def _size(self, orthanc_id: str) -> int | None:
        try:
            return self._archive.size_of(orthanc_id)[1]
        except SourceGone:
            return None


def _series(series: Mapping[str, Any]) -> Answer:
    return {**_texts(series["MainDicomTags"]), "NumberOfSeriesRelatedInstances": str(len(series["Instances"]))}


def _texts(tags: Mapping[str, Any]) -> dict[str, str]:
    return {keyword: str(value) for keyword, value in tags.items()}


@contextmanager
def open_catalogue(source: DimseSource | DicomwebSource | Here, settings: Settings) -> Iterator[Catalogue]:
    """A source's catalogue; no connection is made before it is needed."""
    if isinstance(source, Here):
        with Archive(settings.orthanc_url, auth=settings.orthanc_login) as archive:
            yield HereCatalogue(archive)
    elif isinstance(source, DicomwebSource):
        with open_dicomweb(source) as services:
            yield DicomwebCatalogue(services)
    else:
        tls = settings.dicom_tls.client_context() if source.tls else None
        link = Link(source, calling_aet=settings.orthanc.aet, tls=tls)
        try:
            yield DimseCatalogue(link)
        finally:
            link.close()

"""What routes look at, from Orthanc: what it keeps at hand, and a header of each series only if a route needs it."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any

from coread.archive import Archive, ArchivedSeries, ArchivedStudy
from coread.errors import SourceGone, StudyChanged
from coread.routes import Attribute, Dictionary
from coread.study_facts import Header, StudyFacts, facts_of, keywords_to_read

AT_HAND = frozenset(
    {
        "AccessionNumber",
        "InstitutionName",
        "RequestedProcedureDescription",
        "StudyDate",
        "StudyDescription",
        "StudyID",
        "StudyInstanceUID",
        "StudyTime",
        "AcquisitionDeviceProcessingDescription",
        "BodyPartExamined",
        "CardiacNumberOfImages",
        "ContrastBolusAgent",
        "ImageOrientationPatient",
        "ImagesInAcquisition",
        "Manufacturer",
        "Modality",
        "NumberOfSlices",
        "NumberOfTemporalPositions",
        "NumberOfTimeSlices",
        "PerformedProcedureStepDescription",
        "ProtocolName",
        "SequenceName",
        "SeriesDate",
        "SeriesDescription",
        "SeriesInstanceUID",
        "SeriesNumber",
        "SeriesTime",
        "SeriesType",
        "StationName",
    }
)
"""The main DICOM tags that Orthanc (1.10 and later) keeps in its database of every study and series, by default."""

IN_METADATA: Mapping[str, str] = {
    "SOPClassUID": "SopClassUid",
    "SourceApplicationEntityTitle": "RemoteAET",
    "TransferSyntaxUID": "TransferSyntax",
}
"""Keyword → the metadata that Orthanc writes down of an instance when it arrives."""

RETIRED = "RETIRED_"
"""What Orthanc's dictionary puts in front of the keyword of a retired attribute."""

VRS = tuple("AE AS AT CS DA DS DT FD FL IS LO LT OB OF OW PN SH SL SQ SS ST TM UI UL UN US UT".split())  # noqa: SIM905
"""The value representations in the order of OrthancPluginValueRepresentation, which begins at 1."""


def facts_in_orthanc(
    archive: Archive,
    study: ArchivedStudy,
    keywords: AbstractSet[str],
    *,
    of_worklist: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> StudyFacts:
    """The facts of a study in Orthanc, and what the modality worklist says of it.

    Raises StudyChanged if an instance was deleted meanwhile, and ArchiveUnavailable.
    """
    try:
        headers = [_header(archive, study, series, keywords) for series in study.sources if series.instances]
    except SourceGone as error:
        raise StudyChanged(
            "an instance was deleted while its header was looked at; the study is settled anew"
        ) from error
    return facts_of(study.study_instance_uid, headers, keywords, of_worklist=of_worklist)


def dictionary_of(orthanc: Any) -> Dictionary:
    """Orthanc's DICOM dictionary, from Orthanc's Python module."""
    unknown = (TypeError, getattr(orthanc, "OrthancException", TypeError))  # the module's versions differ

    def look_up(keyword: str) -> Attribute | None:
        for name in (keyword, RETIRED + keyword):
            try:
                found = orthanc.LookupDictionary(name)
            except unknown:
                continue
            return Attribute(group=found["Group"], vr=VRS[found["ValueRepresentation"] - 1])
        return None

    return look_up


def _header(archive: Archive, study: ArchivedStudy, series: ArchivedSeries, keywords: AbstractSet[str]) -> Header:
    first = min(series.instances, key=series.instances.__getitem__)
    wanted = keywords_to_read(keywords)
    texts: dict[str, str] = {**study.tags, **series.tags}
    if wanted - AT_HAND - IN_METADATA.keys():
        texts = {**_texts(archive, first, wanted), **texts}
    metadata: Mapping[str, str] = {}
    if keywords & (IN_METADATA.keys() | {"SOPClassesInStudy"}):
        metadata = archive.metadata(first)
        texts |= {keyword: metadata.get(name, "") for keyword, name in IN_METADATA.items()}
    return Header(
        series_instance_uid=series.tags["SeriesInstanceUID"],
        texts=texts,
        modality=series.tags.get("Modality", ""),
        sop_class_uid=metadata.get("SopClassUid", ""),
        instances=len(set(series.instances.values())),
    )


def _texts(archive: Archive, orthanc_id: str, wanted: AbstractSet[str]) -> dict[str, str]:
    """The texts of a header. A long one that is wanted is asked for by the name that Orthanc itself gives it."""
    header = archive.header(orthanc_id)
    cut = [name for name, text in header.items() if text is None and name.removeprefix(RETIRED) in wanted]
    if cut:
        header = archive.header(orthanc_id, whole=cut)
    return {name.removeprefix(RETIRED): text for name, text in header.items() if isinstance(text, str)}

"""Findings → the DICOM objects that a study gets back."""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.proof import prove_segmentation
from coread.dicom_sr.report import encode_absence_report, encode_measurement_report
from coread.dicom_sr.segmentation import encode_segmentation
from coread.dicom_sr.source import repaired
from coread.findings import Findings

FIRST_SERIES_NUMBER = 10_000
SERIES_NUMBERS_PER_MODEL = 10
BLOCKS = 2_000
"""Results sort after the scanner's own series, each model's in a block of its own (as far as 2000 blocks tell models
apart; a number used twice is legal)."""


INHERITED = (
    "StudyDescription",
    "IssuerOfPatientID",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "TimezoneOffsetFromUTC",
)
"""What results say of patient and study beside what highdicom copies."""


@dataclass(frozen=True, kw_only=True)
class ResultObject:
    """One DICOM object: ``kind`` is SEG, SR or SR-ABSENT."""

    kind: str
    dataset: Dataset

    def file(self) -> bytes:
        """The object as a DICOM file (PS3.10)."""
        buffer = io.BytesIO()
        self.dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()


def encode_findings(
    findings: Findings, *, images: Sequence[Dataset], identity: ResultIdentity
) -> tuple[ResultObject, ...]:
    """A segmentation and a report of what was found, and a report of what was looked for and not found.

    ``images``: the source's, in slice order. Raises ResultError if the segmentation does not read back as the mask.
    """
    first_number = _first_series_number(identity)
    headers = repaired(images, slice_spacing_mm=findings.labels.spacing[0])
    results = []
    if findings.present:
        segmentation = encode_segmentation(findings, headers=headers, identity=identity, series_number=first_number)
        _pin_dimensions(segmentation, identity)
        prove_segmentation(segmentation, findings)
        report = encode_measurement_report(
            findings,
            headers=headers,
            segmentation=segmentation,
            identity=identity,
            series_number=first_number + 1,
        )
        results += [ResultObject(kind="SEG", dataset=segmentation), ResultObject(kind="SR", dataset=report)]
    if findings.absent:
        absence = encode_absence_report(findings, headers=headers, identity=identity, series_number=first_number + 2)
        results.append(ResultObject(kind="SR-ABSENT", dataset=absence))
    for result in results:
        _complete_header(result.dataset, headers[0], identity)
    return tuple(results)


def _first_series_number(identity: ResultIdentity) -> int:
    block = zlib.crc32(identity.model.encode()) % BLOCKS
    return FIRST_SERIES_NUMBER + block * SERIES_NUMBERS_PER_MODEL


def _complete_header(dataset: Dataset, source: Dataset, identity: ResultIdentity) -> None:
    """What the encoder leaves out or takes from the clock: the same job must give the same bytes."""
    moment = _in_zone_of(source, identity.created_at)
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    for keyword in ("ContentDate", "InstanceCreationDate", "SeriesDate"):
        setattr(dataset, keyword, date)
    for keyword in ("ContentTime", "InstanceCreationTime", "SeriesTime"):
        setattr(dataset, keyword, time)
    dataset.SeriesDescription = f"AI {identity.title} {dataset.Modality} (RESEARCH)"[:64]
    dataset.ContentQualification = "RESEARCH"
    dataset.ManufacturerModelName = identity.model
    dataset.SoftwareVersions = identity.version
    dataset.DeviceSerialNumber = identity.digest[:16]
    for keyword in INHERITED:
        if keyword in source and keyword not in dataset:
            dataset[keyword] = source[keyword]
    contribution = Dataset()
    contribution.PurposeOfReferenceCodeSequence = DicomSequence([_processing_equipment()])
    contribution.Manufacturer = identity.manufacturer
    contribution.ManufacturerModelName = identity.model
    contribution.SoftwareVersions = identity.version
    contribution.DeviceSerialNumber = identity.digest[:16]
    contribution.ContributionDateTime = date + time + moment.strftime("%z")
    contribution.ContributionDescription = (
        f"Model digest sha256:{identity.digest}; job {identity.job_id}. {identity.limits}"
    )
    dataset.ContributingEquipmentSequence = DicomSequence([contribution])


def _pin_dimensions(dataset: Dataset, identity: ResultIdentity) -> None:
    """The encoder draws the dimension organization's UID at random; the same job must give the same bytes."""
    uid = identity.uid("dimensions", "SEG")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _in_zone_of(source: Dataset, moment: datetime) -> datetime:
    """The moment in the zone that the study's own times are in: as stated, else this machine's."""
    offset = str(source.get("TimezoneOffsetFromUTC") or "")
    try:
        return moment.astimezone(datetime.strptime(offset, "%z").tzinfo if offset else None)
    except ValueError:
        return moment.astimezone()


def _processing_equipment() -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "109102", "DCM", "Processing Equipment"
    return code

"""Findings → Structured Report: Comprehensive 3D SR, TID 1500 "Measurement Report" (PS3.16).

One kind of measurement group per document: what was found is a TID 1411 group that references its segment; what was
not found is said in a second document, by a TID 1501 group with the value Absent.
"""

from collections.abc import Sequence

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.segmentation import tracking_uid
from coread.findings import Findings, Measurement, Structure

ABSENT = Code("272519000", "SCT", "Absent")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
"""Procedure reported (CID 100): what the study was is in its own header, so the report says no more than it knows."""

SOURCE_IMAGE = Code("121233", "DCM", "Source image for segmentation")

SIGNIFICANT_DIGITS = 6
"""A DS value has 16 characters; six digits are more than any measurement here is worth."""


def encode_measurement_report(
    findings: Findings,
    *,
    headers: Sequence[Dataset],
    segmentation: hd.seg.Segmentation,
    identity: ResultIdentity,
    series_number: int,
) -> hd.sr.Comprehensive3DSR:
    """A TID 1411 group for each structure that is present, with its segment and its measurements."""
    groups = [
        hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=_tracking(structure, identity),
            referenced_segment=_reference(segmentation, number, headers=_slices_with(structure, findings, headers)),
            finding_type=structure.type,
            finding_sites=_sites(structure),
            algorithm_id=_algorithm(identity),
            measurements=[_measurement(measurement) for measurement in structure.measurements],
        )
        for number, structure in enumerate(findings.present, start=1)
    ]
    keys = sorted({_key_slice(findings, structure) for structure in findings.present})
    return _document(
        groups,
        evidence=[*headers, segmentation],
        key_images=[headers[index] for index in keys],
        identity=identity,
        kind="SR",
        series_number=series_number,
    )


def encode_absence_report(
    findings: Findings, *, headers: Sequence[Dataset], identity: ResultIdentity, series_number: int
) -> hd.sr.Comprehensive3DSR:
    """A TID 1501 group with the value Absent for each structure that was looked for and not found."""
    groups = [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=_tracking(structure, identity),
            finding_type=structure.type,
            finding_sites=_sites(structure),
            algorithm_id=_algorithm(identity),
            source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(header) for header in headers],
            qualitative_evaluations=[hd.sr.QualitativeEvaluation(name=structure.type, value=ABSENT)],
        )
        for structure in findings.absent
    ]
    return _document(
        groups,
        evidence=headers,
        key_images=[headers[len(headers) // 2]],
        identity=identity,
        kind="SR-ABSENT",
        series_number=series_number,
    )


def _document(
    groups: Sequence[hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations]
    | Sequence[hd.sr.MeasurementsAndQualitativeEvaluations],
    *,
    evidence: Sequence[Dataset],
    key_images: Sequence[Dataset],
    identity: ResultIdentity,
    kind: str,
    series_number: int,
) -> hd.sr.Comprehensive3DSR:
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=identity.device_uid,
            name=identity.model,
            manufacturer_name=identity.manufacturer,
            model_name=identity.model,
            serial_number=identity.digest[:16],
        ),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=IMAGING_PROCEDURE,
        imaging_measurements=list(groups),
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=list(key_images),
    )
    document = hd.sr.Comprehensive3DSR(
        evidence=list(evidence),
        content=content,
        series_instance_uid=identity.uid("series", kind),
        series_number=series_number,
        sop_instance_uid=identity.uid("instance", kind),
        instance_number=1,
        manufacturer=identity.manufacturer,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    _write_meanings_exactly(document)
    return document


def _write_meanings_exactly(document: Dataset) -> None:
    """Some readers match codes by their meaning, and highdicom writes this one with other capitals than PS3.16 does."""
    for element in document.iterall():
        if element.keyword == "ConceptNameCodeSequence" and element.value[0].CodeValue == SOURCE_IMAGE.value:
            element.value[0].CodeMeaning = SOURCE_IMAGE.meaning


def _reference(
    segmentation: hd.seg.Segmentation, number: int, *, headers: Sequence[Dataset]
) -> hd.sr.ReferencedSegment:
    # highdicom's own from_segmentation fails where a segmentation has one segment only (it looks for the segment's
    # number in each frame, and it then stands in the shared functional groups).
    return hd.sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=number,
        source_images=[hd.sr.SourceImageForSegmentation.from_source_image(header) for header in headers],
    )


def _slices_with(structure: Structure, findings: Findings, headers: Sequence[Dataset]) -> list[Dataset]:
    shown = (findings.labels.array == structure.label).any(axis=(1, 2))
    return [header for header, is_shown in zip(headers, shown, strict=True) if is_shown]


def _tracking(structure: Structure, identity: ResultIdentity) -> hd.sr.TrackingIdentifier:
    return hd.sr.TrackingIdentifier(uid=tracking_uid(structure, identity), identifier=structure.name)


def _algorithm(identity: ResultIdentity) -> hd.sr.AlgorithmIdentification:
    return hd.sr.AlgorithmIdentification(
        name=identity.model, version=identity.version, family=codes.DCM.ArtificialIntelligence
    )


def _sites(structure: Structure) -> list[hd.sr.FindingSite] | None:
    return [hd.sr.FindingSite(anatomic_location=structure.anatomy)] if structure.anatomy else None


def _measurement(measurement: Measurement) -> hd.sr.Measurement:
    return hd.sr.Measurement(
        name=measurement.concept,
        value=float(f"{measurement.value:.{SIGNIFICANT_DIGITS}g}"),
        unit=measurement.unit,
        derivation=measurement.derivation,
    )


def _key_slice(findings: Findings, structure: Structure) -> int:
    """The slice on which the structure is largest."""
    return int((findings.labels.array == structure.label).sum(axis=(1, 2)).argmax())

"""Findings → Structured Report: Comprehensive 3D SR, TID 1500 "Measurement Report" (PS3.16).

One kind of measurement group per document, because readers that expect one kind stumble over another. What was found
is a TID 1411 group that refers to its segment; the other kinds are in ``key_findings`` and ``statements``.
"""

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

from coread import codes
from coread.dicom_sr.header import in_series
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.segmentation import tracking_uid
from coread.dicom_sr.source import Plane, Source
from coread.findings import Findings, Measurement, Structure
from coread.objects import ObjectKind

SIGNIFICANT_DIGITS = 6
"""A DS value has 16 characters; six digits are more than any measurement here is worth."""


def encode_measurement_report(
    findings: Findings, source: Source, identity: ResultIdentity, *, segmentation: Dataset
) -> hd.sr.Comprehensive3DSR:
    """A TID 1411 group for each structure that is present, with its segment and its measurements.

    A series from a tilted gantry is flagged, since some viewers place its segments wrong.
    """
    groups = []
    for number, structure in enumerate(findings.present, start=1):
        group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking(structure, identity),
            # highdicom's own from_segmentation looks at each frame; the number is known here.
            referenced_segment=hd.sr.ReferencedSegment(
                sop_class_uid=segmentation.SOPClassUID,
                sop_instance_uid=segmentation.SOPInstanceUID,
                segment_number=number,
                source_series=hd.sr.SourceSeriesForSegmentation(source.header.SeriesInstanceUID),
            ),
            finding_type=structure.type,
            finding_sites=sites(structure),
            algorithm_id=algorithm_of_group(identity),
            measurements=[measurement_item(measurement) for measurement in structure.measurements],
        )
        if findings.mask.is_tilted:
            add_comment(
                group,
                f"Slices are tilted by {findings.mask.tilt_degrees:.1f} degrees (gantry tilt); volumes allow for it. "
                "Check that the viewer places the segments correctly.",
            )
        groups.append(group)
    keys = sorted({findings.key_plane(structure) for structure in findings.present})
    return document(
        groups,
        source=source,
        key_planes=[source.planes[index] for index in keys],
        identity=identity,
        kind=ObjectKind.SR,
        evidence=[segmentation],
    )


def document(
    groups: Sequence[Any],
    *,
    source: Source,
    key_planes: Sequence[Plane],
    identity: ResultIdentity,
    kind: ObjectKind,
    evidence: Sequence[Dataset] = (),
) -> hd.sr.Comprehensive3DSR:
    """A report around the groups: observer, procedure, image library of the key images only, evidence of all."""
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device_observer(identity)),
        procedure_reported=codes.IMAGING_PROCEDURE,
        imaging_measurements=list(groups),
        title=codes.IMAGING_MEASUREMENT_REPORT,
        referenced_images=[source.image_of(plane) for plane in key_planes],
    )
    report = hd.sr.Comprehensive3DSR(
        evidence=[*source.instances, *evidence],
        content=content,
        is_complete=True,
        is_final=False,
        is_verified=False,
        **in_series(identity, kind),
    )
    _write_meanings_exactly(report)
    return report


def device_observer(identity: ResultIdentity) -> hd.sr.ObserverContext:
    """The model as the observer (TID 1002, 1004)."""
    return hd.sr.ObserverContext(
        observer_type=CodedConcept.from_code(codes.DEVICE),
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=identity.device_uid,
            name=identity.model,
            manufacturer_name=identity.manufacturer,
            model_name=identity.model,
            serial_number=identity.digest[:16],
        ),
    )


def tracking(structure: Structure, identity: ResultIdentity) -> hd.sr.TrackingIdentifier:
    """The same for a structure in every object of the job."""
    return hd.sr.TrackingIdentifier(uid=tracking_uid(str(structure.label), identity), identifier=structure.name)


def algorithm_of_group(identity: ResultIdentity) -> hd.sr.AlgorithmIdentification:
    """TID 4019."""
    return hd.sr.AlgorithmIdentification(
        name=identity.model, version=identity.version, family=codes.ARTIFICIAL_INTELLIGENCE
    )


def sites(structure: Structure) -> list[hd.sr.FindingSite] | None:
    """Where the structure is, if its type does not say so."""
    return [hd.sr.FindingSite(anatomic_location=structure.anatomy)] if structure.anatomy else None


def measurement_item(measurement: Measurement) -> hd.sr.Measurement:
    """A NUM item (TID 1419, row 5)."""
    return hd.sr.Measurement(
        name=measurement.concept,
        value=float(f"{measurement.value:.{SIGNIFICANT_DIGITS}g}"),
        unit=measurement.unit,
        derivation=measurement.derivation,
    )


def add_comment(group: Any, text: str) -> None:
    """A sentence for people in a measurement group: a qualitative evaluation as text (TID 1419 and 1501)."""
    item = hd.sr.TextContentItem(
        name=codes.COMMENT, value=text, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS
    )
    group[0].ContentSequence.append(item)


def _write_meanings_exactly(report: Dataset) -> None:
    """Some readers match codes by their meaning, and highdicom writes some with other capitals than PS3.16 does."""
    for element in report.iterall():
        if element.keyword == "ConceptNameCodeSequence":
            (item,) = element.value
            item.CodeMeaning = _MEANINGS.get((item.CodeValue, item.CodingSchemeDesignator), item.CodeMeaning)


_MEANINGS = {(code.value, code.scheme_designator): code.meaning for code in (codes.SOURCE_IMAGE, codes.SOURCE_SERIES)}


def max_probability(findings: Findings, structure: Structure) -> float | None:
    """The highest probability that the model gave a structure anywhere; None if it does not tell."""
    probability = findings.probabilities.get(structure.label)
    return None if probability is None else float(np.max(probability))

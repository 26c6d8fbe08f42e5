"""Findings → Structured Report: Comprehensive 3D SR, TID 1500 "Measurement Report" (PS3.16).

One kind of measurement group per document, because readers that expect one kind stumble over another. What was found
is a TID 1411 group that refers to its segment; the other kinds are in ``key_findings`` and ``statements``.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.coding import Code
from pydicom.uid import UID, General32bitECGWaveformStorage, GeneralECGWaveformStorage, TwelveLeadECGWaveformStorage

from coread import codes
from coread.dicom_sr.header import in_series
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.segmentation import tracking_uid
from coread.dicom_sr.source import Plane, Source
from coread.findings import Findings, Mark, Measurement, Structure
from coread.objects import ObjectKind

SIGNIFICANT_DIGITS = 6
"""A DS value has 16 characters; six digits are more than any measurement here is worth."""

CROSS_SECTIONAL = ("CT", "MR", "PT")
"""Modalities whose images the library describes by TID 1604; projections it describes by TID 1603."""

GEOMETRY = {"PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3, "SliceThickness": 1}
"""What TID 1604 is made of: attribute → how many numbers it has."""

ECG_CLASSES = (TwelveLeadECGWaveformStorage, GeneralECGWaveformStorage, General32bitECGWaveformStorage)
"""Classes of the ECGs that models read."""

NO_GEOMETRY = "OT"
"""A Modality of whose images the library describes only size, class and frame of reference."""


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
                **_segmented(source),
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
        add_cycle_point(group, findings)
        groups.append(group)
    keys = sorted({findings.key_plane(structure) for structure in findings.present})
    return document(
        groups[:1],
        alike=groups[1:],
        source=source,
        key_planes=[source.planes[index] for index in keys],
        identity=identity,
        kind=ObjectKind.SR,
        evidence=[segmentation],
    )


def _segmented(source: Source) -> dict[str, Any]:
    """What a segment was made from (TID 1411): the series, or the images if they are of several series."""
    if len(source.by_series) == 1:
        return {"source_series": hd.sr.SourceSeriesForSegmentation(source.header.SeriesInstanceUID)}
    return {
        "source_images": [
            hd.sr.SourceImageForSegmentation(image.SOPClassUID, image.SOPInstanceUID) for image in source.instances
        ]
    }


def document(
    groups: Sequence[Any],
    *,
    source: Source,
    key_planes: Sequence[Plane],
    identity: ResultIdentity,
    kind: ObjectKind,
    evidence: Sequence[Dataset] = (),
    alike: Sequence[Any] = (),
) -> hd.sr.Comprehensive3DSR:
    """A report around the groups: observer, procedure, image library of the key images only, evidence of all.

    ``alike``: see ``report_of``.
    """
    described = (library_entry(source.image_of(plane)) for plane in key_planes)
    return report_of(
        groups,
        alike=alike,
        library=[image for image in described if image is not None],
        evidence=[*source.instances, *evidence],
        identity=identity,
        kind=kind,
        procedure=procedure_of(source.header),
    )


def report_of(
    groups: Sequence[Any],
    *,
    library: Sequence[Dataset],
    evidence: Sequence[Dataset],
    identity: ResultIdentity,
    kind: ObjectKind,
    procedure: Code = codes.IMAGING_PROCEDURE,
    alike: Sequence[Any] = (),
) -> hd.sr.Comprehensive3DSR:
    """A report around the groups. ``library``: see ``library_entry``; the first of ``evidence`` also has the attributes
    of patient and study. ``alike``: further groups that refer to nothing else than ``groups`` do; they are not copied
    and searched for references, and nor is the library: it takes seconds for a hundred of them.

    Raises ValueError if an image of the library is not among the evidence.
    """
    missing = {image.SOPInstanceUID for image in library} - {each.SOPInstanceUID for each in evidence}
    if missing:
        raise ValueError(f"expected all images of the library among the evidence, found {len(missing)} others")
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device_observer(identity)),
        procedure_reported=procedure,
        imaging_measurements=list(groups),
        title=codes.IMAGING_MEASUREMENT_REPORT,
    )
    report = hd.sr.Comprehensive3DSR(
        evidence=evidence,
        content=content,
        is_complete=True,
        is_final=False,
        is_verified=False,
        **in_series(identity, kind),
    )
    content_items = report.ContentSequence
    (place,) = (number for number, item in enumerate(content_items) if item.name == codes.IMAGING_MEASUREMENTS)
    for group in alike:
        content_items[place].ContentSequence.extend(group)
    if library:
        (images,) = hd.sr.ImageLibrary(library)
        content_items.insert(place, images)
    _write_meanings_exactly(report)
    return report


def library_entry(image: Dataset) -> Dataset | None:
    """What the image library can say of an image (TID 1602): no frame of reference that is not a UID, and no geometry
    unless the header states all of it. None if it is of no class for images, or without a size.
    """
    if not is_image_class(image.get("SOPClassUID")):
        return None
    if not all(_are_numbers(_values(image, keyword), 1) for keyword in ("Rows", "Columns")):
        return None
    entry = Dataset({**image})
    if not is_uid(entry.get("FrameOfReferenceUID")):
        entry.pop("FrameOfReferenceUID", None)
    if not _are_numbers(_values(entry, "SpacingBetweenSlices"), 1):
        entry.pop("SpacingBetweenSlices", None)
    if not _states_geometry(entry):
        entry.Modality = NO_GEOMETRY
    return entry


def is_uid(value: object) -> bool:
    """Whether a value is one legal UID (PS3.5 9.1), below one of the three roots that there are."""
    return isinstance(value, str) and UID(value).is_valid and value.startswith(("0.", "1.", "2."))


def procedure_of(header: Dataset) -> Code:
    """Procedure reported: what the study was is in its own header, so the report says no more than it knows."""
    return codes.TWELVE_LEAD_ECG if is_ecg(header) else codes.IMAGING_PROCEDURE


def is_ecg(header: Dataset) -> bool:
    """Whether an instance is of a class for ECGs that models read."""
    return header.get("SOPClassUID") in ECG_CLASSES


def is_image_class(sop_class_uid: object) -> bool:
    """Whether a value is the UID of a class of the standard whose objects are images."""
    return is_uid(sop_class_uid) and _is_of_image(str(sop_class_uid))


@lru_cache(maxsize=64)
def _is_of_image(sop_class_uid: str) -> bool:
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = sop_class_uid, sop_class_uid, NO_GEOMETRY
    image.Rows = image.Columns = 1
    try:
        hd.sr.ImageLibraryEntryDescriptors(image)
    except ValueError:  # the encoder has the table of the classes
        return False
    return True


def _states_geometry(image: Dataset) -> bool:
    if image.get("Modality") in CROSS_SECTIONAL:
        return all(_are_numbers(_values(image, keyword), count) for keyword, count in GEOMETRY.items())
    orientation = _values(image, "PatientOrientation")
    return len(orientation) == 2 and all(orientation) and _are_numbers(_values(image, "ImagerPixelSpacing"), 2)


def _values(image: Dataset, keyword: str) -> list[Any]:
    value = image.get(keyword)
    return list(value) if isinstance(value, MultiValue | list) else [value]


def _are_numbers(values: Sequence[Any], count: int) -> bool:
    try:
        return len(values) == count and all(math.isfinite(float(each)) for each in values)
    except (TypeError, ValueError):
        return False


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


def sites(structure: Structure | Mark) -> list[hd.sr.FindingSite] | None:
    """Where the structure is and on which side, if its type does not say so."""
    if structure.anatomy is None and structure.laterality is None:
        return None
    return [hd.sr.FindingSite(anatomic_location=structure.anatomy or structure.type, laterality=structure.laterality)]


def certainty(probability: float) -> hd.sr.Measurement:
    """How certain a finding is. Raises ValueError unless the probability is from 0 to 1."""
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"expected a probability from 0 to 1, found {probability}")
    return measurement_item(
        Measurement(concept=codes.CERTAINTY_OF_FINDING, value=100.0 * probability, unit=codes.PERCENT)
    )


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


def add_cycle_point(group: Any, findings: Findings) -> None:
    """At which point of the heart's cycle it was looked at, if that was told apart: a coded evaluation (TID 1419 and
    1501), as echocardiography names it (PS3.17 CCCC.4.4).
    """
    if findings.cycle_point is not None:
        item = hd.sr.CodeContentItem(
            name=codes.CARDIAC_CYCLE_POINT,
            value=findings.cycle_point,
            relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
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

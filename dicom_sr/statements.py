"""What a model says without an outline: classes, what it did not find, what it did not look at and why.

Reports with TID 1501 groups: a coded question, a coded answer, and where it is known how certain that is.
"""

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage

from coread import codes
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.report import (
    add_comment,
    add_cycle_point,
    algorithm_of_group,
    certainty,
    document,
    is_ecg,
    is_uid,
    library_entry,
    max_probability,
    measurement_item,
    procedure_of,
    report_of,
    sites,
    tracking,
)
from coread.dicom_sr.segmentation import tracking_uid
from coread.dicom_sr.source import Source
from coread.dicom_sr.waveform_reference import refer_to_waveform
from coread.findings import Classification, Findings, NotEvaluated, Quantity, Structure
from coread.objects import ObjectKind


def encode_classification(findings: Findings, source: Source, identity: ResultIdentity) -> hd.sr.Comprehensive3DSR:
    """A group for each class, its probability as Certainty of Finding, and for each number of the study as a whole, or
    with the answer Not Evaluated and the reason.
    """
    groups = [_classification(each, source, identity) for each in findings.classifications]
    groups += [_quantity(each, source, identity) for each in findings.quantities]
    groups += [group for each in findings.not_evaluated for group in _not_evaluated(each, _images(source), identity)]
    return _document(groups, source, identity, ObjectKind.SR_CLASSIFICATION)


def encode_absence(findings: Findings, source: Source, identity: ResultIdentity) -> hd.sr.Comprehensive3DSR:
    """A group with the answer Absent for each structure that was looked for and not found."""
    groups = []
    for structure in findings.absent:
        highest = max_probability(findings, structure)
        how_certain = [] if highest is None else [certainty(1.0 - highest)]
        group = _structure(structure, codes.ABSENT, _images(source), identity, how_certain)
        add_cycle_point(group, findings)
        groups.append(group)
    return _document(groups, source, identity, ObjectKind.SR_ABSENT)


def encode_not_evaluated(
    not_evaluated: NotEvaluated, header: Dataset, identity: ResultIdentity
) -> hd.sr.Comprehensive3DSR:
    """A group with the answer Not Evaluated for each structure, and the reason in words.

    ``header``: of the image that stands for the series. What is wrong with the series may be that very image: the
    report says of it what its header says, and refers to nothing if the header does not allow it.
    """
    image = _referable(header)
    images = [] if image is None or is_ecg(image) else [_source_image(image, frames=None)]
    report = report_of(
        _not_evaluated(not_evaluated, images, identity),
        library=[] if image is None or is_ecg(image) else [image],
        evidence=[_nameless(header, identity) if image is None else image],
        identity=identity,
        kind=ObjectKind.SR_NOT_EVALUATED,
        procedure=procedure_of(header),
    )
    if image is None:
        del report.CurrentRequestedProcedureEvidenceSequence  # required only where the content refers to something
    elif is_ecg(image):
        refer_to_waveform(report, image, channels=None)
    return report


def _referable(header: Dataset) -> Dataset | None:
    """What a report can say of an image or ECG and refer to; None if it is of no class for these, or one of its UIDs is
    not legal.
    """
    if not all(is_uid(header.get(keyword)) for keyword in ("SOPInstanceUID", "SeriesInstanceUID")):
        return None
    return header if is_ecg(header) else library_entry(header)


def _nameless(header: Dataset, identity: ResultIdentity) -> Dataset:
    """A header's patient and study, under identifiers that encoders accept."""
    own = Dataset()
    own.SOPClassUID = Comprehensive3DSRStorage
    own.SOPInstanceUID = own.SeriesInstanceUID = identity.uid("nameless")
    return Dataset({**header, **own})


def _document(
    groups: list[hd.sr.MeasurementsAndQualitativeEvaluations],
    source: Source,
    identity: ResultIdentity,
    kind: ObjectKind,
) -> hd.sr.Comprehensive3DSR:
    for group in groups:
        for remark in source.remarks:
            add_comment(group, remark)
    standing = source.standing_for_all
    report = document(groups, source=source, key_planes=standing, identity=identity, kind=kind)
    if is_ecg(standing[0].image):
        refer_to_waveform(report, standing[0].image, channels=source.channels)
    return report


def _images(source: Source) -> list[hd.sr.SourceImageForMeasurementGroup]:
    """A statement about all images needs no list of all."""
    standing = source.standing_for_all
    return [_source_image(plane.image, frames=plane.frames) for plane in standing if not is_ecg(plane.image)]


def _not_evaluated(
    not_evaluated: NotEvaluated, images: list[hd.sr.SourceImageForMeasurementGroup], identity: ResultIdentity
) -> list[hd.sr.MeasurementsAndQualitativeEvaluations]:
    groups = []
    for structure in not_evaluated.structures:
        group = _structure(structure, codes.NOT_EVALUATED, images, identity, [])
        add_comment(group, not_evaluated.reason)
        groups.append(group)
    return groups


def _source_image(image: Dataset, *, frames: list[int] | None) -> hd.sr.SourceImageForMeasurementGroup:
    return hd.sr.SourceImageForMeasurementGroup(
        referenced_sop_class_uid=image.SOPClassUID,
        referenced_sop_instance_uid=image.SOPInstanceUID,
        referenced_frame_numbers=frames,
    )


def _structure(
    structure: Structure,
    answer: Code,
    images: list[hd.sr.SourceImageForMeasurementGroup],
    identity: ResultIdentity,
    measurements: list[hd.sr.Measurement],
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking(structure, identity),
        finding_type=structure.type,
        finding_sites=sites(structure),
        algorithm_id=algorithm_of_group(identity),
        source_images=images,
        measurements=measurements,
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(name=structure.type, value=answer)],
    )


def _classification(
    classification: Classification, source: Source, identity: ResultIdentity
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    anatomy = classification.anatomy
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=tracking_uid(classification.name, identity), identifier=classification.name
        ),
        finding_type=classification.finding,
        finding_sites=[hd.sr.FindingSite(anatomic_location=anatomy)] if anatomy else None,
        algorithm_id=algorithm_of_group(identity),
        source_images=_images(source),
        measurements=[] if classification.probability is None else [certainty(classification.probability)],
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(name=classification.finding, value=classification.value)],
    )


def _quantity(
    quantity: Quantity, source: Source, identity: ResultIdentity
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    anatomy = quantity.anatomy
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=tracking_uid(quantity.name, identity), identifier=quantity.name
        ),
        finding_type=quantity.finding,
        finding_sites=[hd.sr.FindingSite(anatomic_location=anatomy)] if anatomy else None,
        algorithm_id=algorithm_of_group(identity),
        source_images=_images(source),
        measurements=[measurement_item(quantity.measurement)],
    )
    if quantity.comment:
        add_comment(group, quantity.comment)
    return group

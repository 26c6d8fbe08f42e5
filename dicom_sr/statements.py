"""What a model says without an outline: classes, what it did not find, what it did not look at and why.

Reports with TID 1501 groups: a coded question, a coded answer, and where it is known how certain that is.
"""

import highdicom as hd
from pydicom.sr.coding import Code

from coread import codes
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.report import (
    add_comment,
    algorithm_of_group,
    document,
    max_probability,
    measurement_item,
    sites,
    tracking,
)
from coread.dicom_sr.segmentation import tracking_uid
from coread.dicom_sr.source import Plane, Source
from coread.findings import Classification, Findings, Measurement, NotEvaluated, Structure
from coread.objects import ObjectKind


def encode_classification(findings: Findings, source: Source, identity: ResultIdentity) -> hd.sr.Comprehensive3DSR:
    """A group for each class, its probability as Certainty of Finding."""
    groups = [_classification(each, source, identity) for each in findings.classifications]
    return _document(groups, source, identity, ObjectKind.SR_CLASSIFICATION)


def encode_absence(findings: Findings, source: Source, identity: ResultIdentity) -> hd.sr.Comprehensive3DSR:
    """A group with the answer Absent for each structure that was looked for and not found."""
    groups = []
    for structure in findings.absent:
        highest = max_probability(findings, structure)
        certainty = [] if highest is None else [_certainty(1.0 - highest)]
        groups.append(_structure(structure, codes.ABSENT, source, identity, certainty))
    return _document(groups, source, identity, ObjectKind.SR_ABSENT)


def encode_not_evaluated(
    not_evaluated: NotEvaluated, source: Source, identity: ResultIdentity
) -> hd.sr.Comprehensive3DSR:
    """A group with the answer Not Evaluated for each structure, and the reason in words."""
    groups = []
    for structure in not_evaluated.structures:
        group = _structure(structure, codes.NOT_EVALUATED, source, identity, [])
        add_comment(group, not_evaluated.reason)
        groups.append(group)
    return _document(groups, source, identity, ObjectKind.SR_NOT_EVALUATED)


def _document(
    groups: list[hd.sr.MeasurementsAndQualitativeEvaluations],
    source: Source,
    identity: ResultIdentity,
    kind: ObjectKind,
) -> hd.sr.Comprehensive3DSR:
    return document(groups, source=source, key_planes=[_middle(source)], identity=identity, kind=kind)


def _middle(source: Source) -> Plane:
    """The image that stands for the series: a statement about all of it needs no list of all."""
    return source.planes[len(source.planes) // 2]


def _images(source: Source) -> list[hd.sr.SourceImageForMeasurementGroup]:
    plane = _middle(source)
    return [
        hd.sr.SourceImageForMeasurementGroup(
            referenced_sop_class_uid=plane.image.SOPClassUID,
            referenced_sop_instance_uid=plane.image.SOPInstanceUID,
            referenced_frame_numbers=plane.frames,
        )
    ]


def _structure(
    structure: Structure,
    answer: Code,
    source: Source,
    identity: ResultIdentity,
    certainty: list[hd.sr.Measurement],
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking(structure, identity),
        finding_type=structure.type,
        finding_sites=sites(structure),
        algorithm_id=algorithm_of_group(identity),
        source_images=_images(source),
        measurements=certainty,
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
        measurements=[_certainty(classification.probability)],
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(name=classification.finding, value=classification.value)],
    )


def _certainty(probability: float) -> hd.sr.Measurement:
    """Raises ValueError unless the probability is from 0 to 1."""
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"expected a probability from 0 to 1, found {probability}")
    return measurement_item(
        Measurement(concept=codes.CERTAINTY_OF_FINDING, value=100.0 * probability, unit=codes.PERCENT)
    )

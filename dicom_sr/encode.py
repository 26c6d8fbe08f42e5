"""Findings → the DICOM objects that a study gets back, each proven by reading it back."""

import io
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from coread.dicom_sr import proof
from coread.dicom_sr.decode import moments_of_bits
from coread.dicom_sr.frames import binary_frames
from coread.dicom_sr.header import complete_header
from coread.dicom_sr.heat_map import encode_heat_map
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.key_findings import encode_key_findings, outlines_in_report
from coread.dicom_sr.key_objects import encode_key_objects
from coread.dicom_sr.outlines import Points
from coread.dicom_sr.parametric_map import encode_parametric_map
from coread.dicom_sr.presentation_state import encode_presentation_state
from coread.dicom_sr.report import encode_measurement_report
from coread.dicom_sr.secondary_capture import encode_secondary_capture
from coread.dicom_sr.segmentation import encode_segmentation, tracking_uid
from coread.dicom_sr.source import Plane, Source
from coread.dicom_sr.statements import encode_absence, encode_classification, encode_not_evaluated
from coread.dicom_sr.structure_set import encode_structure_set, rings_in
from coread.errors import ResultError
from coread.findings import Findings, NotEvaluated
from coread.objects import ObjectKind, Profile, wanted_objects
from coread.volume import Volume, count_by_slice

SEGMENTATIONS = (
    ObjectKind.SEG,
    ObjectKind.SEG_FRACTIONAL,
    ObjectKind.SEG_LABELMAP,
    ObjectKind.SEG_LABELMAP_RLE,
)
"""In the order in which a report prefers them for its references."""

LABEL_MAPS = frozenset({ObjectKind.SEG_LABELMAP, ObjectKind.SEG_LABELMAP_RLE})

DESCRIPTIONS: Mapping[ObjectKind, str] = {
    ObjectKind.SEG: "segmentation",
    ObjectKind.SEG_FRACTIONAL: "probabilities",
    ObjectKind.SEG_LABELMAP: "label map",
    ObjectKind.SEG_LABELMAP_RLE: "label map",
    ObjectKind.SR: "measurements",
    ObjectKind.SR_KEY_FINDINGS: "key findings",
    ObjectKind.SR_CLASSIFICATION: "classes",
    ObjectKind.SR_ABSENT: "not found",
    ObjectKind.SR_NOT_EVALUATED: "not evaluated",
    ObjectKind.MAP: "map",
    ObjectKind.GSPS: "outlines",
    ObjectKind.SC: "overlay",
    ObjectKind.KOS: "key images",
    ObjectKind.RTSTRUCT: "structures",
    ObjectKind.SC_MAP: "saliency",
}
"""How the series are called, between the model's title and "(RESEARCH)"."""

OF_A_CYCLE = {**DESCRIPTIONS, ObjectKind.SR_CLASSIFICATION: "ejection fraction"}
"""The same of what is said of several phases."""

TOO_LONG = re.compile(r".*data element \((\w{4}),(\w{4})\) exceeds the size of 64 kByte", re.DOTALL)
"""pydicom's warning at a value that Explicit VR cannot hold: it writes it as UN, which readers do not understand."""

DEFAULT = wanted_objects([Profile.OHIF], {})


@dataclass(frozen=True, kw_only=True)
class ResultObject:
    """One DICOM object of a result."""

    kind: ObjectKind
    dataset: Dataset

    def file(self) -> bytes:
        """The object as a DICOM file (PS3.10). Raises ResultError at a value that is too long for its encoding."""
        buffer = io.BytesIO()
        with _too_long_values() as found:
            self.dataset.save_as(buffer, enforce_file_format=True)
        if found:
            raise ResultError(
                f"{self.kind}: expected values of up to 64 kB, found a longer {keyword_for_tag(found[0])}; nothing was "
                "stored, please report it"
            )
        return buffer.getvalue()


@contextmanager
def _too_long_values() -> Iterator[list[str]]:
    """The tags, as hexadecimal digits, of values that this thread has pydicom write and that are too long.

    What pydicom says of them is heard in its log: Python's filters of warnings are of all threads together, and another
    one may put them back at any time.
    """
    thread, found = threading.get_ident(), []

    def hear(record: logging.LogRecord) -> bool:
        said = TOO_LONG.match(record.getMessage())
        if said is not None and record.thread == thread:
            found.append("".join(said.groups()))
        return True

    log = logging.getLogger("pydicom")
    log.addFilter(hear)
    try:
        yield found
    except UserWarning as warning:  # where warnings are errors
        if TOO_LONG.match(str(warning)) is None:
            raise
    finally:
        log.removeFilter(hear)


def encode_findings(
    findings: Findings,
    *,
    source: Source,
    identity: ResultIdentity,
    kinds: AbstractSet[ObjectKind] = DEFAULT,
    descriptions: Mapping[ObjectKind, str] = DESCRIPTIONS,
) -> tuple[ResultObject, ...]:
    """The objects of these kinds, as far as there is something to say in them: without a structure that is present
    there is no segmentation. A report of measurements refers to a segmentation, so it brings one along.

    ``source.planes``: in the order of the findings' slices. Raises ResultError if an object does not read back as what
    was found; ValueError if FRACTIONAL is wanted of a model that gives no probabilities.
    """
    results = []
    for kind, dataset in _objects(findings, source, identity, kinds):
        complete_header(dataset, source.header, identity, description=descriptions[kind])
        results.append(ResultObject(kind=kind, dataset=dataset))
    return tuple(results)


def encode_refusal(
    not_evaluated: NotEvaluated, *, source: Source, identity: ResultIdentity
) -> tuple[ResultObject, ...]:
    """The report that says that the study was not evaluated, and why. The first image stands for the series, as a whole
    even if it has many frames.
    """
    header = Source(planes=[Plane(image=source.planes[0].image)]).header
    dataset = encode_not_evaluated(not_evaluated, header, identity)
    kind = ObjectKind.SR_NOT_EVALUATED
    complete_header(dataset, header, identity, description=DESCRIPTIONS[kind])
    return (ResultObject(kind=kind, dataset=dataset),)


def warm_up() -> None:
    """Have the kernels compiled before the first study waits for them: seconds, once on a machine."""
    labels, numbers = np.ones((2, 4, 4), np.uint8), np.arange(256).astype(np.uint8)
    for size in (4, 3):  # whole bytes or not are two kernels
        binary_frames([np.ascontiguousarray(labels[:, :size, :size])], numbers)
    count_by_slice(labels)
    proof.moments_by_label(labels)
    moments_of_bits(np.frombuffer(bytes(4), np.uint8), 2, 4, 4)


def _objects(
    findings: Findings, source: Source, identity: ResultIdentity, kinds: AbstractSet[ObjectKind]
) -> Iterator[tuple[ObjectKind, Dataset]]:
    if findings.present:
        yield from _objects_of_structures(findings, source, identity, kinds)
    elif findings.marks:  # nothing else says where they are, whoever reads it
        yield ObjectKind.SR_KEY_FINDINGS, _key_findings(findings, source, identity)
    if findings.absent and ObjectKind.SR_ABSENT in kinds:
        yield ObjectKind.SR_ABSENT, encode_absence(findings, source, identity)
    has_statements = findings.classifications or findings.quantities or findings.not_evaluated
    if has_statements and ObjectKind.SR_CLASSIFICATION in kinds:
        yield ObjectKind.SR_CLASSIFICATION, encode_classification(findings, source, identity)
    if ObjectKind.MAP in kinds:
        for number, scalar_map in enumerate(findings.maps, start=1):
            parametric_map = encode_parametric_map(scalar_map, source, identity, number=number)
            proof.prove_map(parametric_map, scalar_map)
            yield ObjectKind.MAP, parametric_map
    if ObjectKind.SC_MAP in kinds:
        explaining = [each for each in findings.maps if each.explains is not None]
        for number, scalar_map in enumerate(explaining, start=1):
            heat_map = encode_heat_map(scalar_map, source, identity, number=number)
            proof.prove_heat_map(heat_map, scalar_map)
            yield ObjectKind.SC_MAP, heat_map


def _objects_of_structures(
    findings: Findings, source: Source, identity: ResultIdentity, kinds: AbstractSet[ObjectKind]
) -> Iterator[tuple[ObjectKind, Dataset]]:
    wanted = [kind for kind in SEGMENTATIONS if kind in kinds]
    if findings.overlapping and LABEL_MAPS & set(wanted):  # in a label map, a voxel has one segment
        wanted = [ObjectKind.SEG, *(kind for kind in wanted if kind not in (ObjectKind.SEG, *LABEL_MAPS))]
    if ObjectKind.SR in kinds and not wanted:
        wanted = [ObjectKind.SEG]
    segmentations = []
    for kind in wanted:
        segmentation = encode_segmentation(findings, source, identity, kind)
        proof.prove_segmentation(segmentation, findings)
        segmentations.append(segmentation)
        yield kind, segmentation
    if ObjectKind.SR in kinds:
        yield (
            ObjectKind.SR,
            encode_measurement_report(findings, source, identity, segmentation=segmentations[0]),
        )
    if ObjectKind.SR_KEY_FINDINGS in kinds:
        yield ObjectKind.SR_KEY_FINDINGS, _key_findings(findings, source, identity)
    if ObjectKind.GSPS in kinds:
        state = encode_presentation_state(findings, source, identity)
        proof.prove_presentation_state(state, findings, source)
        yield ObjectKind.GSPS, state
    if ObjectKind.SC in kinds:
        capture = encode_secondary_capture(findings, source, identity)
        proof.prove_secondary_capture(capture, findings)
        yield ObjectKind.SC, capture
    if ObjectKind.KOS in kinds:
        yield ObjectKind.KOS, encode_key_objects(findings, source, identity)
    if ObjectKind.RTSTRUCT in kinds:
        structure_set = encode_structure_set(findings, source, identity)
        rings = rings_in(structure_set)
        proof.prove_contours(
            {structure.label: rings[number] for number, structure in enumerate(findings.present, start=1)}, findings
        )
        yield ObjectKind.RTSTRUCT, structure_set


def _key_findings(findings: Findings, source: Source, identity: ResultIdentity) -> hd.sr.Comprehensive3DSR:
    """The report of key findings, proven to read back as what was found."""
    report = encode_key_findings(findings, source, identity)
    said = outlines_in_report(report)

    def place_of(name: str, grid: Volume) -> tuple[int, Points]:
        outline = said[tracking_uid(name, identity)]
        if outline.sop_instance_uid:
            return source.indices[outline.sop_instance_uid, outline.frame], outline.points
        return proof.ring_in_slice(outline.points, grid)

    proof.prove_key_outlines(
        {structure.label: place_of(str(structure.label), findings.mask) for structure in findings.present}, findings
    )
    if findings.grid is not None:
        proof.prove_marks({mark.name: place_of(mark.name, findings.grid) for mark in findings.marks}, findings.marks)
    return report

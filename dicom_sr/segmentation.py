"""Findings → DICOM Segmentation (PS3.3 C.8.20): BINARY, FRACTIONAL or LABELMAP, on the source's own grid.

The header is highdicom's, made from one plane; the frames are ours (see ``frames``).
"""

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import RLELossless

from coread import codes
from coread.dicom_sr.frames import (
    Frames,
    binary_frames,
    fractional_frames,
    in_steps,
    label_map_frames,
    write_functional_groups,
    write_referenced_series,
)
from coread.dicom_sr.header import code_item, in_series, pin_dimensions, plain
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.source import Source
from coread.errors import ResultError
from coread.findings import Findings, Structure
from coread.objects import ObjectKind

_TYPE = {
    ObjectKind.SEG: hd.seg.SegmentationTypeValues.BINARY,
    ObjectKind.SEG_FRACTIONAL: hd.seg.SegmentationTypeValues.FRACTIONAL,
    ObjectKind.SEG_LABELMAP: hd.seg.SegmentationTypeValues.LABELMAP,
    ObjectKind.SEG_LABELMAP_RLE: hd.seg.SegmentationTypeValues.LABELMAP,
}


def encode_segmentation(
    findings: Findings, source: Source, identity: ResultIdentity, kind: ObjectKind = ObjectKind.SEG
) -> Dataset:
    """The structures that are present, numbered from 1 in their order. Frames without foreground are left out.

    Raises ValueError if no structure is present, or if a FRACTIONAL one is wanted of findings without probabilities;
    ResultError if a structure is present and its probability nowhere above 0, as far as a FRACTIONAL one can say.
    """
    present = findings.present
    if not present:
        raise ValueError("a segmentation needs at least one structure")
    frames = _frames(findings, present, kind)
    dataset = _header(present, source, identity, kind)
    pin_dimensions(dataset, identity, kind)
    if frames.overlap:
        dataset.SegmentsOverlap = "YES"  # the header's one plane has none
    write_referenced_series(dataset, source)
    write_functional_groups(dataset, frames, source.planes, derivation=codes.SEGMENTATION)
    dataset.add_new("PixelData", "OB", frames.pixels)
    if kind is ObjectKind.SEG_LABELMAP_RLE:
        dataset.compress(RLELossless, generate_instance_uid=False)
    return dataset


def segment_numbers(present: Sequence[Structure]) -> NDArray[np.uint8]:
    """Shape (256,): label → segment number, 0 for what is not present."""
    numbers = np.zeros(256, np.uint8)
    for number, structure in enumerate(present, start=1):
        numbers[structure.label] = number
    return numbers


def tracking_uid(name: str, identity: ResultIdentity) -> str:
    """What ties a segment to its measurements in the reports."""
    return str(identity.uid("tracking", name))


def algorithm(identity: ResultIdentity) -> hd.AlgorithmIdentificationSequence:
    """The model, as the Segmentation and the report name it (PS3.3 table 10-19)."""
    return hd.AlgorithmIdentificationSequence(
        name=identity.model,
        version=identity.version,
        family=codes.ARTIFICIAL_INTELLIGENCE,
        source=identity.manufacturer,
    )


def _frames(findings: Findings, present: Sequence[Structure], kind: ObjectKind) -> Frames:
    if kind is ObjectKind.SEG:
        return binary_frames([layer.array for layer in findings.layers], segment_numbers(present))
    if kind is not ObjectKind.SEG_FRACTIONAL:
        return label_map_frames(findings.mask.array, segment_numbers(present))
    without = [structure.name for structure in present if structure.label not in findings.probabilities]
    if without:
        raise ValueError(f"expected probabilities of every structure, found none of {', '.join(without)}")
    probabilities = [findings.probabilities[structure.label] for structure in present]
    highest = [in_steps(probability.max(keepdims=True)) for probability in probabilities]
    empty = [structure.name for structure, steps in zip(present, highest, strict=True) if not steps.any()]
    if empty:
        raise ResultError(
            f"expected probabilities of 1/255 or more of every structure found, found none of {', '.join(empty)}; "
            "check the model's output"
        )
    return fractional_frames(probabilities)


def _header(present: Sequence[Structure], source: Source, identity: ResultIdentity, kind: ObjectKind) -> Dataset:
    """A segmentation of one plane, without its frames: only what describes them all is kept."""
    first = source.template
    one_plane = np.zeros((1, first.Rows, first.Columns), np.uint8)
    one_plane[0, 0, 0] = 1
    segmentation = hd.seg.Segmentation(
        source_images=[first],
        pixel_array=one_plane if kind is not ObjectKind.SEG_FRACTIONAL else one_plane.astype(np.float32),
        segmentation_type=_TYPE[kind],
        segment_descriptions=[
            describe_segment(number, structure, identity) for number, structure in enumerate(present, start=1)
        ],
        manufacturer_model_name=identity.model,
        software_versions=identity.version,
        device_serial_number=identity.digest[:16],
        fractional_type=hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=255,
        content_label="SEGMENTATION",
        content_description=identity.title,
        content_creator_name="Coread^AI",
        **in_series(identity, kind),
    )
    return plain(segmentation)


def describe_segment(number: int, structure: Structure, identity: ResultIdentity) -> hd.seg.SegmentDescription:
    """A segment (PS3.3 C.8.20.4): its meaning, its maker, its colour, and the UID that it is tracked by."""
    return segment_of(
        number,
        structure,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm(identity),
        tracking_uid=tracking_uid(str(structure.label), identity),
        tracking_id=structure.name,
    )


def segment_of(number: int, structure: Structure, **made_by: Any) -> hd.seg.SegmentDescription:
    """A segment's meaning and colour. ``made_by``: what else highdicom is to say, of who made it."""
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.name,
        segmented_property_category=structure.category,
        segmented_property_type=structure.type,
        **made_by,
        anatomic_regions=[structure.anatomy] if structure.anatomy else None,
        display_color=CIELabColor.from_rgb(*structure.colour),
    )
    if structure.laterality:
        (property_type,) = description.SegmentedPropertyTypeCodeSequence
        property_type.SegmentedPropertyTypeModifierCodeSequence = DicomSequence([code_item(structure.laterality)])
    return description

"""Rules for multi-frame true colour secondary captures: colours, frames, and the source's place if they state one."""

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from coread.dicom_sr.validation.derivation import LOSSY, frame_of_reference_is_the_sources
from coread.dicom_sr.validation.geometry import (
    DIRECTION_TOLERANCE,
    POSITION_TOLERANCE_MM,
    Plane,
    Vector,
    all_planes,
    frames,
    gap_mm,
    outside_mm,
    plane_of,
)
from coread.dicom_sr.validation.multiframe import (
    frames_state_a_possible_place,
    functional_groups_stand_in_one_place,
    pixels_are_as_many_as_frames,
)
from coread.dicom_sr.validation.problem import Problem, Subject, problems_of

NEEDED = (
    "InstanceNumber",
    "ConversionType",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BurnedInAnnotation",
    "NumberOfFrames",
)
COLOURS = {"RGB", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "YBR_PARTIAL_420", "YBR_FULL"}
SAME_EDGE = 0.6
"""In pixels of the source: a rendering ends where its source ends, but for a legend beside it."""
SAME_SIZE = 1e-3
"""Relative: as large as the source."""

_pixel = problems_of("pixels", "PS3.3 A.8.5.4")
_geometry = problems_of("geometry", "PS3.3 C.7.6.16.2")
_frame = problems_of("frames", "PS3.3 C.7.6.6")


def header_is_a_captures(subject: Subject) -> Iterator[Problem]:
    """Three samples of eight bits, and what every capture says of itself."""
    dataset = subject.dataset
    for keyword in NEEDED:
        if dataset.get(keyword) in (None, ""):
            yield problems_of("attribute", "PS3.3 A.8.5")(keyword, "a value", "none")
    expected = {"SamplesPerPixel": 3, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    for keyword, value in expected.items():
        if dataset.get(keyword) != value:
            yield _pixel(keyword, str(value), str(dataset.get(keyword)))
    if dataset.get("PhotometricInterpretation") not in COLOURS:
        yield _pixel("PhotometricInterpretation", "RGB or YBR", str(dataset.get("PhotometricInterpretation")))
    if "PlanarConfiguration" not in dataset:
        yield _pixel("PlanarConfiguration", "0 or 1, for three samples", "none")
    if str(dataset.file_meta.get("TransferSyntaxUID")) in LOSSY and dataset.get("LossyImageCompression") != "01":
        yield problems_of("lossy", "PS3.3 C.7.6.1.1.5")("LossyImageCompression", "01", "not so")
    if dataset.get("PixelSpacing") and dataset.get("PerFrameFunctionalGroupsSequence"):
        yield _geometry("PixelSpacing", "in the functional groups", "beside them")


def frames_have_an_order(subject: Subject) -> Iterator[Problem]:
    """FrameIncrementPointer points to something that is there and says what orders the frames."""
    dataset = subject.dataset
    stated = dataset.get("FrameIncrementPointer")
    if int(dataset.get("NumberOfFrames") or 1) > 1 and stated is None:
        yield _frame("FrameIncrementPointer", "what orders the frames", "none")
    pointers: Sequence[BaseTag] = [] if stated is None else ([stated] if isinstance(stated, BaseTag) else list(stated))
    for pointer in pointers:
        if pointer not in dataset:
            yield _frame("FrameIncrementPointer", "an attribute that is there", str(pointer))


def frames_lie_in_the_source(subject: Subject) -> Iterator[Problem]:
    """Where frames have a place, it is in the source; a rendering of the source's images lies on them."""
    dataset = subject.dataset
    if "FrameOfReferenceUID" not in dataset or not frames(dataset):
        return
    yield from frame_of_reference_is_the_sources(subject)
    sources = all_planes(subject.sources, str(dataset.FrameOfReferenceUID))
    for index, groups in enumerate(frames(dataset)):
        place, own = f"PerFrameFunctionalGroupsSequence[{index}]", plane_of(dataset, groups)
        if own is not None and sources:
            yield from _place_problems(place, own, sources)


def _place_problems(place: str, own: Plane, sources: Sequence[Plane]) -> Iterator[Problem]:
    nearest = min(sources, key=lambda each: abs(float((own.position - each.position) @ each.normal)))
    size, shown = own.spacing * (own.rows, own.columns), nearest.spacing * (nearest.rows, nearest.columns)
    is_parallel = np.abs(own.orientation - nearest.orientation).max() <= DIRECTION_TOLERANCE
    if is_parallel and (size > shown * (1 - SAME_SIZE)).all():
        yield from _rendering_problems(place, own, nearest, larger_by=(size - shown) / nearest.spacing)
        return
    away = outside_mm(own.corners(), sources)  # of a reformation or a section
    if away > max(*own.spacing, *sources[0].spacing, gap_mm(sources) or 0.0):
        yield _geometry(f"{place}.PlanePositionSequence", "a place within the source series", f"{away:.1f} mm outside")


def _rendering_problems(place: str, own: Plane, nearest: Plane, *, larger_by: Vector) -> Iterator[Problem]:
    """``larger_by``: (row, column), in pixels of the source, what stands beside the picture."""
    distance = abs(float((own.position - nearest.position) @ nearest.normal))
    first = nearest.pixel_of(own.position)[0][:2] - own.spacing[::-1] / nearest.spacing[::-1] / 2 + 0.5
    last = first + larger_by[::-1]
    edges = np.where(np.abs(first) < np.abs(last), first, last)
    if distance > POSITION_TOLERANCE_MM or np.abs(edges).max() > SAME_EDGE / 2:
        shift = max(distance, float(np.abs(edges * nearest.spacing[::-1]).max()))
        yield _geometry(
            f"{place}.PlanePositionSequence", "the place of the image that it shows", f"{shift:.1f} mm away"
        )


def listing_is_plain(subject: Subject) -> Iterator[Problem]:
    """Images that it names as its source exist."""
    for item in subject.dataset.get("SourceImageSequence") or []:
        yield from _source_problems(subject, item)


def _source_problems(subject: Subject, item: Dataset) -> Iterator[Problem]:
    uid = str(item.get("ReferencedSOPInstanceUID"))
    image = subject.instance(uid)
    reference = problems_of("reference", "PS3.3 C.7.6.1")
    if image is None and subject.sources:
        yield reference("SourceImageSequence", "an image of the source", f"{uid}, which is not there")
    elif image is not None and str(item.get("ReferencedSOPClassUID")) != str(image.get("SOPClassUID")):
        found = str(item.get("ReferencedSOPClassUID"))
        yield reference("SourceImageSequence", f"SOP class {image.get('SOPClassUID')}", found)


def groups_agree(subject: Subject) -> Iterator[Problem]:
    """Functional groups are optional here; those that are there are as they must be."""
    if frames(subject.dataset):
        yield from functional_groups_stand_in_one_place(subject)
        yield from frames_state_a_possible_place(subject)


def pixels_agree(subject: Subject) -> Iterator[Problem]:
    """As in every multi-frame object, but a capture without functional groups has none to count."""
    without = "PerFrameFunctionalGroupsSequence" not in subject.dataset
    for problem in pixels_are_as_many_as_frames(subject):
        if not (without and problem.where == "NumberOfFrames"):
            yield problem


SECONDARY_CAPTURE = (
    header_is_a_captures,
    frames_have_an_order,
    frames_lie_in_the_source,
    listing_is_plain,
    groups_agree,
    pixels_agree,
)

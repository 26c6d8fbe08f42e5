"""Rules for images derived from others, frame by frame: each frame names its source and lies where the source lies."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset

from coread.dicom_sr.validation.geometry import (
    DIRECTION_TOLERANCE,
    POSITION_TOLERANCE_MM,
    Plane,
    Reference,
    all_planes,
    frame_sources,
    frames,
    gap_mm,
    geometry,
    outside_mm,
    planes_of_image,
    text_of,
)
from coread.dicom_sr.validation.problem import Problem, Severity, Subject, problems_of

_reference = problems_of("reference", "PS3.3 C.7.6.16.2.6")
_listed = problems_of("reference", "PS3.3 C.12.2")
_geometry = problems_of("geometry", "PS3.3 C.7.6.16.2")
_frame = problems_of("frame of reference", "PS3.3 C.7.4.1")

LIST = "ReferencedSeriesSequence"
FRAMES = "PerFrameFunctionalGroupsSequence"


def frame_of_reference_is_the_sources(subject: Subject) -> Iterator[Problem]:
    """Coordinates mean something only within one frame of reference."""
    expected = frames_of_reference(subject)
    found = str(subject.dataset.get("FrameOfReferenceUID"))
    if expected and found not in expected:
        yield _frame("FrameOfReferenceUID", f"the source's, {sorted(expected)[0]}", found)


def frames_of_reference(subject: Subject) -> set[str]:
    """Those of the sources that are at hand."""
    return {str(source.FrameOfReferenceUID) for source in subject.sources.values() if source.get("FrameOfReferenceUID")}


def sources_are_listed(subject: Subject) -> Iterator[Problem]:
    """The object lists the source series and its instances once each, and they exist where it says."""
    series: Sequence[Dataset] = subject.dataset.get(LIST) or []
    elsewhere = subject.dataset.get("StudiesContainingOtherReferencedInstancesSequence") or []
    if not series and not elsewhere:
        yield _listed(LIST, "the source series and its instances", "none")
    for uid, count in Counter(str(item.get("SeriesInstanceUID")) for item in series).items():
        if count > 1:
            yield _listed(LIST, "each series once", f"{uid} {count} times")
    for index, item in enumerate(series):
        place = f"{LIST}[{index}]"
        references = item.get("ReferencedInstanceSequence") or []
        if not references:
            yield _listed(f"{place}.ReferencedInstanceSequence", "the instances of the series", "none")
        for uid, count in Counter(str(each.get("ReferencedSOPInstanceUID")) for each in references).items():
            if count > 1:
                yield _listed(place, "each instance once", f"{uid} {count} times")
        if subject.sources:
            yield from _listing_problems(subject, place, item)


def _listing_problems(subject: Subject, place: str, item: Dataset) -> Iterator[Problem]:
    known = {str(source.get("SeriesInstanceUID")) for source in subject.sources.values()}
    uid = str(item.get("SeriesInstanceUID"))
    if uid not in known | {str(each.get("SeriesInstanceUID")) for each in subject.results.values()}:
        yield _listed(place, "the source's series", uid)
    for reference in item.get("ReferencedInstanceSequence") or []:
        instance_uid = str(reference.get("ReferencedSOPInstanceUID"))
        instance = subject.instance(instance_uid)
        if instance is None:
            yield _listed(place, "images of the source", f"{instance_uid}, which is not there")
            continue
        if str(instance.get("SeriesInstanceUID")) != uid:
            yield _listed(place, f"instances of the series {uid}", f"{instance_uid}, which is of another")
        if str(reference.get("ReferencedSOPClassUID")) != str(instance.get("SOPClassUID")):
            yield _listed(place, f"SOP class {instance.SOPClassUID}", str(reference.get("ReferencedSOPClassUID")))


def listed_instances(dataset: Dataset) -> set[str]:
    """SOP Instance UIDs in ReferencedSeriesSequence, of this study and of others."""
    studies = [dataset, *(dataset.get("StudiesContainingOtherReferencedInstancesSequence") or [])]
    return {
        str(item.get("ReferencedSOPInstanceUID"))
        for study in studies
        for series in study.get(LIST) or []
        for item in series.get("ReferencedInstanceSequence") or []
    }


def frames_name_their_sources(subject: Subject) -> Iterator[Problem]:
    """Each frame names the image that it was derived from, and how."""
    listed = listed_instances(subject.dataset)
    of_frames = list(frame_sources(subject.dataset))
    for index, references in enumerate(of_frames):
        place = f"{FRAMES}[{index}].DerivationImageSequence"
        for reference in references:
            yield from _source_problems(subject, place, reference)
            if listed and reference.uid not in listed:
                yield _reference(place, f"an instance that {LIST} lists", reference.uid)
    without = sum(not references for references in of_frames)
    if without:
        # All of them without: legal for a grid of its own, as long as the series is listed. Some: a mistake.
        excused = listed and without == len(of_frames)
        yield _reference(
            f"{FRAMES}.DerivationImageSequence",
            "the source image of each frame",
            f"{without} frames without",
            Severity.WARNING if excused else Severity.ERROR,
        )
    for index, groups in enumerate(frames(subject.dataset)):
        for derivation in groups.get("DerivationImageSequence") or []:
            place = f"{FRAMES}[{index}].DerivationImageSequence"
            if not derivation.get("DerivationCodeSequence"):
                yield _reference(f"{place}.DerivationCodeSequence", "what was done (CID 7203)", "none")
            for image in derivation.get("SourceImageSequence") or []:
                if not image.get("PurposeOfReferenceCodeSequence"):
                    yield _reference(f"{place}.SourceImageSequence", "why it is named (CID 7202)", "no purpose")


def _source_problems(subject: Subject, place: str, reference: Reference) -> Iterator[Problem]:
    source = subject.instance(reference.uid)
    if reference.uid == str(subject.dataset.get("SOPInstanceUID")):
        yield _reference(place, "an image that it was made from", "the object itself")
    elif source is None:
        if subject.sources:
            yield _reference(place, "an image of the source", f"{reference.uid}, which is not there")
    elif reference.class_uid != str(source.get("SOPClassUID")):
        yield _reference(place, f"SOP class {source.SOPClassUID}", reference.class_uid)
    else:
        count = int(source.get("NumberOfFrames") or 1)
        beyond = [number for number in reference.frames if not 1 <= number <= count]
        if beyond:
            yield _reference(place, f"a frame from 1 to {count}", str(beyond[0]))


def frames_lie_on_their_sources(subject: Subject) -> Iterator[Problem]:
    """A frame on the source's grid has its source's position, orientation and spacing; any other lies within it."""
    dataset = subject.dataset
    known = {uid: planes_of_image(source) for uid, source in subject.sources.items()}
    series = all_planes(subject.sources, str(dataset.get("FrameOfReferenceUID")))
    for index, (groups, references) in enumerate(zip(frames(dataset), frame_sources(dataset), strict=True)):
        place = f"{FRAMES}[{index}]"
        candidates = [
            plane
            for reference in references
            for number, plane in known.get(reference.uid, {}).items()
            if not reference.frames or number in reference.frames
        ]
        if not candidates and not series:
            continue
        position, orientation, spacing = geometry(dataset, groups)
        if position is None or orientation is None or spacing is None:
            yield _geometry(place, "position, orientation and spacing", "not all of them")
            continue
        if (len(position), len(orientation), len(spacing)) != (3, 6, 2):
            continue  # another rule counts the values
        own = Plane(
            position=position,
            orientation=orientation,
            spacing=spacing,
            rows=int(dataset.Rows),
            columns=int(dataset.Columns),
        )
        if len(candidates) == 1:
            yield from _differences(own, candidates[0], place)
        elif series and not any(_is_same(own, each) for each in candidates):
            yield from _is_within(own, series, place)


def _is_same(own: Plane, source: Plane) -> bool:
    return not list(_differences(own, source, ""))


def _is_within(own: Plane, series: Sequence[Plane], place: str) -> Iterator[Problem]:
    """A frame that has no one source lies where the series lies."""
    away = outside_mm(own.corners(), series)
    margin = float(max(*own.spacing, *series[0].spacing, gap_mm(series) or 0.0))
    if away > margin:
        yield _geometry(f"{place}.PlanePositionSequence", "a place within the source series", f"{away:.1f} mm outside")


def _differences(own: Plane, source: Plane, place: str) -> Iterator[Problem]:
    if np.abs(own.orientation - source.orientation).max() > DIRECTION_TOLERANCE:
        yield _geometry(f"{place}.PlaneOrientationSequence", text_of(source.orientation), text_of(own.orientation))
        return
    same_grid = (own.rows, own.columns) == (source.rows, source.columns)
    away = own.position - source.position
    if not same_grid:  # a grid of its own in the source's plane
        away = source.normal * (away @ source.normal)
    if np.linalg.norm(away) > POSITION_TOLERANCE_MM:
        found = f"{text_of(own.position)}, {np.linalg.norm(away):.2f} mm away"
        yield _geometry(f"{place}.PlanePositionSequence", text_of(source.position), found)
    if same_grid and not np.allclose(own.spacing, source.spacing, rtol=1e-3):
        yield _geometry(f"{place}.PixelMeasuresSequence", text_of(source.spacing), text_of(own.spacing))
    if not same_grid:
        yield from _extent_problems(own, source, place)


def _extent_problems(own: Plane, source: Plane, place: str) -> Iterator[Problem]:
    """A grid of its own still shows what the source shows: its edges lie within the source's, but for a pixel."""
    half = own.spacing[::-1] / source.spacing[::-1] / 2
    places = source.pixel_of(own.corners())[:, :2]
    low, high = places.min(axis=0) - half, places.max(axis=0) + half
    size = np.array([source.columns, source.rows])
    margin = np.maximum(1.0, 2 * half)
    beyond = max(float((-0.5 - low - margin).max()), float((high - size + 0.5 - margin).max()))
    if beyond > 0:
        found = f"{own.rows} rows and {own.columns} columns that reach {beyond + 1:.0f} pixels beyond it"
        yield _geometry(f"{place}.PlanePositionSequence", "a grid within the source image", found)


def lossiness_is_inherited(subject: Subject) -> Iterator[Problem]:
    """What was lost once stays lost, in every image that is derived."""
    dataset, section = subject.dataset, "PS3.3 C.7.6.1.1.5"
    named = {reference.uid for references in frame_sources(dataset) for reference in references}
    lossy = any(
        str(subject.sources[uid].get("LossyImageCompression") or "00") == "01" for uid in named & set(subject.sources)
    )
    stated = str(dataset.get("LossyImageCompression") or "")
    if lossy and stated != "01":
        yield problems_of("lossy", section)("LossyImageCompression", "01, as the source has it", stated or "none")
    if stated == "01" and not dataset.get("LossyImageCompressionRatio"):
        yield problems_of("lossy", section)("LossyImageCompressionRatio", "a ratio, since it is lossy", "none")
    if stated == "01" and named and named <= set(subject.sources) and not lossy and not _is_lossy_itself(dataset):
        yield problems_of("lossy", section)("LossyImageCompression", "00: nothing was lost", "01")


def _is_lossy_itself(dataset: Dataset) -> bool:
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    return syntax in LOSSY


LOSSY = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.203",
)
"""JPEG Baseline and Extended, JPEG-LS near-lossless, JPEG 2000 and HTJ2K, each where it may lose something."""

DERIVED = (
    frame_of_reference_is_the_sources,
    sources_are_listed,
    frames_name_their_sources,
    frames_lie_on_their_sources,
    lossiness_is_inherited,
)

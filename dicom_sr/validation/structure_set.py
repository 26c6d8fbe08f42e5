"""Rules for RT structure sets: contours lie on their images, and the three lists of regions speak of the same."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset

from coread.dicom_sr.validation.derivation import frames_of_reference
from coread.dicom_sr.validation.geometry import Plane, Vector, all_planes, gap_mm, numbers, outside_mm, planes_of_image
from coread.dicom_sr.validation.problem import Problem, Severity, Subject, problems_of

PLANE_TOLERANCE_MM = 0.2
"""How far a contour may be from its image's plane: planning systems round to a tenth of a millimetre."""
REGIONS, CONTOURS, OBSERVATIONS, FRAMES = (
    "StructureSetROISequence",
    "ROIContourSequence",
    "RTROIObservationsSequence",
    "ReferencedFrameOfReferenceSequence",
)
FEWEST = {"POINT": 1, "OPEN_PLANAR": 2, "OPEN_NONPLANAR": 2, "CLOSED_PLANAR": 3, "CLOSEDPLANAR_XOR": 3}
PLANAR = ("OPEN_PLANAR", "CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

_region = problems_of("region", "PS3.3 C.8.8.5")
_contour = problems_of("contour", "PS3.3 C.8.8.6")
_observation = problems_of("region", "PS3.3 C.8.8.8")
_reference = problems_of("reference", "PS3.3 C.8.8.5")


def header_is_a_structure_sets(subject: Subject) -> Iterator[Problem]:
    """A label, and a date and a time, if need be empty."""
    dataset = subject.dataset
    if not dataset.get("StructureSetLabel"):
        yield problems_of("attribute", "PS3.3 C.8.8.5")("StructureSetLabel", "a value", "none")
    for keyword in ("StructureSetDate", "StructureSetTime"):
        if keyword not in dataset:
            yield problems_of("attribute", "PS3.3 C.8.8.5")(keyword, "the attribute, if need be empty", "none")
    for keyword in (REGIONS, CONTOURS, OBSERVATIONS):
        if keyword not in dataset:
            yield problems_of("attribute", "PS3.3 A.19")(keyword, "the sequence", "none")


def regions_agree(subject: Subject) -> Iterator[Problem]:
    """Each region has a number of its own; contours and observations are of regions that exist."""
    dataset = subject.dataset
    counts = Counter(_number(roi, "ROINumber") for roi in dataset.get(REGIONS) or [])
    for number, count in counts.items():
        if count > 1 or number is None:
            yield _region(f"{REGIONS}.ROINumber", "a number for each region", f"{number} {count} times")
    for keyword, problem in ((CONTOURS, _contour), (OBSERVATIONS, _observation)):
        spoken = Counter(_number(item, "ReferencedROINumber") for item in dataset.get(keyword) or [])
        for number, count in spoken.items():
            if number not in counts:
                known = sorted(each for each in counts if each is not None)
                yield problem(f"{keyword}.ReferencedROINumber", f"one of {known}", str(number))
            if count > 1 and keyword == CONTOURS:
                yield problem(f"{keyword}.ReferencedROINumber", "each region once", f"{number} {count} times")
        for number in sorted(each for each in set(counts) - set(spoken) if each is not None):
            severity = Severity.ERROR if keyword == OBSERVATIONS and spoken else Severity.WARNING
            yield problem(keyword, f"an item of region {number}", "none", severity)


def regions_are_described(subject: Subject) -> Iterator[Problem]:
    """Each region has a name and says how it was made; its colour is one."""
    dataset = subject.dataset
    for index, roi in enumerate(dataset.get(REGIONS) or []):
        for keyword in ("ROIName", "ROIGenerationAlgorithm"):
            if not roi.get(keyword):
                severity = Severity.WARNING if keyword in roi else Severity.ERROR
                yield _region(f"{REGIONS}[{index}].{keyword}", "a value", "none", severity)
    for index, item in enumerate(dataset.get(OBSERVATIONS) or []):
        if "RTROIInterpretedType" not in item:
            expected = "the attribute, if need be empty"
            yield _observation(f"{OBSERVATIONS}[{index}].RTROIInterpretedType", expected, "none")
    for index, item in enumerate(dataset.get(CONTOURS) or []):
        colour = numbers(item.get("ROIDisplayColor"))
        if colour and (len(colour) != 3 or not all(0 <= each <= 255 for each in colour)):
            yield _contour(f"{CONTOURS}[{index}].ROIDisplayColor", "three numbers from 0 to 255", "others")


def _number(item: Dataset, keyword: str) -> int | None:
    found = numbers(item.get(keyword))
    return found[0] if found else None


def frames_of_reference_agree(subject: Subject) -> Iterator[Problem]:
    """Regions are in a frame of reference that is listed, and that is the source's."""
    dataset = subject.dataset
    listed = {str(item.get("FrameOfReferenceUID")) for item in dataset.get(FRAMES) or []}
    known = frames_of_reference(subject)
    problem = problems_of("frame of reference", "PS3.3 C.8.8.5")
    for index, roi in enumerate(dataset.get(REGIONS) or []):
        found = str(roi.get("ReferencedFrameOfReferenceUID"))
        place = f"{REGIONS}[{index}].ReferencedFrameOfReferenceUID"
        if listed and found not in listed:
            yield problem(place, f"one that {FRAMES} lists", found)
        elif known and found not in known:
            yield problem(place, f"the source's, {sorted(known)[0]}", found)
    for found in sorted(listed - known) if known else []:
        yield problem(FRAMES, f"the source's, {sorted(known)[0]}", found)


def images_are_referenced(subject: Subject) -> Iterator[Problem]:
    """The images that contours lie on are listed, exist, and are of the class that is stated."""
    listed: set[str] = set()
    for frame in subject.dataset.get(FRAMES) or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                uid = str(series.get("SeriesInstanceUID"))
                for reference in series.get("ContourImageSequence") or []:
                    listed.add(str(reference.get("ReferencedSOPInstanceUID")))
                    yield from _image_problems(subject, FRAMES, reference, series_uid=uid)
    for place, contour in _contours(subject.dataset):
        for reference in contour.get("ContourImageSequence") or []:
            uid = str(reference.get("ReferencedSOPInstanceUID"))
            yield from _image_problems(subject, place, reference)
            if listed and uid not in listed:
                yield _contour(f"{place}.ContourImageSequence", f"an image that {FRAMES} lists", uid)


def _image_problems(
    subject: Subject, place: str, reference: Dataset, series_uid: str | None = None
) -> Iterator[Problem]:
    uid, class_uid = (str(reference.get(f"ReferencedSOP{part}UID")) for part in ("Instance", "Class"))
    image = subject.instance(uid)
    if image is None:
        if subject.sources:
            yield _reference(place, "an image of the source", f"{uid}, which is not there")
        return
    if class_uid != str(image.get("SOPClassUID")):
        yield _reference(place, f"SOP class {image.get('SOPClassUID')}", class_uid)
    if series_uid is not None and series_uid != str(image.get("SeriesInstanceUID")):
        yield _reference(place, f"the image's series, {image.get('SeriesInstanceUID')}", series_uid)


def _contours(dataset: Dataset) -> Iterator[tuple[str, Dataset]]:
    for index, roi in enumerate(dataset.get(CONTOURS) or []):
        for number, contour in enumerate(roi.get("ContourSequence") or []):
            yield f"{CONTOURS}[{index}].ContourSequence[{number}]", contour


def contours_lie_on_their_images(subject: Subject) -> Iterator[Problem]:
    """A contour has the points that it states, in one plane if it is planar: that of its image, and within it."""
    known = [all_planes(subject.sources, uid) for uid in sorted(frames_of_reference(subject))]
    series = [plane for planes in known for plane in planes] if len(known) == 1 else []
    for place, contour in _contours(subject.dataset):
        points = _points(contour)
        if points is None:
            yield _contour(f"{place}.ContourData", "three finite numbers for each point", "others")
            continue
        kind = str(contour.get("ContourGeometricType", "none"))
        if contour.get("NumberOfContourPoints") != len(points):
            found = str(contour.get("NumberOfContourPoints"))
            yield _contour(f"{place}.NumberOfContourPoints", f"{len(points)}, as many as in ContourData", found)
        if kind not in FEWEST:
            yield _contour(f"{place}.ContourGeometricType", " or ".join(FEWEST), kind)
        elif len(points) < FEWEST[kind]:
            yield _contour(f"{place}.ContourData", f"{FEWEST[kind]} points or more for {kind}", str(len(points)))
        elif kind == "POINT" and len(points) > 1:
            yield _contour(f"{place}.ContourData", "one point for POINT", str(len(points)))
        elif kind in PLANAR and not _is_flat(points):
            yield _contour(f"{place}.ContourData", "points in one plane", "others")
        yield from _plane_problems(subject, place, contour, points, series)


def _points(contour: Dataset) -> Vector | None:
    try:
        values = [float(str(value)) for value in contour.get("ContourData") or []]
    except (ValueError, TypeError):
        return None
    if not values or len(values) % 3 or not all(math.isfinite(value) for value in values):
        return None
    return np.array(values).reshape(-1, 3)


def _is_flat(points: Vector) -> bool:
    if len(points) < 4:
        return True
    away = points - points.mean(axis=0)
    return bool(np.abs(away @ np.linalg.svd(away, full_matrices=False)[2][2]).max() <= PLANE_TOLERANCE_MM)


def _plane_problems(
    subject: Subject, place: str, contour: Dataset, points: Vector, series: Sequence[Plane]
) -> Iterator[Problem]:
    references = contour.get("ContourImageSequence") or []
    planes = [
        plane
        for reference in references
        if (image := subject.sources.get(str(reference.get("ReferencedSOPInstanceUID")))) is not None
        for number, plane in planes_of_image(image).items()
        if number in (numbers(reference.get("ReferencedFrameNumber")) or (number,))
    ]
    if len(planes) == 1 and len(references) == 1:
        away = float(np.abs(planes[0].pixel_of(points)[:, 2]).max())
        if away > PLANE_TOLERANCE_MM:
            yield _contour(f"{place}.ContourData", "points on the plane of the image", f"one {away:.2f} mm off")
            return
    if series:
        outside = outside_mm(points, series)
        if outside > max(*series[0].spacing, gap_mm(series) or 0.0):
            yield _contour(f"{place}.ContourData", "points in the images", f"one {outside:.1f} mm outside")


STRUCTURE_SET = (
    header_is_a_structure_sets,
    regions_agree,
    regions_are_described,
    frames_of_reference_agree,
    images_are_referenced,
    contours_lie_on_their_images,
)

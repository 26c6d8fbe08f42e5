"""What a person changed: their object beside ours, as far as both are at hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from coread.dicom_sr.decode import FrameGeometry, frame_geometries, frames_of
from coread.dicom_sr.feedback import answers_changed, changes, label_of, outlines_changed, tracked

FRACTION = 0.5
"""From which share of MaximumFractionalValue on a voxel of a FRACTIONAL segmentation counts."""
PLACE_DIGITS = 2
"""Frames lie in the same place if they do to a hundredth of a millimetre: viewers write decimals anew."""

Mask = NDArray[np.bool_]
Masks = dict[tuple[float, ...], Mask]
"""Where a frame lies (its affine, rounded) and its size → which pixels are set."""


def measurement_changes(ours: Dataset, theirs: Dataset) -> list[dict[str, Any]]:
    """The measurements, answers and outlines in which a person's report differs from ours, as JSON's types. Of what
    only theirs has, texts are not quoted: a person may have typed anything.
    """
    tracked_by_us = tracked(ours)
    found = [
        {
            "tracking_uid": change.tracking_uid if change.tracking_uid in tracked_by_us else "",
            "concept": "an added measurement" if change.ours is None else change.concept.meaning,
            "derivation": None if change.ours is None else change.derivation,
            "ours": change.ours,
            "theirs": change.theirs,
        }
        for change in changes(ours, theirs)
    ]
    answers = [uid if uid in tracked_by_us else "" for uid in answers_changed(ours, theirs)]
    moved = outlines_changed(ours, theirs)
    found += [{"tracking_uid": uid, "concept": "coded answer"} for uid in answers]
    return found + [{"tracking_uid": uid, "concept": "finding moved or left out"} for uid in moved]


def dice_by_structure(ours: Dataset, theirs: Dataset) -> dict[str, float | None]:
    """The label of each of our segments → Dice between it and the person's; None if the person left it out, or drew it
    on another grid. A segment is found by its Tracking UID, else by the code of its type and its label, else by one of
    these where only one has it.
    """
    pairs = _pairs(ours, theirs)
    mine, other = masks_of(ours), masks_of(theirs)
    found: dict[str, float | None] = {}
    for segment, match in pairs:
        label = str(segment.get("SegmentLabel", ""))
        before = mine.get(int(segment.SegmentNumber), {})
        after = {} if match is None else other.get(int(match.SegmentNumber), {})
        found[label] = None if match is None or not _on_one_grid(before, after) else _dice(before, after)
    return found


def masks_of(segmentation: Dataset) -> Mapping[int, Masks]:
    """Segment number → its frames, of a BINARY, FRACTIONAL or LABELMAP segmentation; empty ones left out."""
    kind = str(segmentation.SegmentationType)
    least = FRACTION * float(segmentation.MaximumFractionalValue) if kind == "FRACTIONAL" else 1
    found: dict[int, Masks] = {}
    for geometry, frame in zip(frame_geometries(segmentation), frames_of(segmentation), strict=True):
        is_map = kind == "LABELMAP"
        for number in np.unique(frame[frame > 0]).tolist() if is_map else [geometry.segment]:
            mask = frame == number if is_map else frame >= least
            if mask.any():
                found.setdefault(int(number), {})[_place(geometry, mask)] = mask
    return found


def _place(geometry: FrameGeometry, mask: Mask) -> tuple[float, ...]:
    # Adding zero makes of a negative zero an ordinary one.
    return (*(np.round(geometry.affine, PLACE_DIGITS) + 0.0).ravel().tolist(), *mask.shape)


def _on_one_grid(one: Masks, other: Masks) -> bool:
    """Whether frames can be compared pixel by pixel: the pixels' ways and the frames' sizes are the same."""
    ways = {(place[0], place[1], place[3], place[4], place[6], place[7], *place[9:]) for place in (*one, *other)}
    return len(ways) == 1 and bool(one.keys() & other.keys() or not one or not other)


def _dice(one: Masks, other: Masks) -> float | None:
    both = sum(int(np.count_nonzero(one[place] & other[place])) for place in one.keys() & other.keys())
    size = sum(int(np.count_nonzero(mask)) for mask in (*one.values(), *other.values()))
    return 2 * both / size if size else None


def _pairs(ours: Dataset, theirs: Dataset) -> list[tuple[Dataset, Dataset | None]]:
    left = list(theirs.get("SegmentSequence") or [])
    pairs: list[tuple[Dataset, Dataset | None]] = []
    for segment in ours.get("SegmentSequence") or []:
        match = _match(segment, left)
        if match is not None:
            left.remove(match)
        pairs.append((segment, match))
    return pairs


def _match(segment: Dataset, candidates: list[Dataset]) -> Dataset | None:
    tracking = str(segment.get("TrackingUID", ""))
    for each in candidates:
        if tracking and str(each.get("TrackingUID", "")) == tracking:
            return each
    untracked = [each for each in candidates if not each.get("TrackingUID")]
    of_type = [each for each in untracked if _type(each) == _type(segment)]
    labelled = [each for each in untracked if label_of(each) == label_of(segment)]
    chosen = [each for each in of_type if each in labelled] or of_type or labelled
    return chosen[0] if len(chosen) == 1 else None


def _type(segment: Dataset) -> tuple[str, str]:
    code = next(iter(segment.get("SegmentedPropertyTypeCodeSequence") or []), Dataset())
    return str(code.get("CodeValue", "")), str(code.get("CodingSchemeDesignator", ""))

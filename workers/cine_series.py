"""Cines that a scanner or a person has spread over several series, put together again: one series for each slice, or
one for each of the two phases.
"""

import statistics
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from pydicom.dataset import Dataset

from coread.dicom_sr.source import Plane, frame_count, planes_of
from coread.errors import InputError
from coread.models.manifest import Phases, SeriesRequirement
from coread.workers.phases import DESCRIPTION, TIMES, named_phase
from coread.workers.study import Series
from coread.workers.volume import GRID_TOLERANCE_MM, checked_planes, places_of

SHORTEST_SYSTOLE_MS = 100.0
"""Two stacks whose times after the R wave differ by less are of one phase: no heart empties faster."""

COSINE_DECIMALS, SPACING_DECIMALS = 3, 3
"""To which ImageOrientationPatient and PixelSpacing of the parts of a cine agree."""


Loader = Callable[[], list[Dataset]]


@dataclass(frozen=True, kw_only=True)
class _Cine:
    """Series that are one cine, the best first, and what each of them is of it."""

    parts: Sequence[Series]
    loaders: Sequence[Loader]
    kind: str


def join_cines(
    found: Sequence[Series], requirement: SeriesRequirement, *, left: MutableMapping[str, str]
) -> list[Series]:
    """The series with those that are one cine put together, in the place of the best of them; ``left`` gets a reason
    for each of the others. Series that cannot be told to be parts of one cine stay what they are.

    Parts of a cine are a series for each phase, named by the manifest's words; one for each slice; or two stacks of one
    phase each, at different times after the R wave. For the last two, the series are loaded.
    """
    remaining = list(found)
    if requirement.phases is None:
        return remaining
    for alike in _of_one_grid(found):
        for cine in _cines(alike, requirement.phases):
            first, *others = cine.parts
            uids = [series.series_instance_uid for series in remaining]
            remaining[uids.index(first.series_instance_uid)] = _joined(cine)
            for part in others:
                left[part.series_instance_uid] = (
                    f"read together with {first.series_instance_uid}: each is a {cine.kind} of one cine"
                )
            remaining = [series for series in remaining if series.series_instance_uid not in left]
    return remaining


def _joined(cine: _Cine) -> Series:
    return Series(
        header=cine.parts[0].header,
        size=sum(part.size for part in cine.parts),
        load=lambda: [image for load in cine.loaders for image in load()],
    )


def _of_one_grid(found: Sequence[Series]) -> list[list[Series]]:
    """The series whose slices may be of one stack, by one header of each; two or more, the best first."""
    groups: dict[tuple[object, ...], list[Series]] = {}
    for series in found:
        groups.setdefault(_grid(series), []).append(series)
    return [group for group in groups.values() if len(group) > 1]


def _grid(series: Series) -> tuple[object, ...]:
    plane = next(planes_of(series.header), Plane(image=series.header))
    try:
        cosines = np.array(plane.get("ImageOrientationPatient"), float).reshape(6).round(COSINE_DECIMALS) + 0.0
        spacing = np.array(plane.get("PixelSpacing"), float).reshape(2).round(SPACING_DECIMALS)
    except (TypeError, ValueError):
        return (series.series_instance_uid,)  # whatever it is, it is no part of another
    size = (str(plane.image.get("Rows")), str(plane.image.get("Columns")))  # a broken header may have several
    return (str(plane.get("FrameOfReferenceUID")), *cosines, *spacing, *size)


def _cines(alike: Sequence[Series], wanted: Phases) -> Iterator[_Cine]:
    named = {series.series_instance_uid: _named(series, wanted) for series in alike}
    parts = [series for series in alike if named[series.series_instance_uid]]
    if sorted(filter(None, named.values())) == sorted((wanted.filled.name, wanted.emptied.name)):
        yield _Cine(parts=parts, loaders=[part.load for part in parts], kind="phase")
    unnamed = [series for series in alike if not named[series.series_instance_uid]]
    loaders = {series.series_instance_uid: cache(series.load) for series in unnamed}
    slices = [
        series
        for series in (unnamed if len(unnamed) > 1 else [])
        if not _has_several_slices(series) and _is_one_slice(loaders[series.series_instance_uid])
    ]
    if len(slices) > 1:
        yield _Cine(parts=slices, loaders=[loaders[part.series_instance_uid] for part in slices], kind="slice")
    elif len(alike) == len(unnamed) == 2 and _are_two_phases(*loaders.values()):
        yield _Cine(parts=unnamed, loaders=list(loaders.values()), kind="phase")


def _named(series: Series, wanted: Phases) -> str:
    """The phase that its description names; empty if none."""
    phase = named_phase(str(series.header.get(DESCRIPTION) or ""), wanted)
    return phase.name if phase else ""


def _has_several_slices(series: Series) -> bool:
    """Whether its header says so, so that it need not be loaded."""
    phases = Plane(image=series.header).number("CardiacNumberOfImages")
    return phases is not None and series.size * frame_count(series.header) > phases


def _is_one_slice(load: Loader) -> bool:
    """Whether all images lie in one place. If they cannot be loaded or say no place, they may: then the whole cine is
    refused for it, instead of being read without a slice.
    """
    try:
        planes = checked_planes(load())
        positions, _ = places_of(planes)
    except InputError:
        return True
    return len(planes) > 1 and float(np.ptp(positions, axis=0).max()) <= GRID_TOLERANCE_MM


def _are_two_phases(one: Loader, other: Loader) -> bool:
    """Whether two series are stacks of one phase each, the places of one of them all among those of the other, at times
    after the R wave that differ by so much that they are two phases.
    """
    try:
        stacks = [checked_planes(load()) for load in (one, other)]
        _, along_normal = places_of([plane for planes in stacks for plane in planes])
    except InputError:
        return False
    places = [{round(place / GRID_TOLERANCE_MM) for place in each} for each in np.split(along_normal, [len(stacks[0])])]
    times = [_time_ms(planes) for planes in stacks]
    return (
        all(len(found) == len(planes) for found, planes in zip(places, stacks, strict=True))
        and (places[0] <= places[1] or places[1] <= places[0])
        and None not in times
        and abs((times[0] or 0.0) - (times[1] or 0.0)) >= SHORTEST_SYSTOLE_MS
    )


def _time_ms(planes: Sequence[Plane]) -> float | None:
    """The median time after the R wave; None if it is not known of all."""
    for keyword in TIMES:
        times = [plane.number(keyword) for plane in planes]
        if None not in times:
            return statistics.median(time for time in times if time is not None)
    return None

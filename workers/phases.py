"""From the images of a cine to its phases: which image is of which phase, and one stack of slices for each of them.

Each slice of a cine is often a breath-hold of its own, with a heart rate of its own: the times after the R wave differ
by some milliseconds from slice to slice. So phases are matched by their rank in each slice, and not by equal times.
What is not whole is refused: a phase with a slice of another would be measured wrong without anybody seeing it.
"""

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import pairwise

import numpy as np
from pydicom.dataset import Dataset

from coread.dicom_sr.source import Plane
from coread.errors import GeometryError
from coread.models.manifest import PhaseMeaning, Phases
from coread.workers.volume import GRID_TOLERANCE_MM, SourceVolume, Values, checked_planes, places_of, stack_of

TIMES = ("TriggerTime", "NominalCardiacTriggerDelayTime")
"""Ms from the R wave to the image."""
RANKED = (*TIMES, "NominalPercentageOfCardiacPhase")
"""What grows from phase to phase, and differs a little from slice to slice."""
INDICES = ("TemporalPositionIndex", "TemporalPositionIdentifier")
"""What is the same in all slices of a phase."""
ECHO_TIMES = ("EchoTime", "EffectiveEchoTime")
DESCRIPTION, INSTANCE_NUMBER = "SeriesDescription", "InstanceNumber"

WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """One phase: a plane of each slice, in the order of the slices."""

    planes: tuple[Plane, ...]
    time_ms: float | None = None
    """After the R wave: the median of the slices. None: it is not known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cine(SourceVolume):
    """A stack in several phases in the order of time; ``volume`` and ``planes`` are the first one's."""

    phases: tuple[Phase, ...]
    told_by: str
    """The attribute that tells them apart. SeriesDescription: they are the filled one and the emptied one."""
    values: Values

    def stack(self, number: int) -> SourceVolume:
        """The volume of a phase, counted from 0. Raises GeometryError if it forms none, NotDicom if pixels cannot be
        decoded.
        """
        return stack_of(self.phases[number].planes, values=self.values)

    @cached_property
    def has_meanings(self) -> bool:
        return self.told_by == DESCRIPTION


Slices = Sequence[Sequence[Plane]]
"""The planes in one place, for each place."""


def build_stack_or_cine(images: Sequence[Dataset], *, values: Values, wanted: Phases) -> SourceVolume:
    """The volume that the images form; if there are several in each place, the Cine. Raises what ``build_volume`` does,
    and GeometryError if the phases are not whole or cannot be told apart.
    """
    planes = checked_planes(images)
    slices = _by_place(planes)
    if all(len(each) == 1 for each in slices):
        return stack_of(planes, values=values)
    if len(slices) < 2:
        raise GeometryError("expected two or more slices, found several images in one place; send the whole stack")
    told_by, phases = split(slices, wanted)
    if len(phases) == 1:
        return stack_of(planes, values=values)  # which says that places are taken twice
    _check_same_grid(phases)
    first = stack_of(phases[0].planes, values=values)
    return Cine(volume=first.volume, planes=first.planes, phases=phases, told_by=told_by, values=values)


def split(slices: Slices, wanted: Phases) -> tuple[str, tuple[Phase, ...]]:
    """The phases in the order of time, and the attribute that told them apart; one phase of all planes if nothing does.
    The order of the planes does not matter.

    The first of these that all planes have, and that differs somewhere within a slice, decides: the phases' names in
    SeriesDescription; times and percentages, matched by rank; indices, matched by value; last InstanceNumber, if its
    steps and CardiacNumberOfImages allow it. Raises GeometryError if by that attribute a slice has a phase twice, or
    not as many as others.
    """
    named = _by_name(slices, wanted)
    if named:
        return DESCRIPTION, named
    for keyword in (*RANKED, *INDICES):
        values = [[plane.number(keyword) for plane in each] for each in slices]
        if None in (value for each in values for value in each) or all(len(set(each)) == 1 for each in values):
            continue
        _check_one_echo(slices)
        return keyword, (_by_rank if keyword in RANKED else _by_value)(slices, keyword)
    if _counts_phases(slices):
        _check_one_echo(slices)
        return INSTANCE_NUMBER, _by_rank(slices, INSTANCE_NUMBER)
    return "", (Phase(planes=tuple(plane for each in slices for plane in each)),)


def named_phase(description: str, wanted: Phases) -> PhaseMeaning | None:
    """The phase that a SeriesDescription names; None if it names none, or both."""
    words = WORD.findall(description.casefold())
    named = [
        phase
        for phase in (wanted.filled, wanted.emptied)
        if any(fnmatchcase(word, pattern.casefold()) for word in words for pattern in phase.words)
    ]
    return named[0] if len(named) == 1 else None


def _by_place(planes: Sequence[Plane]) -> Slices:
    """The planes that lie in one plane of the patient together, in the order of these."""
    _, along_normal = places_of(planes)
    order = np.argsort(along_normal, kind="stable")
    starts = np.flatnonzero(np.diff(along_normal[order]) > GRID_TOLERANCE_MM) + 1
    return [[planes[index] for index in group] for group in np.split(order, starts)]


def _by_name(slices: Slices, wanted: Phases) -> tuple[Phase, ...]:
    """The filled phase and the emptied one; none if not each plane's series is named as one of them."""
    named = [[named_phase(str(plane.get(DESCRIPTION) or ""), wanted) for plane in each] for each in slices]
    if {phase for each in named for phase in each} != {wanted.filled, wanted.emptied}:
        return ()
    phases = []
    for phase in (wanted.filled, wanted.emptied):
        of_phase = [
            [plane for plane, name in zip(each, names, strict=True) if name is phase]
            for each, names in zip(slices, named, strict=True)
        ]
        for number, planes in enumerate(of_phase, start=1):
            if len(planes) != 1:
                raise GeometryError(
                    f"expected one image of {phase.name} in each place, found {len(planes)} in "
                    f"{_place(slices, number)}; send both phases with the same slices"
                )
        phases.append(_phase([planes[0] for planes in of_phase]))
    return tuple(phases)


def _by_rank(slices: Slices, keyword: str) -> tuple[Phase, ...]:
    ordered = []
    for number, planes in enumerate(slices, start=1):
        by_value = sorted(planes, key=lambda plane: _number(plane, keyword))
        values = [_number(plane, keyword) for plane in by_value]
        for rank, (one, other) in enumerate(pairwise(values), start=1):
            if one == other:
                raise GeometryError(
                    f"expected one image of each phase in a place, found two of {keyword} {one:g} (phase {rank}) in "
                    f"{_place(slices, number)}; keep one of them"
                )
        ordered.append(by_value)
    counts = Counter(len(each) for each in ordered)
    usual = max(counts, key=lambda count: (counts[count], count))
    for number, planes in enumerate(ordered, start=1):
        if len(planes) != usual:
            raise GeometryError(
                f"expected {usual} phases in each place, as most places have by {keyword}, found {len(planes)} in "
                f"{_place(slices, number)}; send the whole series"
            )
    return tuple(_phase(planes) for planes in zip(*ordered, strict=True))


def _by_value(slices: Slices, keyword: str) -> tuple[Phase, ...]:
    values = sorted({_number(plane, keyword) for planes in slices for plane in planes})
    phases = []
    for value in values:
        of_value = [[plane for plane in planes if _number(plane, keyword) == value] for planes in slices]
        for number, planes in enumerate(of_value, start=1):
            if len(planes) != 1:
                raise GeometryError(
                    f"expected one image of each phase in a place, found {len(planes)} of {keyword} {value:g} in "
                    f"{_place(slices, number)}; send the whole series, each image once"
                )
        phases.append(_phase([planes[0] for planes in of_value]))
    return tuple(phases)


def _counts_phases(slices: Slices) -> bool:
    """Whether InstanceNumber may stand for time, where nothing better is there: every slice has as many images as
    CardiacNumberOfImages says, and from image to image in a place the number grows by the same step everywhere. So it
    is where a scanner numbers slice by slice, or phase by phase.
    """
    planes = [plane for each in slices for plane in each]
    counts = {len(each) for each in slices}
    stated = {plane.number("CardiacNumberOfImages") for plane in planes}
    if any(plane.frame is not None or plane.number(INSTANCE_NUMBER) is None for plane in planes):
        return False
    steps = {
        later - earlier
        for each in slices
        for earlier, later in pairwise(sorted(_number(plane, INSTANCE_NUMBER) for plane in each))
    }
    return len(counts) == 1 and stated == counts and len(steps) == 1 and 0 not in steps


def _check_one_echo(slices: Slices) -> None:
    """Raises GeometryError if images in one place differ in their echo time: then they are not phases alone."""
    for number, planes in enumerate(slices, start=1):
        for keyword in ECHO_TIMES:
            if len({plane.number(keyword) for plane in planes}) > 1:
                raise GeometryError(
                    f"expected one {keyword} in all phases, found several in {_place(slices, number)}; send each echo "
                    "as a series of its own"
                )


def _check_same_grid(phases: Sequence[Phase]) -> None:
    """Raises GeometryError unless each slice lies in one place in all phases."""
    first, _ = places_of(phases[0].planes)
    for number, phase in enumerate(phases[1:], start=2):
        positions, _ = places_of(phase.planes)
        away_mm = np.linalg.norm(positions - first, axis=1)
        if away_mm.max() > GRID_TOLERANCE_MM:
            raise GeometryError(
                f"expected each slice in one place in all phases, found slice {int(away_mm.argmax()) + 1} of phase "
                f"{number} {away_mm.max():.1f} mm away from that of phase 1; send stacks of one grid"
            )


def _phase(planes: Sequence[Plane]) -> Phase:
    for keyword in TIMES:
        times = [plane.number(keyword) for plane in planes]
        if None not in times:
            return Phase(planes=tuple(planes), time_ms=statistics.median(time for time in times if time is not None))
    return Phase(planes=tuple(planes))


def _number(plane: Plane, keyword: str) -> float:
    """An attribute that is known to be a number."""
    number = plane.number(keyword)
    if number is None:
        raise ValueError(f"{keyword} is no number")
    return number


def _place(slices: Slices, number: int) -> str:
    """Which slice it is, in words."""
    position = ", ".join(f"{float(value):.1f}" for value in slices[number - 1][0].get("ImagePositionPatient"))
    return f"slice {number} of {len(slices)} (ImagePositionPatient {position})"

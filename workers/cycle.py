"""What is told from several phases of a structure that fills and empties: its largest and its smallest volume, and what
was driven out between them.

A wrong ejection fraction is worse than none. So the fraction is reported only if nothing speaks against the two phases;
else the volumes are, and why there is no fraction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from coread import codes
from coread.dicom_sr.identity import EMPTIED, FILLED
from coread.dicom_sr.source import Source
from coread.findings import Findings, Measurement, NotEvaluated, Quantity, Structure
from coread.models.manifest import CodeTriple, Manifest, PhaseMeaning, Phases
from coread.models.prediction import Prediction
from coread.models.runner import BundleRunner
from coread.workers.cine_series import SHORTEST_SYSTOLE_MS
from coread.workers.measure import volume_ml
from coread.workers.phases import Cine
from coread.workers.volume import SourceVolume

FEWEST_FOR_A_CURVE = 10
"""From this many phases on, one step is at most a tenth of the heart's cycle, and the curve of volumes is smooth."""

LARGEST_JUMP = 0.2
"""Of the largest volume: an extreme that differs by more from both its neighbours is a mistake of the model, since the
curve is flat where it turns."""

SHORTEST_EMPTYING = 0.15
"""Of the cycle, between the two phases: systole takes a quarter to a half of it."""

SMALLEST_OVERLAP = 0.5
"""Of the emptied structure, inside the filled one. What shrinks hardly leaves its place."""

LARGEST_GROWTH = 0.02
"""Of the largest volume: so much more of the emptied structure than of the filled one in a slice is no matter of
contours any more. At the apex and the base it shows that something else was taken for the structure."""


@dataclass(frozen=True, kw_only=True)
class PhaseSeen:
    """One of the two phases of a cine."""

    part: str
    """FILLED or EMPTIED: what identifiers derive from."""
    name: str
    """For people: "end-diastole"."""
    point: Code | None
    """Of the heart's cycle."""
    number: int
    """Of the phases of the cine, from 0."""
    time_ms: float | None
    """After the R wave."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """A stack of slices, and what the model gave for it."""

    source: SourceVolume
    prediction: Prediction
    phase: PhaseSeen | None = None
    """Of a cine: which phase it is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cycle:
    """A cine as the model saw it: the volume of the structure in each phase, and the two phases between which it
    empties.
    """

    cine: Cine
    volumes_ml: tuple[float, ...]
    looks: tuple[Look, Look]
    """The filled phase, and the emptied one."""
    phases: tuple[PhaseSeen, PhaseSeen]

    @cached_property
    def as_source(self) -> Source:
        """The images of both phases, for what is said of both; the middle one of each stands for all."""
        sources = [look.source.as_source for look in self.looks]
        return Source(
            planes=[plane for source in sources for plane in source.planes],
            spacing_mm=sources[0].spacing_mm,
            volume=sources[0].volume,
            representatives=[plane for source in sources for plane in source.standing_for_all],
        )


def follow(cine: Cine, runner: BundleRunner) -> Cycle:
    """Have the model look at all phases. The filled phase is that of the largest volume and the emptied one that of the
    smallest, unless the series' descriptions say which they are.

    Raises what predicting does, and what building a phase's volume does.
    """
    manifest = runner.model.manifest
    wanted = _phases(manifest)
    label = manifest.value_of(wanted.label)
    volumes: list[float] = []
    kept: dict[int, tuple[SourceVolume, Prediction]] = {}
    for number in range(len(cine.phases)):
        source = cine.stack(number)
        prediction = runner.predict([source.volume])
        volumes.append(volume_ml(_any_of(prediction.layers, label), source.volume))
        kept[number] = source, prediction
        kept = {extreme: kept[extreme] for extreme in _extremes(cine, volumes)}  # the others would fill the memory
    filled, emptied = _extremes(cine, volumes)
    phases = (
        _seen(cine, filled, FILLED, wanted.filled),
        _seen(cine, emptied, EMPTIED, wanted.emptied),
    )
    one, other = (Look(source=kept[phase.number][0], prediction=kept[phase.number][1], phase=phase) for phase in phases)
    return Cycle(cine=cine, volumes_ml=tuple(volumes), looks=(one, other), phases=phases)


def tell(cycle: Cycle, found: Sequence[Findings], *, manifest: Manifest) -> Findings:
    """The numbers of the cycle: both volumes, stroke volume and ejection fraction; or the volumes that there are, and
    why there is no more. ``found``: in the filled phase and in the emptied one.
    """
    phases = _phases(manifest)
    label = manifest.value_of(phases.label)
    (structure,) = (each for each in found[0].structures if each.label == label)
    masks = [_any_of([layer.array for layer in findings.layers], label) for findings in found]
    largest, smallest = (volume_ml(mask, look.source.volume) for mask, look in zip(masks, cycle.looks, strict=True))
    when = [f"{phase.name}: {_which(cycle, phase)}" for phase in cycle.phases]
    volumes = [
        _quantity(phases.filled.volume, largest, codes.MILLILITER, structure, comment=when[0]),
        _quantity(phases.emptied.volume, smallest, codes.MILLILITER, structure, comment=when[1]),
    ]
    known = [quantity for quantity in volumes if quantity.measurement.value > 0]
    reason = _why_not(cycle, masks, phases=phases)
    if reason is not None:
        lacking = [quantity.measurement.concept for quantity in volumes if quantity not in known]
        lacking += [_code(phases.stroke_volume), _code(phases.fraction)]
        asked = tuple(_question(number, concept, structure) for number, concept in enumerate(lacking, start=1))
        return Findings(quantities=tuple(known), not_evaluated=(NotEvaluated(structures=asked, reason=reason),))
    stroke_ml = largest - smallest
    both = "; ".join(when)
    return Findings(
        quantities=(
            *volumes,
            _quantity(phases.stroke_volume, stroke_ml, codes.MILLILITER, structure, comment=both),
            _quantity(phases.fraction, 100 * stroke_ml / largest, codes.PERCENT, structure, comment=both),
        )
    )


def summary_of(cycle: Cycle, numbers: Findings) -> dict[str, Any]:
    """The cycle as JSON: the two phases, numbered from 1; the curve; what was not evaluated, and why."""
    return {
        "phases": {
            "told_by": cycle.cine.told_by,
            **{phase.name: phase.number + 1 for phase in cycle.phases},
            "curve": [
                {"phase": number, "time_ms": phase.time_ms, "volume_ml": volume}
                for number, (phase, volume) in enumerate(zip(cycle.cine.phases, cycle.volumes_ml, strict=True), start=1)
            ],
        },
        "not_evaluated": [
            {"name": structure.name, "code": list(structure.type), "reason": each.reason}
            for each in numbers.not_evaluated
            for structure in each.structures
        ],
    }


def _seen(cine: Cine, number: int, part: str, meaning: PhaseMeaning) -> PhaseSeen:
    point = None if meaning.point is None else _code(meaning.point)
    time_ms = cine.phases[number].time_ms
    return PhaseSeen(part=part, name=meaning.name, point=point, number=number, time_ms=time_ms)


def _any_of(layers: Sequence[NDArray[np.uint8]], label: int) -> NDArray[np.bool_]:
    """A structure's voxels, whichever layer it lies in."""
    return np.asarray(np.logical_or.reduce([layer == label for layer in layers]))


def _phases(manifest: Manifest) -> Phases:
    if manifest.phases is None:
        raise ValueError("this model reads one phase only")
    return manifest.phases


def _extremes(cine: Cine, volumes_ml: Sequence[float]) -> tuple[int, int]:
    """The filled phase and the emptied one, of those that were seen so far."""
    if cine.has_meanings:
        return 0, len(volumes_ml) - 1
    return int(np.argmax(volumes_ml)), int(np.argmin(volumes_ml))


def _why_not(cycle: Cycle, masks: Sequence[NDArray[np.bool_]], *, phases: Phases) -> str | None:
    """Why there is no ejection fraction; None if nothing speaks against it. ``masks``: of the two phases."""
    largest, smallest = (float(np.count_nonzero(mask)) for mask in masks)
    for mask, phase in zip(masks, cycle.phases, strict=True):
        if not mask.any():
            return f"expected a volume at {phase.name}, found none; measure it by hand"
    if smallest >= largest:
        return (
            f"expected less volume at {phases.emptied.name} than at {phases.filled.name}, found as much or more; check "
            "the descriptions of the series and the segmentations"
        )
    if np.count_nonzero(masks[0] & masks[1]) < SMALLEST_OVERLAP * smallest:
        return (
            f"expected one place at {phases.filled.name} and {phases.emptied.name}, found two; check the segmentations"
        )
    areas = [np.count_nonzero(mask, axis=(1, 2)) for mask in masks]
    growth = areas[1] - areas[0]
    if growth.max() > LARGEST_GROWTH * largest:
        filled, emptied = (phase.name for phase in cycle.phases)
        return (
            f"expected no more at {emptied} than at {filled} in any slice, found more in slice "
            f"{int(growth.argmax()) + 1}; check the segmentations there"
        )
    return _unlike_a_heart(cycle) or _implausible(100 * (largest - smallest) / largest, phases)


def _unlike_a_heart(cycle: Cycle) -> str | None:
    """What is odd about the curve or the times, as far as there are enough phases, or times, to see it."""
    count, (filled, emptied) = len(cycle.volumes_ml), cycle.phases
    both = f"{filled.name} and {emptied.name}"
    if count >= FEWEST_FOR_A_CURVE:
        for phase in cycle.phases:
            if _jump(cycle.volumes_ml, phase.number) > LARGEST_JUMP * max(cycle.volumes_ml):
                return (
                    f"expected a smooth curve of volumes, found that phase {phase.number + 1} ({phase.name}) stands "
                    "out from both its neighbours; check the segmentation"
                )
        apart = abs(filled.number - emptied.number)
        if min(apart, count - apart) < SHORTEST_EMPTYING * count:
            return (
                f"expected {both} {SHORTEST_EMPTYING:.0%} of the cycle apart or more, found phases "
                f"{filled.number + 1} and {emptied.number + 1} of {count}; check the segmentations"
            )
    if filled.time_ms is None or emptied.time_ms is None:
        return None
    apart_ms = abs(filled.time_ms - emptied.time_ms)
    if apart_ms < SHORTEST_SYSTOLE_MS:
        return (
            f"expected {both} {SHORTEST_SYSTOLE_MS:.0f} ms apart or more, found {apart_ms:.0f} ms; send phases of the "
            "whole cycle"
        )
    return None


def _jump(volumes_ml: Sequence[float], number: int) -> float:
    """How far a phase's volume is from the nearer one of its two neighbours'; the last phase is the first's."""
    here, count = volumes_ml[number], len(volumes_ml)
    return min(abs(here - volumes_ml[(number + step) % count]) for step in (-1, 1))


def _implausible(percent: float, phases: Phases) -> str | None:
    low, high = phases.plausible
    if low <= percent <= high:
        return None
    return (
        f"expected an ejection fraction of {low:g} to {high:g} %, found {percent:.1f} %; check the segmentations and "
        "that the phases are of one cycle"
    )


def _which(cycle: Cycle, phase: PhaseSeen) -> str:
    """A phase in words."""
    after = "" if phase.time_ms is None else f", {phase.time_ms:.0f} ms after the R wave"
    number = f"phase {phase.number + 1} of {len(cycle.volumes_ml)}"
    return f"{'as the series is named' if cycle.cine.has_meanings else number}{after}"


def _quantity(triple: CodeTriple, value: float, unit: Code, structure: Structure, *, comment: str) -> Quantity:
    concept = _code(triple)
    return Quantity(
        name=concept.meaning,
        measurement=Measurement(concept=concept, value=value, unit=unit),
        anatomy=structure.anatomy or structure.type,
        finding=structure.type,
        comment=comment,
    )


def _question(number: int, concept: Code, structure: Structure) -> Structure:
    """A number that was asked for, as what is Not Evaluated is reported."""
    return Structure(
        label=number,
        name=concept.meaning,
        category=codes.ANATOMICAL_STRUCTURE,
        type=concept,
        anatomy=structure.anatomy or structure.type,
        colour=(255, 255, 255),
        voxels=0,
        measurements=(),
    )


def _code(triple: CodeTriple) -> Code:
    return Code(triple.value, triple.scheme, triple.meaning)

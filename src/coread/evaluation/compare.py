"""One study's reading beside what is true of it: what the figures are made of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coread import codes
from coread.errors import ResultError
from coread.evaluation.overlap import dice, surface_distances
from coread.evaluation.reference import TrueMasks
from coread.evaluation.table import Truth
from coread.findings import Findings, Structure
from coread.models.manifest import Manifest
from coread.workers.measure import volume_ml
from coread.workers.pipeline import Reading

VOLUME_TOLERANCE = 1e-6
"""Relative difference of two sums of the same voxels that is still rounding."""


@dataclass(frozen=True, kw_only=True)
class StructureResult:
    """A structure in a study, found and true. What is undefined is nan."""

    volume_ml: float
    true_volume_ml: float
    dice: float
    mean_surface_distance_mm: float
    hausdorff_95_mm: float

    @property
    def is_found(self) -> bool:
        return self.volume_ml > 0

    @property
    def is_true(self) -> bool:
        return self.true_volume_ml > 0


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """A class in a study. ``probability``: nan if the model tells none; ``is_true``: None if it is not known."""

    probability: float
    is_reported: bool
    """Whether the report says that it holds."""
    is_true: bool | None


@dataclass(frozen=True, kw_only=True)
class NumberResult:
    """A number of a study; nan if it is not known."""

    found: float
    truth: float


Result = Mapping[int, StructureResult] | Mapping[int, ClassResult] | Mapping[int, NumberResult]
"""Number in the manifest's table (of structures: the label) → what came of it in one study."""


def compare_structures(reading: Reading, truth: TrueMasks, *, unnamed_are_absent: bool) -> dict[int, StructureResult]:
    """Label → result, of the structures of which the reference says something.

    ``unnamed_are_absent``: whether a structure without a segment in the reference is known to be absent. Raises
    ResultError if a reported volume is not that of the mask: then the figures would not be of what is reported.
    """
    findings, volume = reading.findings, reading.stack.volume
    nothing = np.zeros(volume.spatial_shape, bool)
    results = {}
    for structure in findings.structures:
        if structure.label not in truth.masks and not unnamed_are_absent:
            continue
        found = _mask_of(findings, structure)
        true = truth.masks.get(structure.label, nothing)
        distances = surface_distances(found, true, volume)
        results[structure.label] = StructureResult(
            volume_ml=_reported_volume_ml(structure, volume_ml(found, volume)),
            true_volume_ml=volume_ml(true, volume),
            dice=dice(found, true),
            mean_surface_distance_mm=distances.mean if distances else math.nan,
            hausdorff_95_mm=distances.hausdorff_95 if distances else math.nan,
        )
    return results


def _mask_of(findings: Findings, structure: Structure) -> NDArray[np.bool_]:
    return np.asarray(findings.layer_of(structure).array == structure.label)


def _reported_volume_ml(structure: Structure, of_mask_ml: float) -> float:
    """The volume that the report states; of a structure whose volume is not reported, the mask's."""
    said = [each.value for each in structure.measurements if each.concept == codes.VOLUME]
    if any(not math.isclose(each, of_mask_ml, rel_tol=VOLUME_TOLERANCE) for each in said):
        raise ResultError(f"expected {of_mask_ml:g} ml of {structure.name} as in the mask, found {said[0]:g} reported")
    return said[0] if said else of_mask_ml


def compare_classes(reading: Reading, truth: Truth, manifest: Manifest) -> dict[int, ClassResult]:
    """Number of the class → result. What is reported is taken from the findings, the probabilities from the model.

    Raises ResultError if the two contradict each other.
    """
    told = reading.prediction.classes
    reported = {each.name: each for each in reading.findings.classifications}
    results = {}
    for key, meaning in manifest.classes.items():
        probability, said = told.get(key), reported.get(meaning.name)
        holds = said is not None and (manifest.exclusive or said.value == codes.PRESENT)
        if said is not None and said.probability is not None and probability is not None:
            stated = said.probability if holds else 1 - said.probability
            if not math.isclose(stated, probability, abs_tol=VOLUME_TOLERANCE):
                raise ResultError(
                    f"expected a probability of {probability:g} of {meaning.name}, found {stated:g} reported"
                )
        true = truth.get(key)
        results[key] = ClassResult(
            probability=math.nan if probability is None else probability,
            is_reported=holds,
            is_true=None if true is None else bool(true),
        )
    if manifest.exclusive and sum(each.is_reported for each in results.values()) != 1:
        raise ResultError("expected one class that holds in the report, found another number")
    return results


def compare_numbers(reading: Reading, truth: Truth, manifest: Manifest) -> dict[int, NumberResult]:
    """Place of the number → result, of the numbers of which the reference says something."""
    found = {each.name: each.measurement.value for each in reading.findings.quantities}
    return {
        key: NumberResult(found=found.get(meaning.name, math.nan), truth=math.nan if said is None else said)
        for key, meaning in manifest.numbers.items()
        if (said := truth.get(key)) is not None or key in truth
    }

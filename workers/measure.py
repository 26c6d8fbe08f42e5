"""From a prediction to findings: what each output means, and measures of it in the units of the report."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from coread import codes
from coread.findings import Classification, Findings, Mark, Measurement, Quantity, ScalarMap, Structure
from coread.kernels.measuring import Measures, largest_distance, measure, outermost
from coread.models.manifest import ClassMeaning, CodeTriple, Manifest, Meaning
from coread.models.prediction import Prediction
from coread.volume import Volume

INTENSITY = {
    "CT": (codes.ATTENUATION, codes.HOUNSFIELD_UNIT),
    "MR": (codes.MR_SIGNAL_INTENSITY, codes.ARBITRARY_UNIT),
}
"""What a voxel's value is, by modality (CID 7180), and its unit."""

SIDES_OF = ("ImageLaterality", "Laterality")
SIDES = {"L": codes.LEFT, "R": codes.RIGHT}
"""What the header may say, and what that is in code (CID 244)."""

MM3_PER_ML = 1000.0


def findings_of(prediction: Prediction, volume: Volume, *, manifest: Manifest, modality: str) -> Findings:
    """What a prediction for ``volume`` means, with everything measured that the manifest asks for."""
    structures = sought(manifest) if manifest.labels else ()
    if prediction.layers:
        return _segmented(prediction, volume, structures, manifest, modality)
    marks = (*_boxes(prediction, volume, manifest), *_points(prediction, manifest))
    found = {box.label for box in prediction.boxes} | {point.label for point in prediction.points}
    return Findings(
        maps=tuple(_saliency(prediction, volume, manifest)),
        structures=tuple(each for each in structures if each.label not in {manifest.value_of(key) for key in found}),
        classifications=tuple(_classifications(prediction, manifest)),
        quantities=tuple(_quantities(prediction, manifest)),
        marks=marks,
        grid=volume if marks else None,
    )


def on_side(findings: Findings, header: Dataset) -> Findings:
    """The same of the side that the header states (PS3.3 C.7.3.1 and C.7.6.1), in code and in the names; as they are if
    it states none.
    """
    stated = {str(header.get(keyword) or "").strip().upper() for keyword in SIDES_OF} - {""}
    side = SIDES.get(stated.pop()) if len(stated) == 1 else None
    if side is None:
        return findings
    structures = (
        replace(structure, name=f"{side.meaning} {structure.name[0].lower()}{structure.name[1:]}", laterality=side)
        for structure in findings.structures
    )
    return replace(findings, structures=tuple(structures))


def answers_of(prediction: Prediction, manifest: Manifest) -> Findings:
    """What a prediction for an ECG means: classes and numbers."""
    return Findings(
        classifications=tuple(_classifications(prediction, manifest)),
        quantities=tuple(_quantities(prediction, manifest)),
    )


def sought(manifest: Manifest) -> tuple[Structure, ...]:
    """What a model looks for, before it has looked: structures, findings or numbers."""
    asked = [
        Structure(
            label=manifest.value_of(key),
            name=meaning.name,
            category=_code(meaning.category),
            type=_code(meaning.type),
            anatomy=_optional_code(meaning.anatomy),
            laterality=_optional_code(meaning.laterality),
            colour=meaning.colour,
            voxels=0,
            measurements=(),
        )
        for key, meaning in sorted(manifest.labels.items())
    ]
    questions = {meaning.finding: meaning.anatomy for meaning in manifest.classes.values()}
    questions |= {meaning.concept: meaning.anatomy for meaning in manifest.numbers.values()}
    asked += [
        Structure(
            label=number,
            name=question.meaning,
            category=codes.ANATOMICAL_STRUCTURE,
            type=_code(question),
            anatomy=_optional_code(anatomy),
            colour=(255, 255, 255),
            voxels=0,
            measurements=(),
        )
        for number, (question, anatomy) in enumerate(questions.items(), start=1)
    ]
    return tuple(asked)


def _segmented(
    prediction: Prediction, volume: Volume, structures: Sequence[Structure], manifest: Manifest, modality: str
) -> Findings:
    meanings = {manifest.value_of(key): meaning for key, meaning in manifest.labels.items()}
    values = volume.array if any("intensity" in meaning.measure for meaning in meanings.values()) else None
    layers = [(layer, measure(layer, values)) for layer in prediction.layers]
    measured = []
    for structure in structures:
        label = structure.label
        layer, measures = next((each for each in layers if each[1].voxels[label]), layers[0])
        said = _measurements(layer, measures, volume, meanings[label], label=label, modality=modality)
        measured.append(replace(structure, voxels=int(measures.voxels[label]), measurements=tuple(said)))
    told = prediction.probabilities
    maps = tuple(
        ScalarMap(
            name=f"Probability of {structure.name}",
            volume=volume.with_array(told[structure.label]),
            quantity=codes.PROBABILITY,
            unit=codes.NO_UNITS,
            anatomy=structure.anatomy or structure.type,
        )
        for structure in measured
        if structure.label in told
    )
    first, *others = (volume.with_array(layer) for layer in prediction.layers)
    return Findings(labels=first, overlapping=tuple(others), structures=tuple(measured), probabilities=told, maps=maps)


def _boxes(prediction: Prediction, volume: Volume, manifest: Manifest) -> Iterator[Mark]:
    """A rectangle in the middle slice of each box, the most probable first; the length of its longest edge."""
    last = np.array(volume.spatial_shape) - 1
    counts: Counter[int] = Counter()
    for box in sorted(prediction.boxes, key=lambda box: (-box.probability, *box.low)):
        counts[box.label] += 1
        meaning = manifest.labels[box.label]
        low, high = np.clip(box.low, -0.5, last + 0.5), np.clip(box.high, -0.5, last + 0.5)
        (top, left), (bottom, right) = low[1:] + 0.5, high[1:] + 0.5
        longest = float(((high - low) * volume.spacing).max())
        yield Mark(
            name=f"{meaning.name} {counts[box.label]}",
            type=_code(meaning.type),
            anatomy=_optional_code(meaning.anatomy),
            laterality=_optional_code(meaning.laterality),
            plane=int(np.clip(round(float(low[0] + high[0]) / 2), 0, last[0])),
            outline=np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]),
            probability=box.probability,
            measurements=(Measurement(concept=codes.LENGTH, value=longest, unit=codes.MILLIMETER),),
        )


def _points(prediction: Prediction, manifest: Manifest) -> Iterator[Mark]:
    """A point in the slice nearest to each landmark."""
    for point in prediction.points:
        meaning = manifest.labels[point.label]
        plane, row, column = point.place
        yield Mark(
            name=meaning.name,
            type=_code(meaning.type),
            anatomy=_optional_code(meaning.anatomy),
            laterality=_optional_code(meaning.laterality),
            plane=round(float(plane)),
            outline=np.array([(column + 0.5, row + 0.5)]),
            probability=None,
            measurements=(),
        )


def _classifications(prediction: Prediction, manifest: Manifest) -> Iterator[Classification]:
    """The class that holds, where they exclude each other; else each of them, present or absent."""
    for key, probability in prediction.classes.items():
        meaning = manifest.classes[key]
        if prediction.chosen is not None:
            if key == prediction.chosen and meaning.value is not None:
                yield _classification(meaning, _code(meaning.value), probability)
        elif probability is not None:
            is_present = probability >= manifest.threshold_of(key)
            value = codes.PRESENT if is_present else codes.ABSENT
            yield _classification(meaning, value, probability if is_present else 1 - probability)


def _saliency(prediction: Prediction, volume: Volume, manifest: Manifest) -> Iterator[ScalarMap]:
    """A map for each class that holds and was explained on the images' grid."""
    for key, values in prediction.saliency.items():
        meaning = manifest.classes[key]
        if values.ndim == 3 and meaning.anatomy is not None:
            value = codes.PRESENT if prediction.chosen is None or meaning.value is None else _code(meaning.value)
            yield ScalarMap(
                name=f"Saliency for {meaning.name}",
                volume=volume.with_array(values),
                quantity=codes.SALIENCY,
                unit=codes.NO_UNITS,
                anatomy=_code(meaning.anatomy),
                explains=_classification(meaning, value, prediction.classes[key]),
            )


def saliency_said(prediction: Prediction, manifest: Manifest) -> list[dict[str, str | bool]]:
    """Of each class that holds, whether there is a map of what mattered to it; if not, why. As JSON."""
    found: list[dict[str, str | bool]] = [
        {"name": manifest.classes[key].name, "map": True} for key in prediction.saliency
    ]
    return found + [
        {"name": manifest.classes[key].name, "map": False, "reason": reason}
        for key, reason in prediction.unexplained.items()
    ]


def _classification(meaning: ClassMeaning, value: Code, probability: float | None) -> Classification:
    return Classification(
        name=meaning.name,
        finding=_code(meaning.finding),
        value=value,
        probability=probability,
        anatomy=_optional_code(meaning.anatomy),
    )


def _quantities(prediction: Prediction, manifest: Manifest) -> Iterator[Quantity]:
    for key, number in prediction.numbers.items():
        meaning = manifest.numbers[key]
        measurement = Measurement(concept=_code(meaning.concept), value=number, unit=_code(meaning.unit))
        yield Quantity(name=meaning.name, measurement=measurement, anatomy=_optional_code(meaning.anatomy))


def volume_ml(mask: NDArray[np.bool_], volume: Volume) -> float:
    """Number of voxels times the volume of one."""
    return float(np.count_nonzero(mask)) * volume.voxel_volume / MM3_PER_ML


def longest_diameter_mm(mask: NDArray[np.bool_], volume: Volume) -> float:
    """The largest distance between two voxels' centres, in patient space."""
    labels = mask.astype(np.uint8)
    return _diameter_mm(labels, measure(labels), volume, 1)


def _diameter_mm(layer: NDArray[np.uint8], measures: Measures, volume: Volume, label: int) -> float:
    corners = outermost(layer, label, measures.low[label], measures.high[label])
    return largest_distance(volume.map_indices_to_reference(corners))


def _measurements(
    layer: NDArray[np.uint8], measures: Measures, volume: Volume, meaning: Meaning, *, label: int, modality: str
) -> list[Measurement]:
    """What the manifest asks for of a label in its layer; nothing if it is not there."""
    voxels = int(measures.voxels[label])
    if not voxels:
        return []
    size_ml = voxels * volume.voxel_volume / MM3_PER_ML
    found = []
    for wanted in meaning.measure:
        if wanted == "volume":
            found.append(Measurement(concept=codes.VOLUME, value=size_ml, unit=codes.MILLILITER))
        elif wanted == "mass" and meaning.density_g_per_ml is not None:
            grams = size_ml * meaning.density_g_per_ml
            found.append(Measurement(concept=codes.MASS, value=grams, unit=codes.GRAM))
        elif wanted == "diameter":
            length = _diameter_mm(layer, measures, volume, label)
            found.append(
                Measurement(concept=codes.DIAMETER, value=length, unit=codes.MILLIMETER, derivation=codes.MAXIMUM)
            )
        elif wanted == "intensity" and modality in INTENSITY:
            concept, unit = INTENSITY[modality]
            of_values = ((codes.MEAN, measures.mean), (codes.STANDARD_DEVIATION, measures.standard_deviation))
            found += [
                Measurement(concept=concept, value=float(value[label]), unit=unit, derivation=derivation)
                for derivation, value in of_values
            ]
    return found


def _code(triple: CodeTriple) -> Code:
    return Code(triple.value, triple.scheme, triple.meaning)


def _optional_code(triple: CodeTriple | None) -> Code | None:
    return None if triple is None else _code(triple)

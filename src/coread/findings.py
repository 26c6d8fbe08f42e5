"""What a model found in a study, in the words of no file format: ``models`` and ``workers`` make it, ``dicom_sr``
writes it down.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from coread.volume import Volume, count_by_slice


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A number with its meaning. ``unit`` is UCUM; ``derivation`` says mean, maximum … (CID 7464)."""

    concept: Code
    value: float
    unit: Code
    derivation: Code | None = None

    @property
    def name(self) -> str:
        """The concept in words: "Mean MR signal intensity"."""
        return f"{self.derivation.meaning} {self.concept.meaning}" if self.derivation else self.concept.meaning


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One structure that the model looks for, and what was measured of it. Without voxels it was not found."""

    label: int
    """Its value in the label volume."""
    name: str
    category: Code
    type: Code
    anatomy: Code | None
    laterality: Code | None = None
    """Left, right or bilateral (CID 244), where type and anatomy do not say it."""
    colour: tuple[int, int, int]
    """sRGB, 0 to 255."""
    voxels: int
    measurements: tuple[Measurement, ...]

    @property
    def is_present(self) -> bool:
        return self.voxels > 0


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What the model says of the study as a whole: the concept in question, its value, and how certain that is."""

    name: str
    """For people, and the identifier that the finding is tracked by."""
    finding: Code
    """What the question is about: "Pneumonia"."""
    value: Code
    """The answer: "Present", "Absent", or a class (CID 240 and further)."""
    probability: float | None
    """Of that answer, 0 to 1; None: the model does not tell."""
    anatomy: Code | None = None


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number that the model gives for the study as a whole."""

    name: str
    """For people, and the identifier that it is tracked by."""
    measurement: Measurement
    anatomy: Code | None = None
    finding: Code | None = None
    """What it is a number of, where the model finds that, too."""
    comment: str = ""
    """What it was told from, for people."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mark:
    """A finding that is marked in one slice: a box, or a landmark."""

    name: str
    """For people, and the identifier that it is tracked by: no two have the same."""
    type: Code
    anatomy: Code | None
    laterality: Code | None = None
    plane: int
    """Index of the slice."""
    outline: NDArray[np.float64]
    """(column, row) in pixels, corners counted from 0; shape (points, 2). A closed ring, or one point."""
    probability: float | None
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScalarMap:
    """A number for each voxel: the probability of a structure, or how much it mattered to the answer."""

    name: str
    volume: Volume
    """On the source's own grid: (slice, row, column), float32, LPS, mm."""
    quantity: Code
    """What the numbers are (CID 7180)."""
    unit: Code
    anatomy: Code
    explains: Classification | None = None
    """The answer that a saliency map is about: how much each place mattered to it, of the map's own maximum."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What one model found in one series. ``labels`` lies on the source's own grid: (slice, row, column), uint8, LPS,
    mm; 0 is the background. None: the model segments nothing.
    """

    labels: Volume | None = None
    overlapping: tuple[Volume, ...] = ()
    """Further label volumes on the same grid, of structures that overlap others. Each structure lies in one only."""
    structures: tuple[Structure, ...] = ()
    probabilities: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    """Label → probability of each voxel, 0 to 1, on the grid of ``labels``; empty if the model does not tell."""
    classifications: tuple[Classification, ...] = ()
    quantities: tuple[Quantity, ...] = ()
    not_evaluated: tuple["NotEvaluated", ...] = ()
    """What would have been told besides, and why it was not."""
    cycle_point: Code | None = None
    """The point of the heart's cycle that was looked at (CID 12233), where there were several."""
    marks: tuple[Mark, ...] = ()
    grid: Volume | None = None
    """The source's own grid, where marks lie on it."""
    maps: tuple[ScalarMap, ...] = ()

    @property
    def present(self) -> list[Structure]:
        return [structure for structure in self.structures if structure.is_present]

    @property
    def absent(self) -> list[Structure]:
        return [structure for structure in self.structures if not structure.is_present]

    @cached_property
    def _areas_by_layer(self) -> list[NDArray[np.int64]]:
        return [count_by_slice(layer.array) for layer in self.layers]

    @property
    def layers(self) -> tuple[Volume, ...]:
        """All label volumes. Raises ValueError without a segmentation."""
        return (self.mask, *self.overlapping)

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """Number of pixels by slice and label, shape (slices, 256); of label 0 it means nothing. Raises ValueError
        without a segmentation.
        """
        return np.asarray(sum(self._areas_by_layer), np.int64)

    def layer_of(self, structure: Structure) -> Volume:
        """The label volume that a structure lies in. Raises ValueError without a segmentation."""
        of_layers = zip(self.layers, self._areas_by_layer, strict=True)
        return next((layer for layer, areas in of_layers if areas[:, structure.label].any()), self.mask)

    def in_slice(self, structure: Structure, index: int) -> NDArray[np.bool_]:
        """A structure's pixels in a slice, (row, column)."""
        return np.asarray(self.layer_of(structure).array[index] == structure.label)

    def key_plane(self, structure: Structure) -> int:
        """The slice that has the most of a structure; the first, if several have as much."""
        return int(self.areas[:, structure.label].argmax())

    @property
    def mask(self) -> Volume:
        """``labels``, where there are any. Raises ValueError if the model segments nothing."""
        if self.labels is None:
            raise ValueError("these findings have no segmentation")
        return self.labels


@dataclass(frozen=True, kw_only=True)
class NotEvaluated:
    """The structures that a model would have looked for, and why it did not look."""

    structures: tuple[Structure, ...]
    reason: str
    """What was expected, what was found and what to do; no patient data."""

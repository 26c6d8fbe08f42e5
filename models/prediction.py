"""What a model gave for a study: arrays and numbers on the grid of its input, before anybody measures or codes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Box:
    """A finding in a box along the axes of the input's grid."""

    label: int
    """Its key in the manifest's table."""
    probability: float
    """0 to 1."""
    low: NDArray[np.float64]
    """Indices (slice, row, column) of the lowest corner; whole numbers are voxel centres. Shape (3,)."""
    high: NDArray[np.float64]
    """Of the highest corner."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """A landmark."""

    label: int
    place: NDArray[np.float64]
    """Indices (slice, row, column); whole numbers are voxel centres. Shape (3,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Exactly one of these kinds is filled, whichever the model's task is."""

    layers: tuple[NDArray[np.uint8], ...] = ()
    """Label volumes (slice, row, column), 0 for background. Structures that overlap lie in different layers; each
    lies in one only."""
    probabilities: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    """Label → probability of each voxel, 0 to 1; empty if the model does not tell."""
    classes: Mapping[int, float | None] = field(default_factory=dict)
    """Class → its probability, 0 to 1, for every class that the manifest lists; None: the model only says which."""
    chosen: int | None = None
    """The class that holds, where classes exclude each other."""
    saliency: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    """Class that holds → how much each place mattered to it, 0 to 1 of this map's own maximum: (slice, row, column) on
    the input's grid; (sample,) of what the network saw, where that has one axis."""
    unexplained: Mapping[int, str] = field(default_factory=dict)
    """Class that holds and should have such a map → why it has none."""
    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()
    numbers: Mapping[int, float] = field(default_factory=dict)
    device: str = "cpu"
    """Where the bundle ran."""
    engine: str = ""
    """By what the network ran: "openvino 2026.4.1 f32"."""
    way: str = "memory"
    """How the study got into the bundle: `memory`, or `files`."""
    adapted: tuple[str, ...] = ()
    """What was adapted for the bundle to run, a sentence each."""

"""What a model found in a study, in the words of no file format: ``models`` and ``workers`` make it, ``dicom_sr``
writes it down.
"""

from dataclasses import dataclass

import highdicom as hd
from pydicom.sr.coding import Code


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
    colour: tuple[int, int, int]
    """sRGB, 0 to 255."""
    voxels: int
    measurements: tuple[Measurement, ...]

    @property
    def is_present(self) -> bool:
        return self.voxels > 0


@dataclass(frozen=True, kw_only=True)
class Findings:
    """``labels`` lies on the source's own grid: (slice, row, column), uint8, LPS, mm; 0 is the background."""

    labels: hd.Volume
    structures: tuple[Structure, ...]

    @property
    def present(self) -> list[Structure]:
        return [structure for structure in self.structures if structure.is_present]

    @property
    def absent(self) -> list[Structure]:
        return [structure for structure in self.structures if not structure.is_present]

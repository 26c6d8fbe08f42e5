"""The manifest ``coread.yaml`` beside a bundle: what the bundle's metadata cannot say.

Which series the model reads, what its labels mean in coded terms, and what is to be measured. Light: no torch here,
because the plugin reads manifests too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from coread.errors import ConfigurationError
from coread.objects import ObjectKind, Profile

MANIFEST_NAME = "coread.yaml"


class Strict(BaseModel):
    """Frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CodeTriple(NamedTuple):
    """A coded concept as PS3.3 section 8 writes it, in the order scheme, value, meaning."""

    scheme: Literal["SCT", "DCM", "LN", "UCUM"]
    value: str
    meaning: str


class Range(NamedTuple):
    """A closed interval."""

    low: float
    high: float


Patterns = Mapping[str, Annotated[tuple[str, ...], Field(min_length=1)]]
"""DICOM keyword → patterns (``*`` and ``?``, case ignored), one of which the value must match."""


class SeriesRequirement(Strict):
    """Which series the model reads."""

    described_as: str
    """In words, for the sentence that refuses a study: "a short-axis cardiac MR series"."""
    must: Patterns
    """Every keyword must match."""
    must_not: Patterns = Field(default_factory=dict)
    """No keyword may match."""
    any_of: tuple[Patterns, ...] = ()
    """At least one of these must match as a whole."""
    slices: Range
    """Number of slices."""
    slice_spacing_mm: Range
    """Distance between the centres of neighbouring slices."""
    pixel_spacing_mm: Range
    """Both in-plane spacings."""
    field_of_view_mm: Annotated[float, Field(gt=0)] | None = None
    """Side of the square around the image's centre that the model looks at, if it does not look at all of it. A
    structure that reaches its edge may go on beyond, so such a study is refused."""


class Label(Strict):
    """What one label value means, and what to measure of it."""

    name: str
    """The segment's label, for people."""
    category: CodeTriple
    """Segmented property category (CID 7150)."""
    type: CodeTriple
    """Segmented property type (CID 7151 and further)."""
    anatomy: CodeTriple | None = None
    """Anatomic region, where the type does not already say it."""
    colour: tuple[int, int, int]
    """Recommended display colour, sRGB, 0 to 255."""
    measure: tuple[Literal["volume", "mass", "intensity", "diameter"], ...] = ("volume",)
    """What is reported."""
    density_g_per_ml: Annotated[float, Field(gt=0)] | None = None
    """Needed for `mass`."""

    @model_validator(mode="after")
    def _mass_needs_density(self) -> "Label":
        if ("mass" in self.measure) != (self.density_g_per_ml is not None):
            raise ValueError("`mass` and `density_g_per_ml` go together")
        return self


class Manifest(Strict):
    """A model package's manifest."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    """The model's name in routes and on the command line."""
    title: Annotated[str, Field(max_length=46)]
    """The model's name for people; it heads the series descriptions, which have 64 characters."""
    series: SeriesRequirement
    labels: Mapping[int, Label]
    objects: Mapping[Profile, tuple[ObjectKind, ...]] = Field(default_factory=dict)
    """What is written for a destination of each kind; where it is not said, ``coread.objects.DEFAULT_OBJECTS``."""
    probabilities: str | None = None
    """The key in the bundle's output that holds the probability of each class, one channel for each label value from
    0; needed for SEG-FRACTIONAL and MAP."""
    limits: str
    """One sentence for the report: what the model is not for."""

    @model_validator(mode="after")
    def _probabilities_are_there(self) -> "Manifest":
        kinds = {kind for kinds in self.objects.values() for kind in kinds}
        wanted = kinds & {ObjectKind.SEG_FRACTIONAL, ObjectKind.MAP}
        if wanted and self.probabilities is None:
            raise ValueError(f"{' and '.join(sorted(wanted))} need the output key `probabilities`")
        return self

    @field_validator("labels")
    @classmethod
    def _are_foreground(cls, labels: Mapping[int, Label]) -> Mapping[int, Label]:
        if not labels or any(not 1 <= value <= 255 for value in labels):
            raise ValueError("expected one or more label values from 1 to 255 (0 is the background)")
        return labels


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in ``folder``. Raises ConfigurationError that names the file and each wrong key."""
    path = folder / MANIFEST_NAME
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Manifest.model_validate(values)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}); a model package needs one") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        )
        raise ConfigurationError(f"{path}: {problems}") from error

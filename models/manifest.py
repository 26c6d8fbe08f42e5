"""The manifest ``coread.yaml`` beside a bundle: what the bundle's metadata cannot say.

Which series the model reads, whom it was made for, what its outputs mean in coded terms, and what is to be measured.
Light: no torch here, because the plugin reads manifests too.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from coread.leads import Lead
from coread.models.yaml_file import read_yaml
from coread.objects import ObjectKind, Profile

MANIFEST_NAME = "coread.yaml"
LONGEST_TITLE = 46
"""Characters: it heads the series descriptions, which have 64."""
DEFAULT_CLASS_THRESHOLD = 0.5
"""From which probability on a class is present, where the manifest does not say it."""


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
"""DICOM keyword → patterns (``*`` and ``?``, case ignored), one of which the value must match; of an attribute with
several values (ImageType) any value may."""


class WaveformRequirement(Strict):
    """What a model takes of a 12-lead ECG: mV, shape (lead, sample)."""

    leads: Annotated[tuple[Lead, ...], Field(min_length=1)]
    """In the order of the model's channels."""
    sampling_rate_hz: Annotated[float, Field(gt=0)]
    """Recordings at a higher rate are brought to it; a lower one is refused."""
    duration_s: Annotated[float, Field(gt=0)]
    """A shorter recording is refused."""
    longer: Literal["refuse", "centre", "start"] = "refuse"
    """Which part of a longer recording is read."""
    unit: Literal["mV"] = "mV"

    @field_validator("leads")
    @classmethod
    def _are_different(cls, leads: tuple[Lead, ...]) -> tuple[Lead, ...]:
        if len(set(leads)) != len(leads):
            raise ValueError("expected each lead once")
        return leads


OF_IMAGES = (
    *("key", "plane", "contrast", "projection", "slices", "slice_spacing_mm", "slice_thickness_mm"),
    *("pixel_spacing_mm", "extent_mm", "field_of_view_mm", "values", "phases"),
)
"""Keys of a series that say something of images only."""


class PhaseMeaning(Strict):
    """One of the two phases that are compared: the one in which the structure holds most, or least."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,15}$")]
    """In series descriptions and names of files: "end-diastole"."""
    words: tuple[Annotated[str, Field(pattern=r"^[^\W_]*[*?]?[^\W_]+[*?]?$")], ...] = ()
    """Patterns of a word (``*`` and ``?``, case ignored). A series whose SeriesDescription has such a word is of this
    phase."""
    point: CodeTriple | None = None
    """Of the heart's cycle (CID 12233)."""
    volume: CodeTriple
    """What the structure's volume in this phase is called (CID 3835)."""


class Phases(Strict):
    """Several phases of a structure that fills and empties: what is told from the largest and the smallest."""

    label: Annotated[int, Field(ge=0, le=255)]
    """The structure, by its key in ``labels``."""
    filled: PhaseMeaning
    emptied: PhaseMeaning
    stroke_volume: CodeTriple
    """What the difference of the two volumes is called, in ml."""
    fraction: CodeTriple
    """What the difference is called in per cent of the larger volume."""
    plausible: Range = Range(5, 90)
    """Per cent. A fraction outside of it is not reported, and the reason is."""

    @model_validator(mode="after")
    def _differ(self) -> "Phases":
        if self.filled.name == self.emptied.name or set(self.filled.words) & set(self.emptied.words):
            raise ValueError("expected names and words of its own for each of the two phases")
        return self


class SeriesRequirement(Strict):
    """Which series the model reads, into one channel of its input."""

    described_as: str
    """In words, for the sentence that refuses a study: "a short-axis cardiac MR series"."""
    key: str | None = None
    """The name by which the bundle takes this channel, if it takes each channel under a name of its own; else the
    channels are stacked in their order."""
    must: Patterns
    """Every keyword must match."""
    must_not: Patterns = Field(default_factory=dict)
    """No keyword may match."""
    any_of: tuple[Patterns, ...] = ()
    """At least one of these must match as a whole."""
    prefer: tuple[Patterns, ...] = ()
    """Of several series that fit, the one is read that matches the first of these, then the second, and so on."""
    plane: Literal["axial", "coronal", "sagittal"] | None = None
    """The plane nearest to which the slices lie."""
    contrast: bool | None = None
    """Whether a contrast agent was given (ContrastBolusAgent is filled in)."""
    projection: bool = False
    """Whether it is a single image without a place in space (a radiograph), not a stack of slices."""
    slices: Range | None = None
    """Number of slices."""
    slice_spacing_mm: Range | None = None
    """Distance between the centres of neighbouring slices."""
    slice_thickness_mm: Range | None = None
    """SliceThickness."""
    pixel_spacing_mm: Range | None = None
    """Both in-plane spacings."""
    extent_mm: Range | None = None
    """Length of each edge of the volume: a crop is small, and a whole head is no crop."""
    field_of_view_mm: Annotated[float, Field(gt=0)] | None = None
    """Side of the square around the image's centre that the model looks at, if it does not look at all of it. A
    structure that reaches its edge may go on beyond, so such a study is refused."""
    values: Literal["modality", "display"] = "modality"
    """What a pixel's number is: after the modality transform (Hounsfield units), or as displayed, 0 to 255 from black
    to white (PS3.4 N.2)."""
    waveform: WaveformRequirement | None = None
    """What is taken of an ECG, for a model that reads no images."""
    phases: Phases | None = None
    """What is told from several phases, where the series has them. Without it, only one phase is read."""

    @model_validator(mode="after")
    def _waveforms_have_no_place(self) -> "SeriesRequirement":
        said = [key for key in OF_IMAGES if getattr(self, key) != type(self).model_fields[key].default]
        if self.waveform and said:
            raise ValueError(f"`waveform` is of an ECG, and {', '.join(said)} of images; delete one or the other")
        return self


class Population(Strict):
    """Whom the model was made for. A patient outside is not evaluated."""

    age_years: Range | None = None
    sex: tuple[Literal["F", "M", "O"], ...] = ()
    """None named: any."""
    if_unknown: Literal["refuse", "read"] = "refuse"
    """What to do with a patient whose age or sex, where it matters, is not known."""


class Meaning(Strict):
    """What one output of a model means: a structure, a finding in a box, or a landmark."""

    name: str
    """The segment's label, for people."""
    category: CodeTriple
    """Segmented property category (CID 7150)."""
    type: CodeTriple
    """Segmented property type (CID 7151 and further)."""
    anatomy: CodeTriple | None = None
    """Anatomic region, where the type does not already say it."""
    laterality: CodeTriple | None = None
    """Left, right or bilateral (CID 244), where neither type nor anatomy says it."""
    colour: tuple[int, int, int] = (255, 255, 0)
    """Recommended display colour, sRGB, 0 to 255."""
    measure: tuple[Literal["volume", "mass", "intensity", "diameter"], ...] = ("volume",)
    """What is reported."""
    density_g_per_ml: Annotated[float, Field(gt=0)] | None = None
    """Needed for `mass`."""
    always: bool = False
    """Of a segmentation, whether everybody has it. Where the model does not find it, it has failed: the study is
    refused, and the structure not reported as absent."""

    @model_validator(mode="after")
    def _mass_needs_density(self) -> "Meaning":
        if ("mass" in self.measure) != (self.density_g_per_ml is not None):
            raise ValueError("`mass` and `density_g_per_ml` go together")
        return self


class ClassMeaning(Strict):
    """What one class of a classifier says of the study."""

    name: str
    finding: CodeTriple
    """What the question is about: "Pneumonia"."""
    value: CodeTriple | None = None
    """The answer that this class is, where the classes exclude each other. Else the answer is Present or Absent."""
    anatomy: CodeTriple | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """From which probability on a class that does not exclude others is present; by default the model's."""


class NumberMeaning(Strict):
    """What one number of a regression is."""

    name: str
    concept: CodeTriple
    unit: CodeTriple
    """UCUM."""
    anatomy: CodeTriple | None = None
    plausible: Range | None = None
    """A number outside of it is no result: the job fails."""


class Boxes(Strict):
    """How a detector's boxes are to be taken, where its configuration does not say it."""

    mode: Literal["xyzxyz", "cccwhd"] | None = None
    """Two corners, or centre and size."""
    space: Literal["image", "LPS", "RAS"] | None = None
    """Indices of the volume that the network saw, or mm in the patient."""
    edges: bool = True
    """Whether index 0 is the outer edge of the first voxel (MONAI's convention), not its centre."""


class Saliency(Strict):
    """How a classifier explains itself: a map of where it looked (Grad-CAM)."""

    layer: str
    """The network's layer whose activations are weighed, as torch names it ("features.denseblock4")."""
    method: Literal["gradcam", "gradcam++"] = "gradcam"
    of: tuple[int, ...] | None = None
    """Classes whose answer is explained; by default every one that holds, a normal one too."""


class Resources(Strict):
    """What the model needs of a machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`cuda`: not on a CPU; `cpu`: not on a GPU."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """What a typical study takes, for people and for the choice of a worker."""
    time_s: Annotated[float, Field(gt=0)] = 3600
    """How long a bundle with Python of its own may take for a study before it is ended."""
    cpu_if_out_of_memory: bool = True
    """Whether a study that does not fit on the GPU may be read on the CPU."""


class Speed(Strict):
    """What may be done to be sooner that changes what the network answers, if only a little. By default nothing."""

    air_at_most: float | None = None
    """A window in which nothing of what the network sees exceeds this value is air: it is not read, but answered as one
    that has this value everywhere. For bundles that read in sliding windows."""
    half_precision: bool = False
    """Whether the network may multiply in 16 bits, where that agrees with 32."""


class TaskKind(StrEnum):
    """What a model does."""

    SEGMENTATION = "segmentation"
    CLASSIFICATION = "classification"
    DETECTION = "detection"
    LANDMARKS = "landmarks"
    REGRESSION = "regression"


_TABLE_OF = {
    TaskKind.SEGMENTATION: "labels",
    TaskKind.DETECTION: "labels",
    TaskKind.LANDMARKS: "labels",
    TaskKind.CLASSIFICATION: "classes",
    TaskKind.REGRESSION: "numbers",
}
"""Which table of the manifest says what the outputs mean."""


class Manifest(Strict):
    """A model package's manifest."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    """The model's name in routes and on the command line."""
    title: Annotated[str, Field(max_length=LONGEST_TITLE)]
    """The model's name for people; it heads the series descriptions, which have 64 characters."""
    series: Annotated[tuple[SeriesRequirement, ...], Field(min_length=1)]
    """What is read: one series, or a list with one for each channel in the order of the channels."""
    population: Population = Population()
    task: TaskKind | None = None
    """What the model does, where the bundle's metadata does not say it or say it wrong."""
    orientation: str | None = None
    """Axis directions of the volumes that the model was trained with ("RAS"), for a bundle that does not turn its
    input by itself."""
    labels: Mapping[int, Meaning] = Field(default_factory=dict)
    """Label value → what it means. Where each structure has a channel of its own: number of the channel, from 0."""
    classes: Mapping[int, ClassMeaning] = Field(default_factory=dict)
    """Number of the class, from 0 → what it means."""
    numbers: Mapping[int, NumberMeaning] = Field(default_factory=dict)
    """Place of the number, from 0 → what it is."""
    side_from_header: bool = False
    """Whether structures are of the side that the images' header states (ImageLaterality, Laterality): for images of
    one of two organs. Where it states none, they are of no side."""
    exclusive: bool = True
    """Whether exactly one of the classes holds."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """From which probability on a structure, a box or a class counts, where the bundle does not decide it itself."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Calibration of the classes' probabilities: their logits are divided by it (Guo et al., ICML 2017)."""
    boxes: Boxes = Boxes()
    points: Literal["rows", "columns"] | None = None
    """Whether each landmark is a row or a column of the output, which for three of them cannot be told otherwise."""
    prompt: Mapping[str, Any] = Field(default_factory=dict)
    """What the bundle wants besides images: the classes that a promptable model shall look for."""
    overrides: Mapping[str, Any] = Field(default_factory=dict)
    """Keys of the bundle's configuration and what to put there, as `monai.bundle run --key value` does."""
    resources: Resources = Resources()
    speed: Speed = Speed()
    objects: Mapping[Profile, tuple[ObjectKind, ...]] = Field(default_factory=dict)
    """What is written for a destination of each kind; where it is not said, ``coread.objects.DEFAULT_OBJECTS``."""
    probabilities: str | None = None
    """The key in the bundle's output that holds the probability of each class, one channel for each label value from
    0; needed for SEG-FRACTIONAL and MAP."""
    saliency: Saliency | None = None
    """Whether and how a classifier says where it looked."""
    limits: str
    """One sentence for the report: what the model is not for."""

    @property
    def phases(self) -> Phases | None:
        """What is told from several phases; None: only one is read."""
        return next((series.phases for series in self.series if series.phases), None)

    def threshold_of(self, key: int) -> float:
        """From which probability on a class that does not exclude others is present."""
        return self.classes[key].threshold or self.threshold or DEFAULT_CLASS_THRESHOLD

    def value_of(self, key: int) -> int:
        """The value in label volumes of what ``labels`` has under a key: 0 is the background's, so where channel 0 is a
        structure all are one higher.
        """
        return key + 1 if 0 in self.labels else key

    @model_validator(mode="after")
    def _probabilities_are_there(self) -> "Manifest":
        kinds = {kind for kinds in self.objects.values() for kind in kinds}
        wanted = kinds & {ObjectKind.SEG_FRACTIONAL, ObjectKind.MAP}
        if self.saliency is not None:
            wanted -= {ObjectKind.MAP}
        elif ObjectKind.SC_MAP in kinds:
            raise ValueError(f"{ObjectKind.SC_MAP} needs `saliency`")
        if wanted and self.probabilities is None:
            raise ValueError(f"{' and '.join(sorted(wanted))} need the output key `probabilities`")
        return self

    @model_validator(mode="after")
    def _something_is_meant(self) -> "Manifest":
        filled = [table for table in ("labels", "classes", "numbers") if getattr(self, table)]
        if len(filled) != 1:
            raise ValueError(
                f"expected one of `labels`, `classes` and `numbers`, found {' and '.join(filled) or 'none'}"
            )
        if self.task and _TABLE_OF[self.task] != filled[0]:
            raise ValueError(f"a {self.task} model needs `{_TABLE_OF[self.task]}`, found `{filled[0]}`")
        return self

    @model_validator(mode="after")
    def _waveforms_get_answers(self) -> "Manifest":
        if any(each.waveform for each in self.series) and (len(self.series) > 1 or self.labels or self.orientation):
            raise ValueError("a model that reads a `waveform` has one series, and `classes` or `numbers`")
        return self

    @model_validator(mode="after")
    def _phases_are_of_a_structure(self) -> "Manifest":
        phases = self.phases
        if phases is None:
            return self
        if len(self.series) > 1 or self.series[0].projection:
            raise ValueError("`phases` can be told only of one series, a stack of slices")
        if phases.label not in self.labels:
            raise ValueError(f"`phases` speak of label {phases.label}, which `labels` does not have")
        names = [phases.filled.name, phases.emptied.name]
        if self.task not in (None, TaskKind.SEGMENTATION) or len(self.title) + max(map(len, names)) >= LONGEST_TITLE:
            raise ValueError(
                f"`phases` need a segmentation, and a title of up to {LONGEST_TITLE} characters with a phase's name"
            )
        return self

    @model_validator(mode="after")
    def _answers_are_coded(self) -> "Manifest":
        if self.exclusive and any(meaning.value is None for meaning in self.classes.values()):
            raise ValueError("classes that exclude each other need a coded `value` each; else say `exclusive: false`")
        return self

    @model_validator(mode="after")
    def _can_be_explained(self) -> "Manifest":
        if self.saliency is None:
            return self
        if not self.classes:
            raise ValueError("`saliency` explains classes; found a model without `classes`")
        unknown = sorted(set(self.saliency.of or ()) - set(self.classes))
        if unknown:
            raise ValueError(f"`saliency.of` names classes, found {unknown[0]}, which is none")
        of = self.saliency.of if self.saliency.of is not None else self.classes
        nowhere = [self.classes[key].name for key in of if self.classes[key].anatomy is None]
        if nowhere:
            raise ValueError(f"`saliency` needs the `anatomy` of each class that it explains, found none: {nowhere[0]}")
        return self

    @field_validator("labels", "classes", "numbers")
    @classmethod
    def _fit_into_a_byte(cls, table: Mapping[int, Any]) -> Mapping[int, Any]:
        if any(not 0 <= value <= 255 for value in table) or {0, 255} <= set(table):
            raise ValueError("expected values from 0 to 255, and not both of them")
        names = [meaning.name for meaning in table.values()]
        if len(set(names)) != len(names):
            raise ValueError("expected a name of its own for each")
        return table

    @field_validator("orientation")
    @classmethod
    def _names_three_axes(cls, orientation: str | None) -> str | None:
        if orientation is not None and sorted(
            "RAS"["LRPAIS".index(each) // 2] for each in orientation if each in "LRPAIS"
        ) != list("ARS"):
            raise ValueError("expected one of L and R, one of P and A, one of I and S, in the order of the axes: RAS")
        return orientation

    @field_validator("series", mode="before")
    @classmethod
    def _may_be_one(cls, series: object) -> object:
        return [series] if isinstance(series, Mapping) else series

    @field_validator("series")
    @classmethod
    def _have_names_or_none(cls, series: tuple[SeriesRequirement, ...]) -> tuple[SeriesRequirement, ...]:
        keys = [channel.key for channel in series]
        if any(keys) and (None in keys or len(set(keys)) != len(keys)):
            raise ValueError("either no series has a `key`, or each has its own")
        if len(series) > 1 and any(channel.projection for channel in series):
            raise ValueError("several series must be stacks of slices, to be brought onto one grid")
        return series


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in ``folder``. Raises ConfigurationError that names the file, and of each wrong key
    the line.
    """
    return read_yaml(folder / MANIFEST_NAME, Manifest)

"""What a bundle does, by its metadata: which task, which modality, and why some bundles are not for Coread.

The metadata are read as plain data (MONAI Bundle Specification, ``network_data_format``). They are often incomplete or
loosely worded, so several rules look at type, format and shape together, and what they do not decide is left open.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from coread.models.manifest import TaskKind

Format = Mapping[str, Any]
"""The description of one input or output of a network."""

DICOM_MODALITIES: Mapping[str, Sequence[str]] = {
    "ct": ("CT",),
    "computed tomography": ("CT",),
    "mr": ("MR",),
    "mri": ("MR",),
    "magnetic resonance": ("MR",),
    "mg": ("MG",),
    "mammogram": ("MG",),
    "mammography": ("MG",),
    "x-ray": ("CR", "DX"),
    "xray": ("CR", "DX"),
    "chest x-ray": ("CR", "DX"),
    "cxr": ("CR", "DX"),
    "radiograph": ("CR", "DX"),
    "cr": ("CR", "DX"),
    "dx": ("CR", "DX"),
    "pet": ("PT",),
    "pt": ("PT",),
    "us": ("US",),
    "ultrasound": ("US",),
    "xa": ("XA",),
    "ecg": ("ECG",),
    "ekg": ("ECG",),
    "electrocardiogram": ("ECG",),
    "electrocardiography": ("ECG",),
}
"""What metadata call a modality, in lower case → Modality (PS3.3 C.7.3.1.1.1)."""

_BOXES = frozenset({"object", "dict", "dictionary", "box", "boxes", "bounding boxes"})
_POINTS = frozenset({"points", "tuples", "landmarks", "keypoints", "coordinates"})
_CLASSES = frozenset(
    {"labels", "label", "classes", "class", "classification", "probabilities", "probability", "logits", "one-hot"}
)
_NUMBERS = frozenset({"regression", "number", "numbers", "scalar", "value", "values"})
_IMAGES = frozenset({"magnitude", "hounsfield", "image", "feature", "latent", "kspace"})
"""What type and format of an output may be called for each task; ``_IMAGES``: for none."""

_NO_IMAGES = frozenset({"latent", "noise", "timesteps", "tabular", "text", "context", "vector"})
"""Types and formats of inputs that no archive has."""

_MICROSCOPY = re.compile(
    r"\bpathology\b|histolog|histopatholog|whole[- ]slide|camelyon|microscop|\bnucle(i|us)\b|ha?ematoxylin",
    re.IGNORECASE,
)
_REGISTRATION = re.compile(r"\bregistration\b", re.IGNORECASE)

_COLOUR_CHANNELS = 3
"""From this number of channels on, an input may be a colour picture."""


def inputs_of(metadata: Mapping[str, Any]) -> Mapping[str, Format]:
    """Name → description of each input of the network; empty if the metadata name none."""
    return _formats(metadata, "inputs")


def outputs_of(metadata: Mapping[str, Any]) -> Mapping[str, Format]:
    """Name → description of each output of the network; empty if the metadata name none."""
    return _formats(metadata, "outputs")


def modalities_of(metadata: Mapping[str, Any]) -> Sequence[str]:
    """The values of Modality that fit what the metadata say of the first input; empty if they say nothing known."""
    said = next((str(each.get("modality", "")) for each in inputs_of(metadata).values()), "")
    return DICOM_MODALITIES.get(" ".join(said.casefold().split()), ())


def channels_of(described: Format) -> Mapping[int, str]:
    """Number → name of each channel or value, from ``channel_def``, else ``label_def``; empty if neither is there."""
    for key in ("channel_def", "label_def"):
        names = described.get(key)
        if isinstance(names, Mapping) and names and all(str(number).isdecimal() for number in names):
            return {int(number): str(name) for number, name in names.items()}
    return {}


def sizes_of(described: Format) -> Sequence[int]:
    """The axes of ``spatial_shape``; an axis of no fixed size ("8*n") counts as 0."""
    shape = described.get("spatial_shape")
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        return ()
    return [int(size) if str(size).isdecimal() else 0 for size in shape]


def task_of(metadata: Mapping[str, Any]) -> TaskKind | None:
    """What the bundle does; None if the metadata do not tell, or if it is refused."""
    if refusal_of(metadata):
        return None
    return next((_task(output) for output in outputs_of(metadata).values()), None)


def refusal_of(metadata: Mapping[str, Any]) -> str | None:
    """Why Coread does not run such a bundle, in a sentence; None if the metadata speak against nothing."""
    rules = (_made_of_no_image, _moves_images, _makes_images, _of_a_microscope, _several_outputs)
    return next(filter(None, (rule(metadata) for rule in rules)), None)


def _task(output: Format) -> TaskKind | None:
    words = _words(output)
    axes = sizes_of(output)
    spatial = _is_spatial(axes)
    if words & _BOXES:
        return TaskKind.DETECTION
    if words & _POINTS and not _is_one_number(output):
        return TaskKind.LANDMARKS
    if "segmentation" in words and (spatial or not axes):
        return TaskKind.SEGMENTATION
    if words & _NUMBERS or (not words & _CLASSES and _is_one_number(output)):
        return None if spatial else TaskKind.REGRESSION
    if words & _CLASSES and (axes or not words & {"labels", "label"}):
        return TaskKind.SEGMENTATION if spatial else TaskKind.CLASSIFICATION
    return None


def _is_spatial(axes: Sequence[int]) -> bool:
    """Whether there are at least two axes with more than one place; [1, 4] is a vector."""
    return sum(size != 1 for size in axes) > 1


def _is_one_number(output: Format) -> bool:
    return "spatial_shape" in output and output.get("num_channels", 1) == 1 and set(sizes_of(output)) <= {1}


def _made_of_no_image(metadata: Mapping[str, Any]) -> str | None:
    for name, described in inputs_of(metadata).items():
        other = _words(described) & _NO_IMAGES
        if other:
            return f"expected images as the only input, found `{name}` ({min(other)}); generative models are not run"
    if "network_data_format" not in metadata and any(key.endswith("_data_format") for key in metadata):
        return "expected the data format of one network, found those of several; generative models are not run"
    return None


def _moves_images(metadata: Mapping[str, Any]) -> str | None:
    channels = " ".join(name for each in inputs_of(metadata).values() for name in channels_of(each).values()).casefold()
    named = _REGISTRATION.search(_texts(metadata, "name", "task")) and _image_output(metadata)
    if named or ("moving" in channels and "fixed" in channels):
        return "expected a finding as output, found an image moved onto another; registration models are not run"
    return None


def _makes_images(metadata: Mapping[str, Any]) -> str | None:
    name = _image_output(metadata)
    return name and f"expected a finding as output, found an image (`{name}`); generative models are not run"


def _of_a_microscope(metadata: Mapping[str, Any]) -> str | None:
    channels = [described.get("num_channels") for described in inputs_of(metadata).values()]
    coloured = any(isinstance(number, int) and number >= _COLOUR_CHANNELS for number in channels)
    found = _MICROSCOPY.search(_texts(metadata, "name", "task", "description", "data_source"))
    if modalities_of(metadata) or not coloured or not found:
        return None
    return f'expected radiological images, found colour pictures and the word "{found[0]}"; pathology is not run'


def _several_outputs(metadata: Mapping[str, Any]) -> str | None:
    names = list(outputs_of(metadata))
    if len(names) < 2:
        return None
    return f"expected one output, found {len(names)} ({', '.join(names)}); models with several outputs are not run"


def _image_output(metadata: Mapping[str, Any]) -> str | None:
    """The name of an output that is an image again."""
    outputs = outputs_of(metadata).items()
    return next((name for name, each in outputs if str(each.get("format", "")).casefold() in _IMAGES), None)


def _formats(metadata: Mapping[str, Any], side: str) -> Mapping[str, Format]:
    formats = metadata.get("network_data_format")
    named = formats.get(side) if isinstance(formats, Mapping) else None
    if not isinstance(named, Mapping):
        return {}
    return {str(name): described for name, described in named.items() if isinstance(described, Mapping)}


def _words(described: Format) -> set[str]:
    """What type and format say."""
    return {str(described.get(key, "")).strip().casefold() for key in ("type", "format")}


def _texts(metadata: Mapping[str, Any], *keys: str) -> str:
    return " ".join(str(metadata.get(key, "")) for key in keys)

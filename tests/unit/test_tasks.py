"""Metadata in the form of the Model Zoo's, shortened to what decides."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from coread.models.manifest import TaskKind
from coread.models.tasks import channels_of, inputs_of, modalities_of, outputs_of, refusal_of, sizes_of, task_of

CT = {"type": "image", "format": "hounsfield", "modality": "CT", "num_channels": 1, "channel_def": {"0": "image"}}
RGB = {
    "type": "magnitude",
    "format": "RGB",
    "modality": "regular",
    "num_channels": 3,
    "channel_def": {"0": "R", "1": "G", "2": "B"},
}


def output(kind: str, form: str, shape: list[int | str] | None = None, **more: Any) -> dict[str, Any]:
    return {"type": kind, "format": form, **({} if shape is None else {"spatial_shape": shape}), **more}


def metadata(pred: Mapping[str, Any], *, image: Mapping[str, Any] = CT, **more: Any) -> dict[str, Any]:
    return {**more, "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}}}


MASK = output("image", "segmentation", [96, 96, 96], num_channels=2)

TASKS: Mapping[str, tuple[Mapping[str, Any], TaskKind | None]] = {
    "spleen_ct_segmentation": (MASK, TaskKind.SEGMENTATION),
    "brats_mri_segmentation": (output("image", "segmentation", ["8*n", "8*n", "8*n"]), TaskKind.SEGMENTATION),
    "prostate_mri_anatomy": (output("image", "labels", [96, 96, 96]), TaskKind.SEGMENTATION),
    "ventricular_short_axis_3label": (output("image", "segmentation", [256, 256]), TaskKind.SEGMENTATION),
    "a segmentation without shape": (output("image", "segmentation"), TaskKind.SEGMENTATION),
    "classes of each voxel": (output("probability", "classification", ["164", "164"]), TaskKind.SEGMENTATION),
    "breast_density_classification": (output("image", "labels", [1, 4], num_channels=4), TaskKind.CLASSIFICATION),
    "classification_template": (output("probabilities", "classes", [1, 4]), TaskKind.CLASSIFICATION),
    "one probability": (output("probability", "classification", [1, 1], num_channels=1), TaskKind.CLASSIFICATION),
    "classes without shape": (output("probabilities", "classes"), TaskKind.CLASSIFICATION),
    "lung_nodule_ct_detection": (output("object", "dict", ["n", "n", "n"]), TaskKind.DETECTION),
    "valve_landmarks": (output("tuples", "points", [2, 10]), TaskKind.LANDMARKS),
    "one number": (output("tuples", "value", [1], num_channels=1), TaskKind.REGRESSION),
    "a scalar": (output("scalar", "", []), TaskKind.REGRESSION),
    "three numbers": (output("vector", "regression", [1, 3]), TaskKind.REGRESSION),
    "labels without shape": (output("image", "labels"), None),
    "a map of numbers": (output("image", "regression", [96, 96, 96]), None),
    "a vector of who knows what": (output("image", "unknown", [1, 4]), None),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_task_follows_from_type_format_and_shape(name: str) -> None:
    pred, task = TASKS[name]
    assert task_of(metadata(pred)) == task


LATENT = {"type": "tuples", "format": "latent", "num_channels": 0, "spatial_shape": [64], "channel_def": {}}
NOISE = {"type": "noise", "format": "image", "num_channels": 8, "spatial_shape": [36, 44, 28]}
PAIR = {
    "type": "image",
    "format": "magnitude",
    "num_channels": 2,
    "channel_def": {"0": "moving image", "1": "fixed image"},
}
MADE = output("image", "magnitude", [64, 64], num_channels=1)
HISTOLOGY = "Nuclei of haematoxylin-stained histology images"

REFUSED: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "mednist_gan": (metadata(MADE, image=LATENT), "found `image` .latent.; generative"),
    "brats_mri_generative_diffusion": (metadata(output("feature", "image"), image=NOISE), "generative"),
    "maisi_ct_generative": ({"generator_data_format": {}, "autoencoder_data_format": {}}, "of several; generative"),
    "an image from an image": (metadata(MADE), "found an image .`pred`.; generative"),
    "mednist_reg": (metadata(MADE, image=PAIR, task="Hand image registration"), "registration"),
    "a registration that says so": (metadata(MADE, name="Lung CT registration"), "registration"),
    "pathology_tumor_detection": (
        metadata(output("probability", "classification", [1, 1]), image=RGB, name="Pathology tumor detection"),
        "the word .Pathology.",
    ),
    "pathology_nuclick_annotation": (metadata(MASK, image=RGB, description=HISTOLOGY), "pathology is not run"),
    "hovernet": (
        {"network_data_format": {"inputs": {"image": RGB}, "outputs": {"nuclei": MASK, "distance": MASK}}},
        "found 2 .nuclei, distance.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_for_coread_is_refused_in_a_sentence(name: str) -> None:
    described, reason = REFUSED[name]
    refusal = refusal_of(described)
    assert refusal is not None
    assert refusal.startswith("expected ")
    assert "\n" not in refusal
    assert re.search(reason, refusal)
    assert task_of(described) is None


@pytest.mark.parametrize(
    "described",
    [
        metadata(MASK),
        metadata(MASK, name="Segmentation after registration"),
        metadata(MASK, description="Deep nuclei of the brain, checked by histology"),
        metadata(MASK, image={**RGB, "modality": "CT"}, description="Predicts histology"),
        metadata(MASK, image=RGB, name="Endoscopic tool segmentation"),
        {},
    ],
)
def test_what_only_sounds_alike_is_not_refused(described: Mapping[str, Any]) -> None:
    assert refusal_of(described) is None


@pytest.mark.parametrize(
    ("said", "modalities"),
    [
        ("CT", ["CT"]),
        ("MRI", ["MR"]),
        ("Mammogram", ["MG"]),
        ("X-Ray", ["CR", "DX"]),
        ("PET", ["PT"]),
        ("us", ["US"]),
        ("regular", []),
        ("none", []),
        ("", []),
    ],
)
def test_the_modality_is_dicoms_or_none(said: str, modalities: list[str]) -> None:
    assert list(modalities_of(metadata(MASK, image={**CT, "modality": said}))) == modalities


def test_names_stand_in_the_channels_or_in_the_labels() -> None:
    assert channels_of({"channel_def": {"0": "background", "1": "spleen"}}) == {0: "background", 1: "spleen"}
    assert channels_of({"label_def": {"1": "liver"}}) == {1: "liver"}
    assert channels_of({"channel_def": {}, "label_def": {"1": "liver"}}) == {1: "liver"}
    assert channels_of({"channel_def": {"first": "liver"}}) == {}


def test_an_axis_of_any_size_counts_as_none() -> None:
    assert list(sizes_of({"spatial_shape": ["8*n", "164", 3]})) == [0, 164, 3]


@pytest.mark.parametrize(
    "odd", [{}, {"network_data_format": None}, {"network_data_format": {"inputs": [], "outputs": {"pred": 1}}}]
)
def test_metadata_of_another_shape_say_nothing(odd: Mapping[str, Any]) -> None:
    assert (inputs_of(odd), outputs_of(odd), modalities_of(odd)) == ({}, {}, ())
    assert (task_of(odd), refusal_of(odd)) == (None, None)

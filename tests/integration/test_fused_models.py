"""Bundles give the same by Coread's kernels and through MONAI: those that are shipped, and some in the zoo's form."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from coread.errors import ModelError
from coread.models.bundle.fusion_check import FusionVerdict, check_fusion, compared
from coread.models.bundle.reader import BundleReader
from coread.models.catalogue import installed_models
from coread.models.forward.window import SlidingWindow
from coread.models.manifest import load_manifest
from coread.models.prediction import Box, Point, Prediction
from coread.phantom import short_axis_volume
from coread.settings import Settings
from coread.volume import Volume
from tests import zoo
from tests.support import PLANES, volume_in_plane, write_bundle
from tests.unit.test_runner import LOAD, faces

CPU = torch.device("cpu")
FUSED = {
    "left_ventricle_sax": [
        "preprocessing fused: EnsureChannelFirstd, Spacingd, ResizeWithPadOrCropd, ScaleIntensityRangePercentilesd",
        "postprocessing fused: Invertd",
    ],
    "hippocampus_t1": [
        "preprocessing fused: EnsureChannelFirstd, Orientationd, Spacingd, NormalizeIntensityd, DivisiblePadd",
        "postprocessing fused: Invertd",
    ],
}
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
)


def verdict_on(name: str, volume: Volume) -> FusionVerdict:
    model = installed_models(Settings())[name]
    return check_fusion(model.folder, model.manifest, [volume], device=CPU)


def assert_same(verdict: FusionVerdict) -> None:
    assert verdict.why == "both ways give the same"
    assert verdict.agrees
    assert verdict.same_labels is not None
    assert verdict.same_labels >= 0.9999
    assert verdict.on_boundaries
    assert verdict.input_difference is not None


def test_the_left_ventricle_of_the_phantom_is_the_same_both_ways() -> None:
    verdict = verdict_on("left_ventricle_sax", short_axis_volume())
    assert_same(verdict)
    assert list(verdict.fused) == FUSED["left_ventricle_sax"]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(
    ("name", "folder"), [("left_ventricle_sax", "cardiac_lv_mr"), ("hippocampus_t1", "hippocampus_mr")]
)
def test_a_shipped_model_labels_people_whom_it_never_saw_the_same_both_ways(
    name: str, folder: str, number: int, real_data: Path
) -> None:
    cases = importlib.import_module(f"coread.models.{name}.train.data").load_cases(real_data / folder)
    case = [each for each in cases if each.split == "val"][number]
    if name == "hippocampus_t1":  # to the right, front and top
        volume = Volume.of(case.image, directions=((-1, 0, 0), (0, -1, 0), (0, 0, 1)), spacing=(1, 1, 1))
    else:
        volume = Volume.of(case.image, directions=PLANES["oblique"], spacing=case.spacing_mm)
    verdict = verdict_on(name, volume)
    assert_same(verdict)
    assert list(verdict.fused) == FUSED[name]


SPACING = (5.0, 1.5, 2.25)
UNTIED = (4.8, 1.4, 2.4)
"""Voxels in mm, none of which lies within 0.03 voxels of the middle between two of 1.5 mm. With SPACING, half of them
lie there but for rounding: which of the two MONAI takes as the nearest hangs on how its matrices lie in memory, and to
move the grid by 1e-7 voxels changes 0.1 to 0.9 % of the labels."""


def body(plane: str, *, channel: int = 0, spacing: tuple[float, float, float] = SPACING) -> Volume:
    """Structures of some voxels, in air."""
    shape = (16, 40, 32)
    values = ndimage.gaussian_filter(np.random.default_rng(11 + channel).normal(0, 1, shape), 1.5)
    values = values / values.std() * 120 + 50
    values[:, :6] = values[:, :, -5:] = -1000
    return volume_in_plane(plane, shape=shape, spacing=spacing, array=np.rint(values).astype(np.int16))


def ct() -> zoo.ZooBundle:
    """The spleen's, with the air around the patient cut off."""
    bundle = zoo.spleen()
    crop = zoo.transform("CropForegroundd", source_key="image", allow_smaller=True)
    bundle.inference["preprocessing"]["transforms"].insert(-1, crop)
    return bundle


@pytest.mark.parametrize("plane", ["axial", "sagittal", "oblique"])
@pytest.mark.parametrize("name", ["CT", *zoo.SEGMENTATIONS])
def test_a_bundle_of_the_zoos_labels_the_same_both_ways(name: str, plane: str, tmp_path: Path) -> None:
    make = ct if name == "CT" else zoo.SEGMENTATIONS[name]
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", make())
    manifest = load_manifest(folder)
    spacing = UNTIED if name == "whole body" else SPACING  # whose labels are brought back by the nearest voxel
    channels = [body(plane, channel=number, spacing=spacing) for number in range(len(manifest.series))]
    verdict = check_fusion(folder, manifest, channels, device=CPU)
    if name == "CT" and plane == "oblique":  # the crop ends right on a voxel, and rounding decides what is beyond it
        assert "the grid runs a little askew through the image, and is cut right on a voxel" in verdict.why
    else:
        assert_same(verdict)
    by_parts = any("scores are never kept as a whole" in said for said in verdict.fused)
    assert by_parts == (name in ("CT", "spleen", "whole body"))


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("axis", "first"), [(0, "left"), (1, "back"), (2, "feet")])
def test_fused_the_network_sees_the_patient_and_not_the_mirrored_patient(
    tmp_path: Path, plane: str, axis: int, first: str
) -> None:
    """As ``test_runner`` has it of MONAI's transforms."""
    turn = {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None}
    space = {"_target_": "Spacingd", "keys": "image", "pixdim": [1.7, 1.9, 2.1], "mode": "bilinear"}
    inference = {"preprocessing": [*LOAD, turn, space], "postprocessing": faces(axis)}
    folder = write_bundle(tmp_path / "bundle", manifest={}, inference=inference)
    reader = BundleReader(folder, load_manifest(folder), device=CPU, fuse=True)
    volume = volume_in_plane(plane, shape=(9, 15, 12))
    (labels,) = reader.predict([volume]).layers
    assert reader.fusion.postprocessing == ("Invertd",)
    assert reader.fusion.run.other_case == ""
    places = [volume.map_indices_to_reference(np.argwhere(labels == label)).mean(axis=0)[axis] for label in (1, 2)]
    towards = {"left": 1, "back": 1, "feet": -1}[first]
    assert towards * (places[0] - places[1]) > 5.0


def test_the_scores_of_the_whole_volume_never_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", ct())
    reader = BundleReader(folder, load_manifest(folder), device=CPU, fuse=True)

    def whole(*_arguments: object) -> None:
        raise AssertionError("all scores are asked for at once")

    monkeypatch.setattr(SlidingWindow, "__call__", whole)
    (labels,) = reader.predict([body("sagittal")]).layers
    assert len(np.unique(labels)) > 1


def test_a_handler_that_a_bundle_adds_before_it_runs_gets_scores(tmp_path: Path) -> None:
    bundle = ct()
    bundle.inference["imports"] = ["$from monai.engines.utils import IterationEvents"]
    bundle.inference["initialize"] = [
        (
            "$@evaluator.add_event_handler(IterationEvents.FORWARD_COMPLETED, lambda engine: "
            "engine.state.output.update(pred=engine.state.output['pred'].flip(1)))"
        )
    ]
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    manifest = load_manifest(folder)
    verdict = check_fusion(folder, manifest, [body("axial")], device=CPU)
    assert_same(verdict)
    assert "scores are kept as a whole: a handler of the bundle looks at them" in verdict.fused


def test_each_patient_gets_the_mask_that_a_fresh_reader_gives(tmp_path: Path) -> None:
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", ct())
    reader = BundleReader(folder, load_manifest(folder), device=CPU, fuse=True)
    thin = body("axial")
    volumes = [body("sagittal"), Volume(array=thin.array[::-1, 7:], affine=thin.affine), body("oblique")]
    flat = thin.with_array(np.full(thin.array.shape, -1000, np.int16))  # of which there is no foreground
    masks = [reader.predict([each]).layers[0] for each in (*volumes, flat, *volumes)]
    assert reader.fusion.run.placement is None
    for index, volume in enumerate(volumes):
        fresh = BundleReader(folder, load_manifest(folder), device=CPU, fuse=True)
        (expected,) = fresh.predict([volume]).layers
        assert np.array_equal(masks[index], expected)
        assert np.array_equal(masks[index + 4], expected)


def test_a_failure_in_a_fused_bundle_is_said_as_before_and_the_next_patient_gets_a_mask_of_their_own(
    tmp_path: Path,
) -> None:
    bundle = ct()
    picky = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x if x.shape[1] > 20 else 1 / 0"}
    bundle.inference["postprocessing"]["transforms"].insert(3, picky)
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    reader = BundleReader(folder, load_manifest(folder), device=CPU, fuse=True)
    good = body("sagittal")
    (before,) = reader.predict([good]).layers
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        reader.predict([Volume(array=good.array[:, :, :15], affine=good.affine)])
    (after,) = reader.predict([good]).layers
    assert np.array_equal(before, after)


def of(labels: Any, **more: Any) -> Prediction:
    return Prediction(layers=(np.asarray(labels, np.uint8),), **more)


def cube(*, at: Sequence[int] = (), size: int = 20) -> Any:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[:size, :size, :size] = 1
    for index in at:
        labels[index, 0, 0] ^= 1
    return labels


def test_a_label_that_differs_away_from_every_boundary_is_no_agreement() -> None:
    assert compared(of(cube(at=[19])), of(cube())).agrees
    verdict = compared(of(cube(at=[3])), of(cube()))
    assert not verdict.agrees
    assert verdict.why == "a label differs away from every boundary"


def test_many_labels_that_differ_are_no_agreement() -> None:
    verdict = compared(of(cube(size=21)), of(cube()))
    assert not verdict.agrees
    assert "1.97% of the voxels get another label" in verdict.why


def test_another_image_before_the_network_is_no_agreement() -> None:
    image = np.random.default_rng(0).random((1, 9, 9, 9)).astype(np.float32)
    assert compared(of(cube()), of(cube()), inputs=(image, image + 1e-5)).agrees
    verdict = compared(of(cube()), of(cube()), inputs=(image, image * 1.1))
    assert not verdict.agrees
    assert "the network sees an image that differs" in verdict.why


def test_a_box_or_a_landmark_in_another_place_is_no_agreement() -> None:
    def boxed(low: float = 3.0, label: int = 1, probability: float = 0.8) -> Prediction:
        corners = {"low": np.array([low, 3, 3]), "high": np.array([9.0, 9, 9])}
        return Prediction(boxes=(Box(label=label, probability=probability, **corners),))

    def at(place: float) -> Prediction:
        return Prediction(points=(Point(label=0, place=np.array([place, 3, 3])),))

    assert compared(boxed(3.01, probability=0.8001), boxed()).agrees
    assert compared(at(5.01), at(5)).agrees
    assert not compared(boxed(4), boxed()).agrees
    assert not compared(boxed(label=2), boxed()).agrees
    assert not compared(boxed(probability=0.7), boxed()).agrees
    assert not compared(at(6), at(5)).agrees


def test_a_bundle_of_which_nothing_is_known_does_not_run_fused(tmp_path: Path) -> None:
    inference = {
        "preprocessing": [*LOAD, {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x"}],
        "postprocessing": [{"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x * 0"}],
    }
    folder = write_bundle(tmp_path / "bundle", manifest={}, inference=inference)
    verdict = check_fusion(folder, load_manifest(folder), [body("axial")], device=CPU)
    assert not verdict.agrees
    assert verdict.why == "nothing of it can be fused"
    assert verdict.fused == (
        "preprocessing not fused from Lambdad on: it is none of those that are known",
        "preprocessing not fused: there is nothing to be won",
    )

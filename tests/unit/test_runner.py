import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coread.errors import ConfigurationError, ModelError, OutOfMemory
from coread.models.bundle.grid import ModelGrid
from coread.models.catalogue import State, find_model, installed_models, packages
from coread.models.runner import BundleRunner, choose_device
from coread.settings import Settings
from coread.volume import Volume
from tests.support import MANIFEST, PLANES, installed, settings_with, volume_in_plane, write_bundle

CPU = torch.device("cpu")
LOAD: list[dict[str, Any]] = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
]
SAVE = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "/nonexistent"}

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*labels=.*:FutureWarning",  # MONAI announces a new default of Orientationd
    "ignore:.*non-tuple sequence for multidimensional indexing.*:UserWarning",  # inside MONAI's sliding window
)


def runner(folder: Path, **inference: Any) -> BundleRunner:
    write_bundle(folder / "bundle", manifest={}, inference=inference)
    return BundleRunner(installed(folder), device=CPU)


def labels_of(warm: BundleRunner, volume: Volume) -> np.ndarray[Any, np.dtype[np.uint8]]:
    (layer,) = warm.predict([volume]).layers
    return layer


def faces(axis: int) -> list[dict[str, Any]]:
    """Label the first third along an axis 1 and the last third 2: a "network" that knows left from right."""
    shape = ["None"] * 4
    shape[axis + 1] = ":"
    index = f"torch.arange(x.shape[{axis + 1}])[{','.join(shape)}]"
    size = f"x.shape[{axis + 1}]"
    function = f"$lambda x: x * 0 + ({index} * 3 < {size}) + 2 * ({index} * 3 >= 2 * {size})"
    return [
        {"_target_": "Lambdad", "keys": "pred", "func": function},
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": True,
        },
        SAVE,
    ]


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("axis", "first"), [(0, "left"), (1, "back"), (2, "feet")])
def test_the_network_sees_the_patient_and_not_the_mirrored_patient(
    tmp_path: Path, plane: str, axis: int, first: str
) -> None:
    """MONAI's RAS indices grow towards right, front and head, so that the first third lies left, back or at the feet.

    In DICOM's LPS coordinates, left and back are where x and y are large, and the feet where z is small.
    """
    orientation = {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"}
    volume = volume_in_plane(plane, shape=(9, 15, 12))
    labels = labels_of(runner(tmp_path, preprocessing=[*LOAD, orientation], postprocessing=faces(axis)), volume)
    places = [volume.map_indices_to_reference(np.argwhere(labels == label)).mean(axis=0)[axis] for label in (1, 2)]
    towards = {"left": 1, "back": 1, "feet": -1}[first]
    assert towards * (places[0] - places[1]) > 5.0


def test_the_tensor_carries_what_monai_asks_for() -> None:
    volume = volume_in_plane("oblique")
    tensor = ModelGrid.of(volume, None, projection=False).tensor(volume)
    assert tuple(tensor.shape) == (14, 20, 6)
    assert tensor[3, 7, 2] == volume.array[2, 7, 3]
    assert tensor.meta["space"] == "RAS"
    place = tensor.affine.numpy() @ [3, 7, 2, 1]
    assert np.allclose(place[:3] * [-1, -1, 1], volume.map_indices_to_reference(np.array([[2, 7, 3]]))[0])


THRESHOLD = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: (x > 500).float() + (x > 1000).float()"}


def test_exact_labels_come_back_on_the_volumes_own_grid_every_time(tmp_path: Path) -> None:
    warm = runner(tmp_path, preprocessing=LOAD, postprocessing=[THRESHOLD, SAVE])
    for plane in PLANES:
        volume = volume_in_plane(plane)
        expected = (volume.array > 500).astype(np.uint8) + (volume.array > 1000)
        assert np.array_equal(labels_of(warm, volume), expected)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("$lambda x: x * 0 + 7", "found 1 others, such as 7"),
        ("$lambda x: x * 0 + 0.5", "such as 0.5"),
        ("$lambda x: x * float('nan')", "found NaN or infinity"),
        ("$lambda x: x[..., :-1] * 0", "one that ends 1.0 voxels before it"),
        ("$lambda x: torch.cat([x, x]) * 0", "expected a channel of number 2, found 2 channels"),
        ("$lambda x: 1 / 0", "failed: "),
    ],
    ids=["unknown label", "fraction", "NaN", "another grid", "two channels", "exception"],
)
def test_an_output_that_is_no_labelling_of_the_grid_is_an_error(tmp_path: Path, function: str, said: str) -> None:
    bad = {"_target_": "Lambdad", "keys": "pred", "func": function}
    with pytest.raises(ModelError) as raised:
        runner(tmp_path, preprocessing=LOAD, postprocessing=[bad]).predict([volume_in_plane("axial")])
    assert said in str(raised.value)


FAILS_ON = {
    "preprocessing": {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x if x.max() < 5000 else 1 / 0"},
    "postprocessing": {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x if x.max() < 5000 else 1 / 0"},
}


@pytest.mark.parametrize("where", FAILS_ON)
@pytest.mark.parametrize("failures", [1, 2])
def test_after_a_failure_the_next_patient_gets_a_mask_of_their_own(tmp_path: Path, where: str, failures: int) -> None:
    chains = {"preprocessing": [*LOAD], "postprocessing": [THRESHOLD, SAVE]}
    chains[where] = [*chains[where], FAILS_ON[where]] if where == "preprocessing" else [FAILS_ON[where], *chains[where]]
    warm = runner(tmp_path, **chains)
    first = volume_in_plane("axial")
    bad = first.with_array(np.full_like(first.array, 9000))
    other = first.with_array(first.array[::-1].copy())
    assert labels_of(warm, first).any()
    for _ in range(failures):
        with pytest.raises(ModelError, match="ZeroDivisionError"):
            labels_of(warm, bad)
    expected = (other.array > 500).astype(np.uint8) + (other.array > 1000)
    assert np.array_equal(labels_of(warm, other), expected)


def test_running_out_of_memory_is_worth_another_try(tmp_path: Path) -> None:
    greedy = {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: (_ for _ in ()).throw(MemoryError())"}
    with pytest.raises(OutOfMemory):
        runner(tmp_path, preprocessing=[*LOAD, greedy], postprocessing=[SAVE]).predict([volume_in_plane("axial")])


def test_a_bundle_that_cannot_be_built_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"the bundle test_model cannot be built: it uses NoSuchTransform, which is neither in MONAI"
    ):
        runner(tmp_path, preprocessing=[{"_target_": "NoSuchTransform"}], postprocessing=[])


def test_a_changed_file_disables_the_bundle(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", manifest={}, inference={"preprocessing": [], "postprocessing": []})
    model = installed(tmp_path)
    before = model.digest()
    with (folder / "configs" / "inference.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ConfigurationError, match=r"found configs/inference\.json changed since"):
        BundleRunner(model, device=CPU)
    assert installed(tmp_path).digest() != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "Two Words"}, "name"),
        ({"labels": {}}, "labels"),
        ({"labels": {256: MANIFEST["labels"][1]}}, "from 0 to 255"),
        ({"labels": {1: {**MANIFEST["labels"][1], "measure": ["mass"]}}}, "go together"),
        ({"labels": {1: {**MANIFEST["labels"][1], "type": ["SRT", "T-1", "x"]}}}, "labels.1.type"),
        ({"invented": 1}, "invented"),
        ({"objects": {"ohif": ["PDF"]}}, "objects.ohif.0"),
        ({"objects": {"fax": ["SEG"]}}, "objects.fax"),
        ({"objects": {"slicer": ["MAP"]}}, "MAP need the output key `probabilities`"),
    ],
)
def test_a_broken_manifest_is_named_with_its_key(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_bundle(tmp_path / "bundle", manifest=change, inference={"preprocessing": [], "postprocessing": []})
    with pytest.raises(ConfigurationError) as raised:
        installed(tmp_path)
    assert said in str(raised.value)
    assert "coread.yaml" in str(raised.value)


def test_a_label_of_the_bundle_without_a_coded_meaning_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", manifest={}, inference={"preprocessing": [], "postprocessing": []})
    names = {"0": "background", "1": "first", "2": "second", "3": "pancreas"}
    metadata = {"version": "1", "network_data_format": {"outputs": {"pred": {"channel_def": names}}}}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ConfigurationError, match=r"found none of 3 \(pancreas\); add it under `labels`"):
        installed(tmp_path)


def with_probabilities(folder: Path, function: str) -> BundleRunner:
    copied = [
        {"_target_": "CopyItemsd", "keys": "pred", "names": "probability"},
        {"_target_": "Lambdad", "keys": "probability", "func": function},
        THRESHOLD,
    ]
    inference = {"preprocessing": LOAD, "postprocessing": copied}
    write_bundle(folder / "bundle", manifest={"probabilities": "probability"}, inference=inference)
    return BundleRunner(installed(folder), device=CPU)


def test_probabilities_come_back_by_label_on_the_volumes_own_grid(tmp_path: Path) -> None:
    volume = volume_in_plane("oblique")
    scaled = "x / 2000"  # the largest value is 1679
    warm = with_probabilities(tmp_path, f"$lambda x: torch.cat([1 - {scaled}, {scaled}, {scaled} / 2])")
    prediction = warm.predict([volume])
    assert set(prediction.probabilities) == {1, 2}
    assert np.allclose(prediction.probabilities[1], volume.array / 2000)
    assert np.allclose(prediction.probabilities[2], volume.array / 4000)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("$lambda x: torch.cat([x, x, x])", "from 0 to 1, found 0 to 1679"),
        ("$lambda x: torch.cat([x, x]) * 0", "expected probabilities of 3 or more channels, found 2"),
        ("$lambda x: torch.cat([x, x, x]) * float('nan')", "found NaN or infinity"),
    ],
    ids=["logits", "a channel is missing", "NaN"],
)
def test_what_are_no_probabilities_is_an_error(tmp_path: Path, function: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        with_probabilities(tmp_path, function).predict([volume_in_plane("axial")])


def test_of_two_packages_of_one_name_the_second_is_broken_and_nothing_else(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_bundle(tmp_path / name, manifest={}, inference={"preprocessing": [], "postprocessing": []})
    found = packages(settings_with(tmp_path))
    assert [package.state for package in found if package.folder.name == "one"] == [State.ENABLED]
    (second,) = [package for package in found if package.folder.name == "two"]
    assert second.state is State.BROKEN
    assert "one is called test_model too; rename one of them" in second.reason


def test_an_unknown_model_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(
        ConfigurationError, match=r"no model called liver that may be used; there are: .*left_ventricle_sax"
    ):
        find_model("liver", installed_models(Settings()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_demanded_and_not_there_is_no_silent_cpu() -> None:
    with pytest.raises(ConfigurationError, match="torch finds none"):
        choose_device("cuda")

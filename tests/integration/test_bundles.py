"""Bundles in the form of the Model Zoo's run as they are, and give what their own configuration gives."""

import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai
import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from coread.errors import ConfigurationError, ModelError
from coread.models.bundle.adapters import REMOVED_ARGUMENTS, RENAMED
from coread.models.bundle.isolation import IsolatedReader
from coread.models.bundle.reader import BundleReader
from coread.models.manifest import load_manifest
from coread.models.prediction import Prediction
from coread.volume import Volume
from tests import zoo
from tests.support import PLANES, volume_in_plane

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings(
    # What a bundle's code and MONAI in it warn of is their authors' matter; a run must not depend on it.
    "ignore::UserWarning",
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    "ignore::ResourceWarning",
)


def noise(plane: str, *, shape: tuple[int, int, int] = (16, 24, 20), channel: int = 0) -> Volume:
    """A volume in which every voxel is another."""
    values = np.random.default_rng(7 + channel).normal(50, 120, shape).astype(np.float32)
    return volume_in_plane(plane, shape=shape, array=values)


def channels_of(folder: Path, plane: str) -> list[Volume]:
    return [noise(plane, channel=number) for number in range(len(load_manifest(folder).series))]


def read(folder: Path, channels: list[Volume], **more: Any) -> Prediction:
    return BundleReader(folder, load_manifest(folder), device=CPU, **more).predict(channels)


def label_map(prediction: Prediction) -> NDArray[np.uint8]:
    (layer,) = prediction.layers
    return layer


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", zoo.SEGMENTATIONS)
def test_a_bundle_gives_voxel_by_voxel_what_its_own_configuration_gives(name: str, plane: str, tmp_path: Path) -> None:
    if name == "brats" and plane in ("sagittal", "coronal"):
        pytest.skip("MONAI's own saver fails on stacked channels in this plane")
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", zoo.SEGMENTATIONS[name]())
    channels = channels_of(folder, plane)
    (tmp_path / "files").mkdir()
    expected = zoo.run_on_files(folder, channels, tmp_path / "files").transpose(2, 1, 0)
    prediction = read(folder, channels)
    assert np.array_equal(label_map(prediction), expected)
    assert len(np.unique(expected)) > 1
    assert prediction.way == "memory"


def renamed(folder: Path) -> None:
    """The same bundle with every name changed that may be: folders, files, ids, the list that runs it."""
    names = {
        "evaluator": "engine",
        "preprocessing": "pre",
        "postprocessing": "post",
        "dataset": "cases",
        "dataloader": "batches",
        "network_def": "architecture",
        "inferer": "slider",
        "handlers": "listeners",
        "checkpointloader": "weights_in",
        "run": "go",
        "evaluating": "go",
        "image_key": "picture_key",
        "datalist": "cohort",
        "device": "where",
    }
    (path,) = (folder / "configs").glob("inference.*")
    text = json.dumps(yaml.safe_load(path.read_text()))
    for old, new in names.items():
        text = re.sub(rf"@{old}\b", f"@{new}", text)
    content = {names.get(key, key): value for key, value in json.loads(text).items()}
    path.unlink()
    target = folder / "settings" / "predict_volume.yaml"
    (folder / "configs").rename(folder / "settings")
    target.write_text(yaml.safe_dump(content, sort_keys=False).replace("/models/model.pt", "/weights/best.pth"))
    (folder / "models").rename(folder / "weights")
    (folder / "weights/model.pt").rename(folder / "weights/best.pth")


@pytest.mark.parametrize("name", [name for name in zoo.SEGMENTATIONS if name != "whole body"])
def test_nothing_hangs_on_the_names_in_a_bundle(name: str, tmp_path: Path) -> None:
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", zoo.SEGMENTATIONS[name]())
    channels = channels_of(folder, "axial")
    expected = label_map(read(folder, channels))
    renamed(folder)
    assert np.array_equal(label_map(read(folder, channels)), expected)


def test_a_bundle_whose_weights_are_missing_does_not_run_with_random_ones(tmp_path: Path) -> None:
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", zoo.segmentation_template())
    (folder / "models/model.pt").unlink()
    with pytest.raises(ModelError, match="expected its configuration to load the network's weights"):
        read(folder, [noise("axial")])


def test_another_number_of_series_than_channels_is_refused_before_anything_runs(tmp_path: Path) -> None:
    bundle = zoo.brats()
    bundle.manifest["series"] = bundle.manifest["series"][:3]
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    with pytest.raises(ConfigurationError, match="for each of the 4 channels of the bundle, found 3"):
        read(folder, [noise("axial")] * 3)


OLD: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "removed_arguments": lambda content, _: content["network_def"].update(
        {"_target_": "UNet", "dimensions": content["network_def"].pop("spatial_dims")}
    ),
    "renamed_classes": lambda content, _: content["preprocessing"]["transforms"].__setitem__(
        1, {"_target_": "AddChanneld", "keys": "image"}
    ),
    "numpy_names": lambda content, _: content["inferer"].update(sw_batch_size="$int(np.product([2, 2]))"),
    "devices": lambda content, _: content["inferer"].update(device="$torch.device('cuda')", sw_device="cuda:0"),
    "paths_of_another_machine": lambda content, _: content["checkpointloader"].update(
        load_path="/home/author/experiments/models/model.pt"
    ),
    "nearest_classes": lambda content, _: content["postprocessing"]["transforms"].insert(
        1, content["postprocessing"]["transforms"].pop(2)
    ),
}
"""Adapter → what an old bundle has that needs it."""


@pytest.mark.parametrize("adapter", OLD)
def test_an_old_bundle_is_adapted_and_says_so(adapter: str, tmp_path: Path) -> None:
    bundle = zoo.spleen()
    OLD[adapter](bundle.inference, tmp_path)
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    prediction = read(folder, [noise("axial")])
    assert any(line.startswith(f"{adapter}: ") for line in prediction.adapted)
    today = zoo.write_zoo_bundle(tmp_path / "today", zoo.spleen())
    if adapter != "nearest_classes":  # which is another result, without classes that the network never gave
        assert np.array_equal(label_map(prediction), label_map(read(today, [noise("axial")])))
    assert read(today, [noise("axial")]).adapted == ()


def test_a_checkpoint_with_numpy_arrays_is_taken_without_trusting_it_with_more(tmp_path: Path) -> None:
    bundle = zoo.spleen()
    bundle.inference["arch_ckpt"] = "$torch.load(@bundle_root + '/models/arch.pt', map_location=torch.device('cuda'))"
    bundle.inference["network_def"] = {**zoo.UNET, "channels": "$[int(x) for x in @arch_ckpt['channels']]"}
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    torch.save({"channels": np.array([4, 8, 16])}, folder / "models/arch.pt")
    assert any(line.startswith("numpy_checkpoints: ") for line in read(folder, [noise("axial")]).adapted)


class Marker:
    """A pickle that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_weights_that_are_more_than_numbers_are_not_loaded(tmp_path: Path) -> None:
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", zoo.spleen())
    torch.save({"model": Marker(tmp_path / "marker")}, folder / "models/model.pt")
    with pytest.raises(ModelError, match="cannot be built"):
        read(folder, [noise("axial")])
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("as_wanted", [True, False])
def test_a_bundle_without_orientation_gets_the_one_it_was_trained_with(tmp_path: Path, as_wanted: bool) -> None:
    """The same anatomy, stored in two ways: with the orientation stated, the result is the same."""
    bundle = zoo.segmentation_template()
    if as_wanted:
        bundle.manifest["orientation"] = "RAS"
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    stored = noise("axial")
    flipped = stored.affine @ np.array([[1, 0, 0, 0], [0, -1, 0, 23], [0, 0, -1, 19], [0, 0, 0, 1]])
    other = Volume(array=np.ascontiguousarray(stored.array[:, ::-1, ::-1]), affine=flipped)
    one, two = (label_map(read(folder, [each])) for each in (stored, other))
    assert np.array_equal(one, two[:, ::-1, ::-1]) == as_wanted


def test_a_bundle_that_opens_files_itself_gets_files(tmp_path: Path) -> None:
    bundle = zoo.spleen()
    bundle.inference["preprocessing"]["transforms"][0] = {
        "_target_": "scripts.loading.OwnLoader",
        "keys": "image",
    }
    bundle.inference["imports"] = ["$from scripts.loading import OwnLoader"]
    loading = """
import nibabel
import monai
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform


class OwnLoader(MapTransform):
    def __call__(self, data):
        found = dict(data)
        for key in self.keys:
            file = nibabel.load(found[key])
            array = torch.from_numpy(np.asarray(file.dataobj, dtype=np.float32))
            found[key] = MetaTensor(array, affine=torch.from_numpy(file.affine))
            found[key].meta["original_channel_dim"] = float("nan")
        return found
"""
    bundle.scripts = {"scripts/__init__.py": "", "scripts/loading.py": loading}
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    reader = IsolatedReader(folder, load_manifest(folder), device=CPU)
    try:
        prediction = reader.predict([noise("axial")])
    finally:
        reader.close()
    plain = zoo.write_zoo_bundle(tmp_path / "plain", zoo.spleen())
    assert prediction.way == "files"
    assert np.array_equal(label_map(prediction), label_map(read(plain, [noise("axial")])))


def test_the_input_is_as_it_was_after_a_run(tmp_path: Path) -> None:
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", zoo.spleen())
    volume = noise("axial")
    before = volume.array.copy()
    content = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    read(folder, [volume])
    assert np.array_equal(volume.array, before)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == content


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", zoo.spleen())
    shutil.rmtree(folder / "configs")
    with pytest.raises(ModelError, match="expected a configuration for inference"):
        read(folder, [noise("axial")])


def test_what_an_adapter_takes_away_is_not_there_today() -> None:
    """An argument that exists has a meaning: to drop it would change the result."""
    for name, arguments in REMOVED_ARGUMENTS.items():
        today = getattr(monai.networks.nets, name, None) or getattr(monai.transforms, name)
        known = inspect.signature(today).parameters
        for old, new in arguments.items():
            assert old not in known, name
            assert new is None or new in known, name
    for name, (successor, fixed) in RENAMED.items():
        assert not hasattr(monai.transforms, name)
        assert set(fixed) <= set(inspect.signature(getattr(monai.transforms, successor)).parameters)

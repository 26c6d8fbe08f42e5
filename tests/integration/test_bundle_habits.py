"""Habits of bundles in the Model Zoo, each in a small bundle that has it."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import EfficientNetBN

from coread.errors import ModelError
from coread.models.bundle.adapters import Place, adapt_configuration
from coread.models.bundle.isolation import IsolatedReader
from coread.models.bundle.reader import BundleReader
from coread.models.manifest import load_manifest
from coread.models.prediction import Prediction
from coread.volume import Volume
from tests import zoo
from tests.support import volume_in_plane

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def noise(shape: tuple[int, int, int] = (16, 24, 20)) -> Volume:
    values = np.random.default_rng(7).normal(50, 120, shape).astype(np.float32)
    return volume_in_plane("sagittal", shape=shape, array=values)


def read(folder: Path, volume: Volume) -> Prediction:
    return BundleReader(folder, load_manifest(folder), device=CPU).predict([volume])


def inception() -> dict[str, Any]:
    """As breast_density_classification has it."""
    return {"_target_": "TorchVisionFCModel", "model_name": "inception_v3", "num_classes": 4, "pretrained": True}


def test_a_bundle_finds_the_metadata_beside_the_image_as_before_monai_1_3(tmp_path: Path) -> None:
    """As renalStructures_CECT_segmentation and lung_nodule_ct_detection look for them, and do not ask for them."""
    bundle = zoo.spleen()
    looks = "$lambda data: {**data, 'image': data['image'] * float(data['image_meta_dict']['affine'][3, 3])}"
    bundle.inference["preprocessing"]["transforms"].insert(1, looks)
    found = read(zoo.write_zoo_bundle(tmp_path / "bundle", bundle), noise())
    expected = read(zoo.write_zoo_bundle(tmp_path / "plain", zoo.spleen()), noise())
    assert np.array_equal(found.layers[0], expected.layers[0])
    assert found.adapted == ()


def test_a_network_that_downloads_without_being_told_to_takes_the_bundles_weights(tmp_path: Path) -> None:
    bundle = zoo.classification_template()
    network: dict[str, Any] = {"model_name": "efficientnet-b0", "spatial_dims": 2, "in_channels": 1, "num_classes": 4}
    bundle.inference["network_def"] = {"_target_": "EfficientNetBN", **network}
    bundle.weights = {"models/model.pt": EfficientNetBN(**network, pretrained=False)}
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    prediction = read(folder, noise((1, 64, 64)))
    assert prediction.chosen is not None
    assert "downloads: EfficientNetBN starts from the bundle's weights, not from a download" in prediction.adapted


def test_a_network_without_its_download_computes_what_it_computes_with_it(tmp_path: Path) -> None:
    """Torchvision's inception normalizes its input otherwise when it starts from downloaded weights."""
    content = {"network_def": inception(), "other": {**inception(), "transform_input": False}}
    adapt_configuration(content, Place(bundle_root=tmp_path, device=CPU))
    assert content["network_def"] == {**inception(), "pretrained": False, "transform_input": True}
    assert content["other"] == {**inception(), "pretrained": False, "transform_input": False}


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed here")
def test_a_package_that_monai_misses_is_named_in_one_sentence(tmp_path: Path) -> None:
    bundle = zoo.classification_template()
    bundle.inference["network_def"] = inception()
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    missing = r"not installed \(import torchvision.models \(No module named 'torchvision'\)\); install it$"
    with pytest.raises(ModelError, match=missing):
        read(folder, noise((1, 64, 64)))


def test_a_package_that_a_bundles_own_code_misses_is_named_in_one_sentence(tmp_path: Path) -> None:
    """As spleen_deepedit_annotation and vista3d bring transforms that want einops, cupy or kvikio."""
    bundle = zoo.spleen()
    bundle.inference["preprocessing"]["transforms"].insert(1, zoo.transform("scripts.transforms.Own"))
    bundle.scripts = {"scripts/__init__.py": "", "scripts/transforms.py": "from no_such_package import rearrange\n"}
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    missing = (
        r"cannot be built: it needs a package that is not installed \(No module named 'no_such_package'\); install"
    )
    with pytest.raises(ModelError, match=missing):
        IsolatedReader(folder, load_manifest(folder), device=CPU)


def test_a_bundle_for_images_over_time_is_refused_by_name(tmp_path: Path) -> None:
    """As valve_landmarks turns its input."""
    bundle = zoo.spleen()
    bundle.inference["preprocessing"]["transforms"].insert(1, zoo.transform("Transposed", indices=[2, 0, 1, 3]))
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    with pytest.raises(ModelError, match="it wants images of 4 axes, found 3; images over time are not read"):
        read(folder, noise())


def test_a_bundle_that_runs_a_program_of_its_own_is_refused_by_name(tmp_path: Path) -> None:
    """As CoronSegmentator, which has an evaluator, but an empty one."""
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", zoo.spleen())
    program = {"inferer": {"_target_": "scripts.pipeline.Pipeline"}, "evaluator": {}, "run": ["$@inferer.run()"]}
    (folder / "configs/inference.json").write_text(json.dumps(program))
    with pytest.raises(ModelError, match=r"found none in inference\.json; a bundle that runs a program of its own"):
        read(folder, noise())


def test_a_result_that_has_lost_its_place_is_refused_by_name(tmp_path: Path) -> None:
    """As an image that went through numpy: on the input's grid, but with the affine of no patient."""
    bundle = zoo.spleen()
    loses = zoo.transform("Lambdad", "pred", func="$lambda x: monai.data.MetaTensor(x.as_tensor())")
    bundle.inference["postprocessing"]["transforms"].insert(-1, loses)
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    with pytest.raises(ModelError, match=r"found one that says it lies .* the bundle loses its input's place"):
        read(folder, noise())

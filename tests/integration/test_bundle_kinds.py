"""Bundles of every kind whose right answer is known exactly."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet

from coread.errors import ModelError, OutOfMemory
from coread.models.bundle.adapters import IntermediateLayers
from coread.models.bundle.isolation import IsolatedReader
from coread.models.bundle.reader import BundleReader
from coread.models.manifest import load_manifest
from coread.models.prediction import Prediction
from coread.volume import Volume
from tests import zoo
from tests.support import PLANES, volume_in_plane

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
)


def answering(post: list[dict[str, Any]], *, manifest: dict[str, Any], **more: Any) -> zoo.ZooBundle:
    """A bundle whose network gives back its input, and whose postprocessing gives the answer."""
    return zoo.ZooBundle(
        inference={
            **zoo.TOP,
            "network_def": {"_target_": "torch.nn.Identity"},
            "preprocessing": zoo.chain(zoo.transform("LoadImaged"), zoo.transform("EnsureChannelFirstd")),
            **zoo.data(),
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": zoo.chain(*post),
            "handlers": [zoo.STATS],
            "evaluator": zoo.evaluator(),
            "run": ["$@evaluator.run()"],
            **more.pop("inference", {}),
        },
        inputs=zoo.image_format(more.pop("channels", 1)),
        outputs=more.pop("outputs", zoo.mask_format("background", "first", "second", "third")),
        manifest=manifest,
        **more,
    )


def said(function: str, keys: str = "pred") -> dict[str, Any]:
    return zoo.transform("Lambdad", keys, func=f"$lambda x: {function}")


def read(tmp_path: Path, bundle: zoo.ZooBundle, *volumes: Volume) -> Prediction:
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    reader_class = IsolatedReader if bundle.scripts else BundleReader
    reader = reader_class(folder, load_manifest(folder), device=CPU)
    try:
        return reader.predict(volumes)
    finally:
        reader.close()


HOUNSFIELD = np.random.default_rng(3).integers(-1000, 1000, (6, 20, 14)).astype(np.float32)


@pytest.mark.parametrize("plane", PLANES)
def test_structures_that_overlap_keep_all_their_voxels(plane: str, tmp_path: Path) -> None:
    volume = volume_in_plane(plane, array=HOUNSFIELD)
    masks = "torch.cat([x > -500, x > 0, x < 300, x > 2000]).float()"
    prediction = read(tmp_path, answering([said(masks)], manifest=zoo.manifest([0, 1, 2, 3])), volume)
    found = {label: any_of(prediction, label) for label in (1, 2, 3, 4)}
    assert np.array_equal(found[1], HOUNSFIELD > -500)
    assert np.array_equal(found[2], HOUNSFIELD > 0)
    assert np.array_equal(found[3], HOUNSFIELD < 300)
    assert not found[4].any()
    assert len(prediction.layers) == 3


def any_of(prediction: Prediction, label: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    masks = [layer == label for layer in prediction.layers]
    return np.asarray(np.logical_or.reduce(masks))


def test_channels_of_probabilities_are_cut_at_the_manifests_threshold(tmp_path: Path) -> None:
    volume = volume_in_plane("axial", array=HOUNSFIELD)
    soft = "torch.cat([1 - (x + 1000) / 2000, (x + 1000) / 2000])"
    manifest = zoo.manifest([0, 1], threshold=0.75)
    prediction = read(tmp_path, answering([said(soft)], manifest=manifest), volume)
    expected = (HOUNSFIELD + 1000) / 2000
    assert np.array_equal(any_of(prediction, 2), expected >= 0.75)
    assert np.allclose(prediction.probabilities[2], expected)


def test_channels_of_probabilities_without_a_threshold_are_refused(tmp_path: Path) -> None:
    volume = volume_in_plane("axial", array=HOUNSFIELD)
    with pytest.raises(ModelError, match=r"say in coread\.yaml from which `threshold` on a voxel counts"):
        read(tmp_path, answering([said("torch.cat([x, x])")], manifest=zoo.manifest([0, 1])), volume)


def test_channels_come_in_the_manifests_order(tmp_path: Path) -> None:
    names = ("T1c", "T1", "FLAIR")
    series = [{"described_as": name, "must": {"Modality": ["MR"]}} for name in names]
    label = "(x[[0]] > 1) + 2 * (x[[1]] > 1) + 4 * (x[[2]] > 1)"
    bundle = answering([said(label)], manifest=zoo.manifest(range(1, 8), series=series), channels=3)
    del bundle.inference["preprocessing"]["transforms"][1]
    volumes = [volume_in_plane("oblique", array=(HOUNSFIELD * (index + 1) % 7 > 3) * 2.0) for index in range(3)]
    prediction = read(tmp_path, bundle, *volumes)
    expected = sum((each.array > 1) * 2**index for index, each in enumerate(volumes))
    assert np.array_equal(prediction.layers[0], expected)


def test_channels_under_names_of_their_own_come_under_these_names(tmp_path: Path) -> None:
    keys = ("artery", "vein")
    series = [{"described_as": key, "key": key, "must": {"Modality": ["CT"]}} for key in reversed(keys)]
    bundle = answering([said("(x[[0]] > 0) + 2 * (x[[1]] > 0)")], manifest=zoo.manifest([1, 2, 3], series=series))
    bundle.inference["preprocessing"] = zoo.chain(
        zoo.transform("LoadImaged", list(keys)),
        zoo.transform("EnsureChannelFirstd", list(keys)),
        zoo.transform("ConcatItemsd", list(keys), name="image"),
    )
    vein, artery = (volume_in_plane("axial", array=HOUNSFIELD + shift) for shift in (0, 500))
    prediction = read(tmp_path, bundle, vein, artery)
    assert np.array_equal(prediction.layers[0], (artery.array > 0) + 2 * (vein.array > 0))


def classes(count: int, **more: Any) -> dict[str, Any]:
    return {
        "name": "test_model",
        "title": "Test model",
        "series": {"described_as": "a radiograph", "must": {"Modality": ["DX"]}, "projection": True},
        "classes": {
            index: {
                "name": f"Class {index}",
                "finding": ["SCT", "233604007", "Pneumonia"],
                "value": ["SCT", "52101004", "Present"],
            }
            for index in range(count)
        },
        "limits": "For tests only.",
        **more,
    }


RADIOGRAPH = Volume(array=np.arange(60, dtype=np.float32).reshape(1, 10, 6), affine=np.diag([1.0, 0.2, 0.2, 1.0]))


def test_a_classifier_says_which_class_and_how_probable(tmp_path: Path) -> None:
    answer = said("torch.softmax(torch.tensor([0.0, 2.0, 1.0]), 0) + 0 * x.sum()")
    prediction = read(tmp_path, answering([answer], manifest=classes(3)), RADIOGRAPH)
    expected = np.exp([0, 2, 1]) / np.exp([0, 2, 1]).sum()
    assert prediction.chosen == 1
    assert np.allclose([prediction.classes[index] or 0.0 for index in range(3)], expected)


def test_probabilities_are_calibrated_by_the_manifests_temperature(tmp_path: Path) -> None:
    answer = said("torch.softmax(torch.tensor([0.0, 2.0, 1.0]), 0)")
    prediction = read(tmp_path, answering([answer], manifest=classes(3, temperature=2.0)), RADIOGRAPH)
    expected = np.exp([0, 1, 0.5]) / np.exp([0, 1, 0.5]).sum()
    assert np.allclose([prediction.classes[index] or 0.0 for index in range(3)], expected)


def test_classes_that_do_not_exclude_each_other_have_probabilities_of_their_own(tmp_path: Path) -> None:
    answer = said("torch.tensor([0.9, 0.8, 0.1])")
    prediction = read(tmp_path, answering([answer], manifest=classes(3, exclusive=False)), RADIOGRAPH)
    assert prediction.chosen is None
    assert np.allclose(list(map(float, filter(None, prediction.classes.values()))), [0.9, 0.8, 0.1])


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("torch.tensor([3.0, -1.0, 0.2])", "expected probabilities from 0 to 1"),
        ("torch.tensor([0.9, 0.8, 0.1])", "expected probabilities that sum to 1"),
        ("torch.tensor([1.0, 1.0, 0.0])", "expected one class that holds, found 2"),
        ("torch.tensor([0.0, 0.0, 0.0])", "expected one class that holds, found 0"),
        ("torch.tensor([0.5, 0.5])", "expected 3 or more classes, found 2"),
        ("torch.tensor([0.5, 0.5, float('nan')])", "found NaN"),
    ],
)
def test_what_is_no_classification_is_an_error(tmp_path: Path, answer: str, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        read(tmp_path, answering([said(answer)], manifest=classes(3)), RADIOGRAPH)


def test_the_classification_template_runs_without_labels_and_metrics(tmp_path: Path) -> None:
    array = np.random.default_rng(4).random((1, 64, 64)).astype(np.float32)
    prediction = read(tmp_path, zoo.classification_template(), Volume(array=array, affine=RADIOGRAPH.affine))
    assert prediction.chosen in range(4)


def test_a_radiograph_comes_in_colours_where_the_bundle_wants_three_channels(tmp_path: Path) -> None:
    answer = said("torch.stack([x.shape[0] == torch.tensor(3), x[0].sum() != x[2].sum()]).float()")
    bundle = answering([answer], manifest=classes(2), channels=3)
    assert read(tmp_path, bundle, RADIOGRAPH).chosen == 0


def test_regression_gives_its_numbers_and_no_implausible_ones(tmp_path: Path) -> None:
    number = {"name": "Bone age", "concept": ["SCT", "410672004", "Date property"], "unit": ["UCUM", "a", "year"]}
    manifest = classes(0, numbers={0: {**number, "plausible": [0, 20]}})
    del manifest["classes"]
    assert read(tmp_path / "1", answering([said("x.sum() * 0 + 12.5")], manifest=manifest), RADIOGRAPH).numbers == {
        0: 12.5
    }
    with pytest.raises(ModelError, match="expected Bone age from 0 to 20, found 99"):
        read(tmp_path / "2", answering([said("x.sum() * 0 + 99")], manifest=manifest), RADIOGRAPH)


def resampled(post: list[dict[str, Any]], **more: Any) -> zoo.ZooBundle:
    bundle = answering(post, **more)
    bundle.inference["preprocessing"]["transforms"] += [
        zoo.transform("Orientationd", axcodes="RAS"),
        zoo.transform("Spacingd", pixdim=[1.0, 1.0, 1.0], mode="nearest"),
    ]
    return bundle


@pytest.mark.parametrize("plane", PLANES)
def test_landmarks_lie_where_they_were_found_whatever_the_network_saw(plane: str, tmp_path: Path) -> None:
    array = np.zeros((6, 20, 14), np.float32)
    array[4, 13, 2] = 1000
    volume = volume_in_plane(plane, array=array, spacing=(5.0, 2.25, 1.5))
    place = said("torch.nonzero(x[0] == x.max()).float().mean(0)[None]")
    manifest = zoo.manifest([0], task="landmarks")
    (point,) = read(tmp_path, resampled([place], manifest=manifest), volume).points
    # The network's grid is finer: the brightest voxels are several, side by side.
    assert np.abs(point.place - [4, 13, 2]).max() < 0.51


SCRIPTS = {
    "scripts/__init__.py": "",
    "scripts/detection_inferer.py": """
import torch
from monai.inferers import Inferer


class BrightestInferer(Inferer):
    '''Boxes around what is bright, with the edges of voxels as MONAI counts them.'''

    def __call__(self, inputs, network, *args, **kwargs):
        found = []
        for image in inputs:
            places = torch.nonzero(image[0] > 100).float()
            box = torch.cat([places.min(0).values, places.max(0).values + 1])[None]
            faint = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0, 2.0]])
            found.append(
                {
                    "box": torch.cat([box, faint]),
                    "label": torch.tensor([0, 0]),
                    "label_scores": torch.tensor([0.9, 0.1]),
                }
            )
        return found
""",
    "scripts/evaluator.py": """
from monai.engines import SupervisedEvaluator
from monai.utils import ForwardMode
import torch


class DetectionEvaluator(SupervisedEvaluator):
    def _iteration(self, engine, batchdata):
        inputs = [each["image"].to(engine.state.device) for each in batchdata]
        engine.state.output = {"image": inputs, "pred": None}
        with engine.mode(engine.network), torch.no_grad():
            found = engine.inferer(inputs, engine.network)
        engine.state.output = [{"image": image, "pred": each} for image, each in zip(inputs, found)]
        return engine.state.output
""",
    "scripts/detection_saver.py": """
from monai.handlers import ClassificationSaver


class DetectionSaver(ClassificationSaver):
    def __init__(self, output_dir, filename, pred_box_key, pred_label_key, pred_score_key, **more):
        super().__init__(output_dir=output_dir, filename=filename, **more)
""",
}


def detector() -> zoo.ZooBundle:
    """As lung_nodule_ct_detection: boxes in the patient's coordinates, postprocessed by the handler that saves them."""
    bundle = answering(
        [],
        manifest=zoo.manifest([0], task="detection"),
        outputs={"pred": {"type": "object", "format": "dict", "num_channels": 1, "spatial_shape": ["n", "n", "n"]}},
        scripts=SCRIPTS,
    )
    bundle.inference["preprocessing"] = zoo.chain(
        zoo.transform("LoadImaged", meta_key_postfix="meta_dict", image_only=False),
        zoo.transform("EnsureChannelFirstd", meta_key_postfix="meta_dict"),
        zoo.transform("Orientationd", axcodes="RAS"),
        zoo.transform("EnsureTyped"),
    )
    bundle.inference["dataloader"]["collate_fn"] = "$monai.data.utils.no_collation"
    bundle.inference["inferer"] = {"_target_": "scripts.detection_inferer.BrightestInferer"}
    bundle.inference["postprocessing"] = zoo.chain(
        {
            "_target_": "ClipBoxToImaged",
            "box_keys": "box",
            "label_keys": "label",
            "box_ref_image_keys": "image",
            "remove_empty": True,
        },
        {
            "_target_": "AffineBoxToWorldCoordinated",
            "box_keys": "box",
            "box_ref_image_keys": "image",
            "image_meta_key_postfix": "meta_dict",
            "affine_lps_to_ras": True,
        },
        {"_target_": "ConvertBoxModed", "box_keys": "box", "src_mode": "xyzxyz", "dst_mode": "cccwhd"},
        {"_target_": "DeleteItemsd", "keys": ["image"]},
    )
    bundle.inference["handlers"] = [
        zoo.STATS,
        {
            "_target_": "scripts.detection_saver.DetectionSaver",
            "output_dir": "@output_dir",
            "filename": "result.json",
            "batch_transform": "$lambda x: [xx['image_meta_dict'] for xx in x]",
            "output_transform": "$lambda x: [@postprocessing({**xx['pred'],'image':xx['image']}) for xx in x]",
            "pred_box_key": "box",
            "pred_label_key": "label",
            "pred_score_key": "label_scores",
        },
    ]
    bundle.inference["evaluator"] = {
        key: value for key, value in zoo.evaluator().items() if key != "postprocessing"
    } | {"_target_": "scripts.evaluator.DetectionEvaluator"}
    return bundle


@pytest.mark.parametrize("plane", [plane for plane in PLANES if plane != "oblique"])
def test_a_detectors_box_ends_where_the_lesion_ends(plane: str, tmp_path: Path) -> None:
    array = np.zeros((9, 20, 14), np.float32)
    array[3:6, 8:15, 2:5] = 500
    (box,) = read(tmp_path, detector(), volume_in_plane(plane, array=array, shape=array.shape)).boxes
    assert box.label == 0
    assert box.probability == pytest.approx(0.9)
    assert np.allclose(box.low, [2.5, 7.5, 1.5], atol=1e-4)
    assert np.allclose(box.high, [5.5, 14.5, 4.5], atol=1e-4)


def test_boxes_along_the_patients_axes_are_refused_on_oblique_slices(tmp_path: Path) -> None:
    array = np.zeros((9, 20, 14), np.float32)
    array[3:6, 8:15, 2:5] = 500
    with pytest.raises(ModelError, match="expected slices along the patient's axes"):
        read(tmp_path, detector(), volume_in_plane("oblique", array=array, shape=array.shape))


def test_the_layer_getter_gives_what_torchvisions_does() -> None:
    network = resnet.resnet10(spatial_dims=3, n_input_channels=1)
    torch.manual_seed(0)
    getter = IntermediateLayers(network, {"layer1": "0", "layer2": "1"}).eval()
    found = getter(torch.ones(1, 1, 32, 32, 32))
    assert list(found) == ["0", "1"]
    assert [tuple(each.shape)[1] for each in found.values()] == [64, 128]
    assert "layer3" not in dict(getter.named_children())
    with pytest.raises(ValueError, match="found layer9"):
        IntermediateLayers(network, {"layer9": "0"})


def test_a_promptable_model_is_told_what_to_look_for(tmp_path: Path) -> None:
    prepare = "$lambda batch, device, non_blocking: (batch['image'] * 0 + batch['label_prompt'][0], None)"
    manifest = zoo.manifest([1, 3], prompt={"label_prompt": [3]})
    bundle = answering([], manifest=manifest, inference={"evaluator": zoo.evaluator(prepare_batch=prepare)})
    volume = volume_in_plane("axial", array=HOUNSFIELD)
    assert (read(tmp_path, bundle, volume).layers[0] == 3).all()


GREEDY = """
import torch
from torch import nn


class Greedy(nn.Module):
    '''Needs far too much memory for more than one window at a time.'''

    def forward(self, x):
        if len(x) > 1:
            torch.empty(2**60, dtype=torch.uint8)
        return x


class Insatiable(nn.Module):
    def forward(self, x):
        torch.empty(2**60, dtype=torch.uint8)
        return x
"""


def network_of(name: str, answer: str) -> str:
    """Python for a network that gives ``answer``."""
    return f"from torch import nn\n\n\nclass {name}(nn.Module):\n    def forward(self, x):\n        return {answer}\n"


def memory_hungry(name: str) -> zoo.ZooBundle:
    return answering(
        [said("(x > 0).float()")],
        manifest=zoo.manifest([1]),
        inference={
            "network_def": {"_target_": f"scripts.greedy.{name}"},
            "inferer": zoo.window((8, 8, 8), overlap=0.0),
        },
        scripts={"scripts/__init__.py": "", "scripts/greedy.py": GREEDY},
    )


def test_out_of_memory_is_met_with_one_window_at_a_time(tmp_path: Path) -> None:
    prediction = read(tmp_path, memory_hungry("Greedy"), volume_in_plane("axial", array=HOUNSFIELD))
    assert np.array_equal(prediction.layers[0], HOUNSFIELD > 0)
    assert any(line.startswith("less_memory: one window at a time") for line in prediction.adapted)


def test_what_no_measure_helps_against_names_the_size_that_was_needed(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"it asked for 1152921504606846976 bytes more"):
        read(tmp_path, memory_hungry("Insatiable"), volume_in_plane("axial", array=HOUNSFIELD))


def test_a_bundle_that_ends_its_process_takes_nobody_along(tmp_path: Path) -> None:
    bundle = memory_hungry("Greedy")
    bundle.scripts = {"scripts/__init__.py": "", "scripts/greedy.py": network_of("Greedy", "__import__('os')._exit(3)")}
    with pytest.raises(ModelError, match="ended its own process with status 3"):
        read(tmp_path, bundle, volume_in_plane("axial", array=HOUNSFIELD))


def test_two_bundles_whose_code_has_the_same_name_run_side_by_side(tmp_path: Path) -> None:
    readers = []
    for number in (1, 2):
        bundle = memory_hungry("Net")
        bundle.inference["network_def"] = {"_target_": "scripts.net.Net"}
        bundle.inference["postprocessing"] = zoo.chain()
        bundle.manifest = zoo.manifest([1, 2])
        bundle.scripts = {"scripts/__init__.py": "", "scripts/net.py": network_of("Net", f"x * 0 + {number}")}
        folder = zoo.write_zoo_bundle(tmp_path / str(number), bundle)
        readers.append(IsolatedReader(folder, load_manifest(folder), device=CPU))
    volume = volume_in_plane("axial", array=HOUNSFIELD)
    try:
        for _ in range(2):
            assert [int(reader.predict([volume]).layers[0].max()) for reader in readers] == [1, 2]
    finally:
        for reader in readers:
            reader.close()


def test_a_bundle_with_a_network_of_its_own_needs_its_weights(tmp_path: Path) -> None:
    bundle = answering([], manifest=zoo.manifest([1]), inference={"network_def": {**zoo.UNET, "out_channels": 1}})
    with pytest.raises(ModelError, match="found none"):
        read(tmp_path, bundle, volume_in_plane("axial", array=HOUNSFIELD))


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    network = {"_target_": "TorchVisionFCModel", "model_name": "inception_v3", "num_classes": 4, "pretrained": True}
    bundle = answering([], manifest=classes(4), channels=3, inference={"network_def": network})
    with pytest.raises(ModelError, match="torchvision"):
        read(tmp_path, bundle, RADIOGRAPH)


SPY = """
import os
import socket
import sys
from torch import nn


class Spy(nn.Module):
    '''1 + 2 if there is a network + 4 if a secret is there + 8 if the bundle goes before what is installed.'''

    def forward(self, x):
        network = len(socket.if_nameindex()) > 1
        secret = "COREAD_BROKER__URL" in os.environ
        first = any("bundle" in path for path in sys.path[:2])
        return x * 0 + 1 + 2 * network + 4 * secret + 8 * first
"""


def test_a_bundles_own_code_has_no_network_no_secrets_and_takes_nothings_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets no process leave the network")
    monkeypatch.setenv("COREAD_BROKER__URL", "amqp://user:secret@broker")
    bundle = memory_hungry("Greedy")
    bundle.inference["network_def"] = {"_target_": "scripts.spy.Spy"}
    bundle.inference["postprocessing"] = zoo.chain()
    bundle.manifest = zoo.manifest(range(1, 16))
    started = tmp_path / "started"
    bundle.scripts = {
        "scripts/__init__.py": "",
        "scripts/spy.py": SPY,
        "sitecustomize.py": f"open({str(started)!r}, 'w')\n",
        "inspect.py": f"open({str(started)!r}, 'w')\n",
    }
    prediction = read(tmp_path, bundle, volume_in_plane("axial", array=HOUNSFIELD))
    assert np.unique(prediction.layers[0]).tolist() == [1]
    assert not started.exists()


def test_a_landmark_outside_the_images_is_an_error(tmp_path: Path) -> None:
    outside = said("torch.tensor([[30.0, 2.0, 3.0]])")
    with pytest.raises(ModelError, match="expected landmarks inside the images, found Structure 0 outside"):
        read(
            tmp_path,
            answering([outside], manifest=zoo.manifest([0], task="landmarks")),
            volume_in_plane("axial", array=HOUNSFIELD),
        )

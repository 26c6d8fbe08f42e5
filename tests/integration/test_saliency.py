"""Classifiers say where they looked: the map is right, lies right, costs nothing, and says so where there is none."""

import copy
import gc
import resource
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigParser
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage
from torch import nn

from coread import codes
from coread.dicom_sr.proof import prove_heat_map, prove_map
from coread.dicom_sr.validation.run import validate_files
from coread.errors import ConfigurationError, ResultError
from coread.models.bundle.isolation import IsolatedReader
from coread.models.bundle.reader import BundleReader
from coread.models.bundle.saliency import NoMap, class_map, scaled, watched
from coread.models.bundle.sanity import SAME_MAP, likeness_by_depth
from coread.models.catalogue import SHIPPED
from coread.models.manifest import Saliency, load_manifest
from coread.models.prediction import Prediction
from coread.models.runner import BundleRunner
from coread.objects import Profile
from coread.settings import Settings
from coread.volume import Volume
from coread.workers.folder import write_reading
from coread.workers.pipeline import Reading, read_study
from coread.workers.rehearsal import rehearse
from tests import zoo
from tests.integration.test_models_chain import check, study_of
from tests.support import NOW, images_of, installed, volume_in_plane

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
)

LAYER = "7"
SIDE = 48
"""Of what the network sees, in pixels."""
GREY = 0.3
"""Between the black and the white of a picture."""
SQUARE = 9
"""Side of the square that makes a picture one with a finding."""


def network_in_words(dimensions: int, *, channels: int = 1, classes: int = 2) -> str:
    """A small classifier: four convolutions, the mean over the image, a line."""
    d = f"torch.nn.Conv{dimensions}d"
    sizes = [channels, 8, 16, 16, 16]
    layers = [
        f"{d}({before}, {after}, 3, stride={2 if number < 2 else 1}, padding=1), torch.nn.LeakyReLU(0.1, inplace=True)"
        for number, (before, after) in enumerate(pairwise(sizes))
    ]
    kind = "Avg" if dimensions == 2 else "Max"
    pool = f"torch.nn.Adaptive{kind}Pool{dimensions}d(1), torch.nn.Flatten(), torch.nn.Linear(16, {classes})"
    return f"torch.nn.Sequential({', '.join(layers)}, {pool})"


def pictures(count: int, shape: Sequence[int], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with two bright balls, or (1) with a ball and a square (a cube): how much is bright says nothing."""
    images = GREY + 0.08 * torch.randn(count, 1, *shape, generator=generator)
    labels = torch.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        corners = [[int(torch.randint(0, size - SQUARE, (), generator=generator)) for size in shape] for _ in range(2)]
        put_ball(image[0].numpy(), corners[0])
        (put_square if label else put_ball)(image[0].numpy(), corners[1])
    return images - GREY, labels


def put_ball(image: np.ndarray[Any, Any], corner: Sequence[int], value: float = 0.85) -> None:
    """As bright in all as a square."""
    grid = np.indices(image.shape).reshape(image.ndim, -1).T.reshape(*image.shape, image.ndim)
    image[np.linalg.norm(grid - (np.array(corner) + SQUARE // 2), axis=-1) < SQUARE * 0.55] = value


def put_square(image: np.ndarray[Any, Any], corner: Sequence[int], value: float = 0.85) -> None:
    """A frame with a dark middle, so that its corners must be looked at."""
    image[tuple(slice(low, low + SQUARE) for low in corner)] = value
    image[tuple(slice(low + 3, low + SQUARE - 3) for low in corner)] = 0.1 * value


@cache
def trained(dimensions: int) -> nn.Sequential:
    """The network, which has learnt to tell pictures with a square from such without: seconds."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    parser = ConfigParser({"imports": ["$import torch"], "network": f"${network_in_words(dimensions)}"})
    network: nn.Sequential = parser.get_parsed_content("network")
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    shape = (SIDE, SIDE) if dimensions == 2 else (24, 24, 24)
    for _ in range(250 if dimensions == 2 else 300):
        images, labels = pictures(16, shape, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    images, labels = pictures(64, shape, generator)
    right = float((network.eval()(images).argmax(1) == labels).float().mean())
    assert right > 0.9, f"the test's own network has not learnt its task: {right}"
    return network


def manifest(**more: Any) -> dict[str, Any]:
    answers = [("No square", "272519000", "Absent"), ("Square", "52101004", "Present")]
    return {
        "name": "test_model",
        "title": "Squares",
        "series": {
            "described_as": "a radiograph",
            "must": {"Modality": ["CR"]},
            "projection": True,
            "values": "display",
        },
        "classes": {
            index: {
                "name": name,
                "finding": ["SCT", "233604007", "Pneumonia"],
                "value": ["SCT", code, word],
                "anatomy": ["SCT", "39607008", "Lung"],
            }
            for index, (name, code, word) in enumerate(answers)
        },
        "saliency": {"layer": LAYER},
        "limits": "For tests only.",
        **more,
    }


FIT = (
    zoo.transform("Resized", spatial_size=SIDE, size_mode="longest"),
    zoo.transform("SpatialPadd", spatial_size=[SIDE] * 2),
)


def bundle(
    *spatial: dict[str, Any],
    dimensions: int = 2,
    highest: float = 255.0,
    post: Sequence[dict[str, Any]] = (zoo.transform("Activationsd", "pred", softmax=True),),
    **more: Any,
) -> zoo.ZooBundle:
    inference = {
        **zoo.TOP,
        "imports": ["$import torch"],
        "network_def": f"${network_in_words(dimensions)}",
        "preprocessing": zoo.chain(
            zoo.transform("LoadImaged"),
            zoo.transform("EnsureChannelFirstd"),
            zoo.transform("ScaleIntensityRanged", a_min=0, a_max=highest, b_min=-GREY, b_max=1 - GREY),
            *spatial,
            zoo.transform("EnsureTyped"),
        ),
        **zoo.data(),
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": zoo.chain(*post),
        "handlers": [zoo.STATS, zoo.loader()],
        "evaluator": zoo.evaluator(),
        "run": ["$@evaluator.run()"],
        **more.pop("inference", {}),
    }
    return zoo.ZooBundle(
        inference=inference,
        inputs=zoo.image_format(),
        outputs=zoo.mask_format("no", "yes"),
        manifest=manifest(**more.pop("manifest", {})),
        **more,
    )


def written(folder: Path, what: zoo.ZooBundle, network: nn.Module | None = None) -> Path:
    """The bundle in a folder, with the trained network's weights."""
    zoo.write_zoo_bundle(folder / "bundle", what)
    torch.save((network or trained(2)).state_dict(), folder / "bundle" / "models" / "model.pt")
    return folder / "bundle"


PLACE = (58, 12)
"""Row and column of the square's corner in the radiograph, which is not square."""
ROWS, COLUMNS = 96, 72
SCALE = 2


def picture(place: Sequence[int] = PLACE, *, with_square: bool = True) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A picture of twice the size that the network was trained with: it is resized for it. 0 to 255."""
    small = GREY + 0.08 * np.random.default_rng(5).normal(size=(ROWS // SCALE, COLUMNS // SCALE))
    put_ball(small, (6, 22))
    (put_square if with_square else put_ball)(small, [each // SCALE for each in place])
    return (255 * small.clip(0, 1)).astype(np.float32).repeat(SCALE, 0).repeat(SCALE, 1)


def radiograph(values: np.ndarray[Any, Any], **more: Any) -> list[Dataset]:
    (image,) = images_of(
        volume_in_plane("axial", shape=(1, *values.shape), array=values[None].astype(np.int16)),
        modality="CT",
        body_part="CHEST",
    )
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    image.Modality = "CR"
    for keyword in (
        *("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "SliceThickness"),
        *("PixelSpacing", "PositionReferenceIndicator", "RescaleIntercept", "RescaleSlope", "RescaleType"),
    ):
        image.pop(keyword, None)
    image.ImagerPixelSpacing = ["0.2", "0.15"]
    image.ViewPosition, image.PatientOrientation = "AP", ["L", "F"]
    image.WindowCenter, image.WindowWidth = "128", "256"
    for keyword, value in more.items():
        setattr(image, keyword, value)
    return [image]


def volume_of(values: np.ndarray[Any, Any]) -> Volume:
    return Volume(array=values[None], affine=np.diag([1.0, 0.2, 0.15, 1.0])[[2, 1, 0, 3]].copy() * 0 + _projection())


def _projection() -> np.ndarray[Any, Any]:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 1.0, 0.2, 0.15, 1.0
    return affine


def predict(folder: Path, volume: Volume) -> Prediction:
    reader = BundleReader(folder, load_manifest(folder), device=CPU)
    try:
        return reader.predict([volume])
    finally:
        reader.close()


def on_square(found: np.ndarray[Any, Any], place: Sequence[int], *, size: int = SQUARE * SCALE) -> bool:
    """The pointing game (Zhang et al., 2018): whether the highest value lies on the square, but for half its size."""
    peak = np.unravel_index(int(found.argmax()), found.shape)
    return all(low - size / 2 <= at < low + 1.5 * size for at, low in zip(peak, place, strict=True))


def test_the_map_points_at_the_square_and_not_at_the_ball(tmp_path: Path) -> None:
    prediction = predict(written(tmp_path, bundle(*FIT)), volume_of(picture()))
    assert prediction.chosen == 1
    (found,) = prediction.saliency.values()
    assert found.shape == (1, ROWS, COLUMNS)
    assert found.dtype == np.float32
    assert (float(found.min()), float(found.max())) == (0.0, 1.0)
    assert on_square(found[0], PLACE)


CROP = zoo.transform("CenterSpatialCropd", roi_size=[64, 88])
UNDONE = {
    "resized": FIT,
    "squeezed": (zoo.transform("Resized", spatial_size=[SIDE, SIDE]),),
    "cropped, then resized": (CROP, zoo.transform("Resized", spatial_size=44, size_mode="longest")),
    "flipped and turned": (*FIT, zoo.transform("Flipd", spatial_axis=0), zoo.transform("Rotate90d")),
    "transposed": (*FIT, zoo.transform("Transposed", indices=[0, 2, 1])),
    "by area": (zoo.transform("Resized", spatial_size=[36, 48], mode="area"),),
    "spaced": (zoo.transform("Spacingd", pixdim=[0.3, 0.4]),),
}


@pytest.mark.parametrize("name", UNDONE)
def test_whatever_the_bundle_does_to_the_image_the_map_comes_back(name: str, tmp_path: Path) -> None:
    prediction = predict(written(tmp_path, bundle(*UNDONE[name])), volume_of(picture()))
    assert prediction.unexplained == {}
    assert prediction.saliency[1].shape == (1, ROWS, COLUMNS)
    assert on_square(prediction.saliency[1][0], PLACE)
    if name.startswith("cropped"):  # what the network did not see did not matter
        assert not prediction.saliency[1][0, :, :4].any()
        assert not prediction.saliency[1][0, -4:, :].any()


def test_the_prediction_is_the_same_with_and_without_a_map(tmp_path: Path) -> None:
    with_map = predict(written(tmp_path / "1", bundle(*FIT)), volume_of(picture()))
    without = predict(written(tmp_path / "2", bundle(*FIT, manifest={"saliency": None})), volume_of(picture()))
    assert with_map.classes == without.classes
    assert with_map.chosen == without.chosen
    assert not without.saliency
    assert not without.unexplained


def test_the_network_is_left_as_it_was_and_memory_stays_flat(tmp_path: Path) -> None:
    folder = written(tmp_path, bundle(*FIT))
    reader = BundleReader(folder, load_manifest(folder), device=CPU)
    (network,) = reader.networks
    next(network.children()).train()  # a mode that is not the same everywhere
    before = state_of(network)
    volume = volume_of(picture().repeat(8, 0).repeat(8, 1))
    predictions = [reader.predict([volume]) for _ in range(5)]
    after_five = memory_mb()
    predictions += [reader.predict([volume]) for _ in range(30)]
    grown = memory_mb() - after_five
    assert reader.networks[0] is network
    assert state_of(network) == before
    assert all(np.array_equal(each.saliency[1], predictions[0].saliency[1]) for each in predictions)
    assert [each.shape for each in gc.get_objects() if type(each) is torch.Tensor and each.grad_fn is not None] == []
    maps_mb = 30 * predictions[0].saliency[1].nbytes / 2**20
    assert grown < maps_mb + 20
    reader.close()


def memory_mb() -> float:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return float(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def state_of(network: nn.Module) -> list[Any]:
    """All that an explanation could leave behind."""
    return [
        (
            name,
            layer.training,
            len(layer._forward_hooks),
            len(layer._forward_hooks_with_kwargs),
            len(layer._backward_hooks),
            len(layer._forward_pre_hooks),
            getattr(layer, "inplace", None),
            [(weight.requires_grad, weight.grad is None, float(weight.sum())) for weight in layer.parameters()],
            [float(each.double().sum()) for each in layer.buffers()],
        )
        for name, layer in network.named_modules()
    ]


def test_a_bundle_in_a_process_of_its_own_gives_the_same_map(tmp_path: Path) -> None:
    folder = written(tmp_path, bundle(*FIT))
    inside = predict(folder, volume_of(picture()))
    reader = IsolatedReader(folder, load_manifest(folder), device=CPU)
    try:
        outside = reader.predict([volume_of(picture())])
    finally:
        reader.close()
    assert np.array_equal(outside.saliency[1], inside.saliency[1])
    assert outside.unexplained == inside.unexplained == {}


def test_a_layer_that_is_not_there_is_refused_when_the_bundle_is_built(tmp_path: Path) -> None:
    folder = written(tmp_path, bundle(manifest={"saliency": {"layer": "feature"}}))
    with pytest.raises(ConfigurationError, match=r"found feature; there are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10$"):
        BundleReader(folder, load_manifest(folder), device=CPU)


@pytest.mark.parametrize(
    ("saliency", "complaint"),
    [
        ({"layer": LAYER, "of": [1, 7]}, "names classes, found 7, which is none"),
        ({"layer": LAYER, "method": "magic"}, "method"),
        ({}, "layer"),
    ],
)
def test_a_manifest_that_asks_for_the_impossible_does_not_load(
    saliency: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    folder = written(tmp_path, bundle(manifest={"saliency": saliency}))
    with pytest.raises(ConfigurationError, match=complaint):
        load_manifest(folder)


def test_a_map_needs_to_say_of_what_it_is_and_an_overlay_needs_a_map(tmp_path: Path) -> None:
    nowhere = bundle()
    for each in nowhere.manifest["classes"].values():
        del each["anatomy"]
    with pytest.raises(ConfigurationError, match="needs the `anatomy` of each class that it explains"):
        load_manifest(written(tmp_path / "1", nowhere))
    overlay = bundle(manifest={"saliency": None, "objects": {"ohif": ["SC-MAP"]}})
    with pytest.raises(ConfigurationError, match="SC-MAP needs `saliency`"):
        load_manifest(written(tmp_path / "2", overlay))


def test_a_normal_answer_is_explained_too_unless_the_package_leaves_it_out(tmp_path: Path) -> None:
    normal = volume_of(picture(with_square=False))
    prediction = predict(written(tmp_path / "1", bundle(*FIT)), normal)
    assert prediction.chosen == 0
    assert list(prediction.saliency) == [0]
    left_out = bundle(*FIT, manifest={"saliency": {"layer": LAYER, "of": [1]}})
    prediction = predict(written(tmp_path / "2", left_out), normal)
    assert prediction.saliency == {}
    assert prediction.unexplained == {0: "coread.yaml leaves this answer out under `saliency`"}


def test_of_classes_that_may_all_hold_each_present_one_is_explained(tmp_path: Path) -> None:
    sigmoid = [zoo.transform("Activationsd", "pred", sigmoid=True)]
    both = bundle(*FIT, post=sigmoid, manifest={"exclusive": False, "threshold": 1e-9})
    prediction = predict(written(tmp_path / "1", both), volume_of(picture()))
    assert set(prediction.saliency) | set(prediction.unexplained) == {0, 1}
    one = bundle(*FIT, post=sigmoid, manifest={"exclusive": False})
    assert list(predict(written(tmp_path / "2", one), volume_of(picture())).saliency) == [1]


def test_the_other_method_points_at_the_square_too(tmp_path: Path) -> None:
    other = bundle(*FIT, manifest={"saliency": {"layer": LAYER, "method": "gradcam++"}})
    assert on_square(predict(written(tmp_path, other), volume_of(picture())).saliency[1][0], PLACE)


def ensemble() -> zoo.ZooBundle:
    networks = [f"{network_in_words(2)}.to(@device)"] * 2
    load = {"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'"}
    evaluator = {key: value for key, value in zoo.evaluator().items() if key != "network"}
    return bundle(
        *FIT,
        post=[
            zoo.transform("MeanEnsembled", ["first", "second"], output_key="pred"),
            zoo.transform("Activationsd", "pred", softmax=True),
        ],
        inference={
            "network_def": f"$[{', '.join(networks)}]",
            "network": "@network_def",
            "handlers": [
                zoo.STATS,
                {**load, "load_dict": {"model": "$@network_def[0]"}},
                {**load, "load_dict": {"model": "$@network_def[1]"}},
            ],
            "evaluator": {
                **evaluator,
                "_target_": "EnsembleEvaluator",
                "networks": "@network_def",
                "pred_keys": ["first", "second"],
            },
        },
    )


def test_an_ensemble_is_explained_by_all_its_networks(tmp_path: Path) -> None:
    alone = predict(written(tmp_path / "1", bundle(*FIT)), volume_of(picture()))
    together = predict(written(tmp_path / "2", ensemble()), volume_of(picture()))
    assert together.unexplained == {}
    assert np.allclose(together.saliency[1], alone.saliency[1], atol=1e-5)  # twice the same network


def dead_layer() -> nn.Sequential:
    network = copy.deepcopy(trained(2))
    with torch.no_grad():
        network.get_parameter("6.bias").fill_(10.0)
        network.get_parameter("10.weight").copy_(-network.get_parameter("10.weight").abs())
        network.get_parameter("10.bias").copy_(torch.tensor([0.0, 1000.0]))
    return network


def constant_layer() -> nn.Sequential:
    network = copy.deepcopy(trained(2))
    with torch.no_grad():
        network.get_parameter("6.weight").zero_()
        network.get_parameter("6.bias").fill_(1.0)
        network.get_parameter("10.weight").copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 16))
    return network


def test_a_map_that_says_nothing_is_not_drawn(tmp_path: Path) -> None:
    for number, (network, reason) in enumerate(
        [(dead_layer(), "zero everywhere"), (constant_layer(), "the same everywhere")]
    ):
        prediction = predict(written(tmp_path / str(number), bundle(*FIT), network), volume_of(picture()))
        assert prediction.chosen is not None
        assert prediction.saliency == {}
        (found,) = prediction.unexplained.values()
        assert reason in found


def reversed_classes() -> zoo.ZooBundle:
    return bundle(*FIT, post=[zoo.transform("Lambdad", "pred", func="$lambda x: x.softmax(0).flip(0)")])


def twice_asked() -> zoo.ZooBundle:
    """An inferer that asks the network about both halves of the image."""
    halves = "$lambda x, network: (network(x[..., :24]) + network(x[..., 24:])) / 2"
    return bundle(*FIT, inference={"inferer": halves})


def without_place() -> zoo.ZooBundle:
    what = bundle(*FIT)
    what.inference["preprocessing"]["transforms"][-1]["track_meta"] = False
    return what


NO_MAP: dict[str, Callable[[], zoo.ZooBundle]] = {
    "takes the image's place away": without_place,
    "cannot be undone": lambda: bundle(*FIT, zoo.transform("ToTensord")),
    "in parts": twice_asked,
    "not the classes in the order": reversed_classes,
    "Error": lambda: bundle(*FIT, manifest={"saliency": {"layer": "9"}}),
}
"""Reason → a bundle whose answer cannot be explained for that reason."""


@pytest.mark.parametrize("reason", NO_MAP)
def test_why_there_is_no_map_is_said_and_the_reading_stays(reason: str, tmp_path: Path) -> None:
    prediction = predict(written(tmp_path, NO_MAP[reason]()), volume_of(picture()))
    assert prediction.chosen is not None
    assert prediction.saliency == {}
    (found,) = prediction.unexplained.values()
    assert reason in found


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_an_explanation_that_needs_too_much_memory_costs_no_result(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise error

    folder = written(tmp_path, bundle(*FIT))
    reader = BundleReader(folder, load_manifest(folder), device=CPU)
    (network,) = reader.networks
    before = state_of(network)
    monkeypatch.setattr(torch.Tensor, "backward", too_much)
    prediction = reader.predict([volume_of(picture())])
    assert prediction.chosen == 1
    assert prediction.unexplained == {1: "there was not enough memory"}
    assert state_of(network) == before
    reader.close()


class Beats(nn.Module):
    """Convolutions over time, then a network that goes along it, as classifiers of electrocardiograms are."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(12, 16, 7, stride=2, padding=3), nn.ReLU(), nn.Conv1d(16, 16, 7, stride=2, padding=3), nn.ReLU()
        )
        self.along = nn.LSTM(16, 16, batch_first=True)
        self.out = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.along(self.features(x).transpose(1, 2))
        return torch.as_tensor(self.out(states.mean(1)))


def beats(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Twelve leads of noise, in half of them a short wave; and where it is."""
    signals = 0.1 * torch.randn(count, 12, 400, generator=generator)
    labels = torch.arange(count) % 2
    places = [int(torch.randint(0, 360, (), generator=generator)) for _ in range(count)]
    wave = torch.sin(torch.linspace(0, 6 * torch.pi, 40))
    for signal, label, place in zip(signals, labels, places, strict=True):
        signal[:, place : place + 40] += wave if label else 0 * wave
    return signals, labels, places


def test_a_signal_is_explained_in_time_through_a_recurrent_network() -> None:
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(4)
    network = Beats()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(80):
        signals, labels, _ = beats(16, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(signals), labels).backward()
        optimizer.step()
    network.eval()
    signals, labels, places = beats(24, generator)
    hits = []
    for signal, label, place in zip(signals, labels, places, strict=True):
        if label:
            with torch.no_grad(), watched([network]) as calls:
                network(signal[None])
            found = scaled(class_map(calls[0], 1, Saliency(layer="features.3")))
            assert found.shape == (400,)
            hits.append(place - 20 <= int(found.argmax()) < place + 60)
    assert np.mean(hits) > 0.8


# The whole chain


def read(folder: Path, images: Sequence[Dataset], **more: Any) -> Reading:
    runner = BundleRunner(installed(folder), device=CPU)
    try:
        return read_study(study_of(images), runner, job_id="0123456789abcdef" * 2, created_at=NOW, **more)
    finally:
        runner.close()


EVERY_PROFILE = tuple(Profile)
BOTH = {"objects": {"ohif": ["MAP", "SC-MAP"]}}


@pytest.mark.parametrize("inverted", [False, True])
def test_a_radiographs_map_is_written_proven_and_valid(inverted: bool, tmp_path: Path) -> None:
    """An inverted image shows the same picture, so it gives the same map and the same overlay."""
    values = picture()
    images = radiograph(255 - values, PhotometricInterpretation="MONOCHROME1") if inverted else radiograph(values)
    written(tmp_path, bundle(*FIT, manifest=BOTH))
    reading = read(tmp_path, images)
    paths = check(reading, tmp_path)
    assert set(paths) == {"SR-CLASS", "MAP", "SC-MAP"}
    parametric_map = pydicom.dcmread(paths["MAP"])
    found = np.frombuffer(parametric_map.FloatPixelData, "<f4").reshape(parametric_map.Rows, parametric_map.Columns)
    assert found.shape == (ROWS, COLUMNS)
    assert on_square(found, PLACE)
    (groups,) = parametric_map.PerFrameFunctionalGroupsSequence
    (derived,) = groups.DerivationImageSequence
    assert derived.SourceImageSequence[0].ReferencedSOPInstanceUID == images[0].SOPInstanceUID
    assert "ImagePositionPatient" not in groups.PlanePositionSequence[0]
    capture = pydicom.dcmread(paths["SC-MAP"]).pixel_array
    scale = capture.shape[1] // COLUMNS
    shown = capture[-ROWS * scale :: scale, ::scale].astype(int)
    assert on_square(shown[..., 0] - shown[..., 2], PLACE)
    untouched = found == 0
    assert np.abs(shown[untouched] - values[untouched][:, None]).max() <= 1
    assert reading.summary["saliency"] == [{"name": "Square", "map": True}]
    assert parametric_map.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [0.2, 0.15]
    assert reading.findings.maps[0].quantity == codes.SALIENCY


def test_the_map_is_valid_against_its_source(tmp_path: Path) -> None:
    written(tmp_path, bundle(*FIT, manifest=BOTH))
    images = radiograph(picture())
    paths = check(read(tmp_path, images), tmp_path)
    (tmp_path / "source").mkdir()
    images[0].save_as(tmp_path / "source" / "image.dcm", enforce_file_format=True)
    for judgement in validate_files(list(paths.values()), source=tmp_path / "source"):
        assert [str(each) for each in judgement.problems if "Coread" not in str(each)] == [], judgement.file.name


def test_the_same_job_writes_the_same_bytes(tmp_path: Path) -> None:
    written(tmp_path, bundle(*FIT, manifest=BOTH))
    first, second = (read(tmp_path, radiograph(picture())).objects for _ in range(2))
    assert [each.file() for each in first] == [each.file() for each in second]


@pytest.mark.parametrize("profile", Profile)
def test_a_radiograph_with_the_map_over_it_is_what_every_viewer_can_show(profile: Profile, tmp_path: Path) -> None:
    written(tmp_path, bundle(*FIT))
    reading = read(tmp_path, radiograph(picture()), profiles=[profile])
    assert {str(each.kind) for each in reading.objects} == {"SR-CLASS", "SC-MAP"}


def test_the_picture_is_written_beside_the_results(tmp_path: Path) -> None:
    written(tmp_path, bundle(*FIT))
    reading = read(tmp_path, radiograph(picture()))
    (path,) = [path for path in write_reading(reading, tmp_path / "out") if path.name == "saliency.png"]
    assert path.read_bytes().startswith(b"\x89PNG")


def mirrored(capture: Dataset) -> None:
    capture.PixelData = np.ascontiguousarray(capture.pixel_array[:, ::-1]).tobytes()


def greyed(capture: Dataset) -> None:
    capture.PixelData = np.repeat(capture.pixel_array[..., :1], 3, axis=-1).tobytes()


@pytest.mark.parametrize("harm", [mirrored, greyed])
def test_a_heat_map_that_does_not_read_back_is_not_stored(harm: Callable[[Dataset], None], tmp_path: Path) -> None:
    written(tmp_path, bundle(*FIT))
    reading = read(tmp_path, radiograph(picture()))
    (capture,) = [each.dataset for each in reading.objects if each.kind == "SC-MAP"]
    (scalar_map,) = reading.findings.maps
    prove_heat_map(capture, scalar_map)
    harm(capture)
    with pytest.raises(ResultError, match="heat map"):
        prove_heat_map(capture, scalar_map)


def test_a_radiographs_map_that_does_not_read_back_is_not_stored(tmp_path: Path) -> None:
    written(tmp_path, bundle(*FIT, manifest=BOTH))
    reading = read(tmp_path, radiograph(picture()))
    (parametric_map,) = [each.dataset for each in reading.objects if each.kind == "MAP"]
    (scalar_map,) = reading.findings.maps
    values = np.frombuffer(parametric_map.FloatPixelData, "<f4").reshape(ROWS, COLUMNS)
    parametric_map.FloatPixelData = np.ascontiguousarray(values[::-1]).tobytes()
    with pytest.raises(ResultError, match="the numbers of the image"):
        prove_map(parametric_map, scalar_map)


CUBE = (12, 4, 8)


def cubes(plane: str) -> tuple[list[Dataset], Volume]:
    """A stack of slices with a ball, and a cube at CUBE: in Hounsfield units times ten, 0 to 1000."""
    small = GREY + 0.08 * np.random.default_rng(7).normal(size=(26, 30, 24))
    put_ball(small, (2, 18, 12))
    put_square(small, CUBE)
    volume = volume_in_plane(
        plane, shape=small.shape, array=(1000 * small.clip(0, 1)).astype(np.int16), spacing=(3.0, 2.0, 2.5)
    )
    return images_of(volume, modality="CT"), volume


@pytest.mark.parametrize("plane", ["axial", "oblique"])
def test_a_stacks_map_lies_where_the_finding_lies_in_the_patient(plane: str, tmp_path: Path) -> None:
    series = {"described_as": "a CT series", "must": {"Modality": ["CT"]}}
    spatial = (zoo.transform("Orientationd", axcodes="RAS"), zoo.transform("SpatialPadd", spatial_size=[28, 30, 30]))
    what = bundle(*spatial, dimensions=3, highest=1000.0, manifest={"series": series})
    written(tmp_path, what, trained(3))
    images, volume = cubes(plane)
    reading = read(tmp_path, images, profiles=EVERY_PROFILE)
    assert reading.summary["classes"][0]["name"] == "Square"
    paths = check(reading, tmp_path)
    parametric_map = pydicom.dcmread(paths["MAP"])
    values = np.frombuffer(parametric_map.FloatPixelData, "<f4").reshape(volume.spatial_shape)
    frame, row, column = np.unravel_index(int(values.argmax()), values.shape)
    position = parametric_map.PerFrameFunctionalGroupsSequence[int(frame)].PlanePositionSequence[0]
    shared = parametric_map.SharedFunctionalGroupsSequence[0]
    along_row, down_column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = (float(each) for each in shared.PixelMeasuresSequence[0].PixelSpacing)
    peak = np.array(position.ImagePositionPatient, float) + row * row_mm * down_column + column * column_mm * along_row
    (centre,) = volume.map_indices_to_reference([np.array(CUBE) + SQUARE // 2])
    assert np.linalg.norm(peak - centre) < SQUARE * 2.0
    capture = pydicom.dcmread(paths["SC-MAP"])
    assert capture.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert int(capture.NumberOfFrames) == int((values.max(axis=(1, 2)) >= 0.5).sum())


# Sanity checks (Adebayo et al., NeurIPS 2018)


def test_the_map_hangs_on_the_weights() -> None:
    images, labels = pictures(8, (SIDE, SIDE), torch.Generator().manual_seed(11))
    likeness = []
    for image, label in zip(images, labels, strict=True):
        if label:
            with torch.no_grad(), watched([trained(2)]) as calls:
                trained(2)(image[None])
            likeness.append(likeness_by_depth(calls[0], 1, Saliency(layer=LAYER)))
    assert max(np.mean(likeness, axis=0)) < SAME_MAP


class Bright(nn.Module):
    """Shows how bright it is whatever its weights are: what Grad-CAM must not do."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.AvgPool2d(5, stride=2, padding=2)
        self.weight = nn.Linear(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        strength = self.weight(torch.ones(len(x), 1)).abs() + 0.1
        return torch.as_tensor(strength * self.look(x + 1).mean((1, 2, 3))[:, None])


def test_a_map_that_does_not_hang_on_the_weights_is_caught() -> None:
    network = Bright()
    image = pictures(1, (SIDE, SIDE), torch.Generator().manual_seed(11))[0]
    with torch.no_grad(), watched([network]) as calls:
        network(image)
    assert min(likeness_by_depth(calls[0], 0, Saliency(layer="look"))) > 0.99


EXPLAINING = sorted(
    folder.parent.name for folder in SHIPPED.glob("*/coread.yaml") if load_manifest(folder.parent).saliency is not None
)
"""Shipped models that say where they looked."""


@pytest.mark.parametrize("name", EXPLAINING)
def test_the_maps_of_every_shipped_model_hang_on_its_weights(name: str) -> None:
    from coread.models.catalogue import installed_models

    runner = BundleRunner(installed_models(Settings())[name], device=CPU)
    saliency = runner.model.manifest.saliency
    assert saliency is not None
    with watched(runner.networks) as calls:
        reading = rehearse(runner).reading
    assert reading.summary["saliency"]
    by_output = [int(key) for key in calls[0].answer[0].argsort(descending=True)]
    for key in by_output:
        try:
            assert likeness_by_depth(calls[0], key, saliency)[-1] < SAME_MAP
        except NoMap:
            continue
        return
    pytest.fail(f"{name} explains none of its answers to the rehearsal")

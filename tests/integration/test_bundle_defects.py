"""Bundles that are wrong in a way that nobody would see in the result: each is an error."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coread.errors import ModelError, OutOfMemory
from coread.models.bundle.isolation import IsolatedReader
from coread.models.manifest import load_manifest
from coread.scratch import PREFIX
from coread.volume import Volume
from coread.workers.resample import onto
from tests import zoo
from tests.integration.test_bundle_kinds import HOUNSFIELD, answering, detector, memory_hungry, network_of, read, said
from tests.support import volume_in_plane

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
)


def turned(post: list[dict[str, Any]], **more: Any) -> zoo.ZooBundle:
    """A bundle that turns its input and does not turn the result back."""
    bundle = answering(post, manifest=zoo.manifest([1], **more))
    bundle.inference["preprocessing"]["transforms"].append(zoo.transform("Orientationd", axcodes="RAS"))
    return bundle


MASK = said("(x > 0).float()")


def test_a_turned_result_that_says_where_it_lies_is_turned_back(tmp_path: Path) -> None:
    (layer,) = read(tmp_path, turned([MASK]), volume_in_plane("axial", array=HOUNSFIELD)).layers
    assert np.array_equal(layer, HOUNSFIELD > 0)


def test_a_turned_result_that_does_not_say_where_it_lies_is_no_mirrored_patient(tmp_path: Path) -> None:
    bundle = turned([MASK, zoo.transform("ToNumpyd", "pred")])
    with pytest.raises(ModelError, match="expected a result that says where it lies"):
        read(tmp_path, bundle, volume_in_plane("axial", array=HOUNSFIELD))


def test_a_result_without_a_place_is_taken_where_the_input_was_not_moved(tmp_path: Path) -> None:
    bundle = answering([MASK, zoo.transform("ToNumpyd", "pred")], manifest=zoo.manifest([1]))
    (layer,) = read(tmp_path, bundle, volume_in_plane("oblique", array=HOUNSFIELD)).layers
    assert np.array_equal(layer, HOUNSFIELD > 0)


def test_landmarks_in_an_image_without_a_place_are_no_landmarks(tmp_path: Path) -> None:
    place = said("torch.nonzero(x[0] == x.max()).float()[:1]")
    bundle = answering([place], manifest=zoo.manifest([0], task="landmarks"))
    bundle.inference["preprocessing"]["transforms"] += [
        zoo.transform("Spacingd", pixdim=[1.0, 1.0, 1.0]),
        zoo.transform("EnsureTyped", track_meta=False),
    ]
    with pytest.raises(ModelError, match="expected an image that says where it lies"):
        read(tmp_path, bundle, volume_in_plane("axial", array=HOUNSFIELD))


@pytest.mark.parametrize("points", ["rows", "columns"])
def test_three_landmarks_are_read_as_the_manifest_says(points: str, tmp_path: Path) -> None:
    places = np.array([[1, 2, 3], [4, 5, 2], [7, 8, 1]])
    written = (places if points == "rows" else places.T).tolist()
    manifest = zoo.manifest([0, 1, 2], task="landmarks", points=points)
    prediction = read(
        tmp_path, answering([said(f"torch.tensor({written})")], manifest=manifest), volume_in_plane("axial")
    )
    assert np.allclose([point.place for point in prediction.points], places[:, ::-1])


def test_three_landmarks_without_a_word_on_their_order_are_refused(tmp_path: Path) -> None:
    manifest = zoo.manifest([0, 1, 2], task="landmarks")
    with pytest.raises(ModelError, match="say `points: rows` or `points: columns`"):
        read(tmp_path, answering([said("torch.eye(3)")], manifest=manifest), volume_in_plane("axial"))


def test_a_second_loader_does_not_get_the_image_for_a_mask(tmp_path: Path) -> None:
    bundle = answering([MASK], manifest=zoo.manifest([1]))
    bundle.inference["preprocessing"]["transforms"][1:1] = [zoo.transform("LoadImaged", "lung_mask")]
    bundle.inference["preprocessing"]["transforms"].append(zoo.transform("MaskIntensityd", mask_key="lung_mask"))
    with pytest.raises(ModelError, match="lung_mask"):
        read(tmp_path, bundle, volume_in_plane("axial", array=HOUNSFIELD))


def test_loaders_of_one_key_each_get_their_own_channel(tmp_path: Path) -> None:
    series = [{"described_as": each, "must": {"Modality": ["MR"]}} for each in ("t1", "t2")]
    bundle = answering([said("(x[[0]] > 0) + 2 * (x[[1]] > 0)")], manifest=zoo.manifest([1, 2, 3], series=series))
    bundle.inference["preprocessing"] = zoo.chain(
        zoo.transform("LoadImaged", "t1"),
        zoo.transform("LoadImaged", "t2"),
        zoo.transform("EnsureChannelFirstd", ["t1", "t2"]),
        zoo.transform("ConcatItemsd", ["t1", "t2"], name="image"),
    )
    bundle.inputs = {}
    first, second = (volume_in_plane("axial", array=HOUNSFIELD + shift) for shift in (0, 400))
    assert np.array_equal(read(tmp_path, bundle, first, second).layers[0], (first.array > 0) + 2 * (second.array > 0))


def test_an_ensemble_without_weights_does_not_run(tmp_path: Path) -> None:
    bundle = zoo.spleen()
    bundle.inference["evaluator"] = {
        **{key: value for key, value in zoo.evaluator().items() if key not in ("network", "postprocessing")},
        "_target_": "EnsembleEvaluator",
        "networks": ["@network"],
        "pred_keys": ["pred"],
        "postprocessing": "@postprocessing",
    }
    bundle.inference["initialize"] = []
    del bundle.inference["checkpointloader"]
    with pytest.raises(ModelError, match="load the network's weights, found none"):
        read(tmp_path, bundle, volume_in_plane("axial", shape=(16, 24, 20)))


def test_weights_for_a_part_of_the_network_are_not_enough(tmp_path: Path) -> None:
    bundle = zoo.spleen()
    bundle.inference["checkpointloader"]["strict"] = False
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    state = torch.load(folder / "models/model.pt", weights_only=True)
    bundle.weights = {}
    torch.save(dict(list(state.items())[:4]), folder / "models/model.pt")
    with pytest.raises(ModelError, match="left as they were"):
        read(tmp_path, bundle, volume_in_plane("axial", shape=(16, 24, 20)))


def test_boxes_outside_of_the_images_are_no_boxes(tmp_path: Path) -> None:
    bundle = detector()
    bundle.manifest["boxes"] = {"space": "image"}  # which they are not
    array = np.zeros((9, 20, 14), np.float32)
    array[3:6, 8:15, 2:5] = 500
    with pytest.raises(ModelError, match="expected boxes inside the images"):
        read(tmp_path, bundle, volume_in_plane("axial", array=array, shape=array.shape))


@pytest.mark.parametrize("name", ["ConvertBoxModeD", "ConvertBoxModeDict"])
def test_transforms_are_known_by_their_other_names(name: str, tmp_path: Path) -> None:
    bundle = detector()
    mode = bundle.inference["postprocessing"]["transforms"][2]
    mode["_target_"] = f"monai.apps.detection.transforms.dictionary.{name}"
    array = np.zeros((9, 20, 14), np.float32)
    array[3:6, 8:15, 2:5] = 500
    (box,) = read(tmp_path, bundle, volume_in_plane("axial", array=array, shape=array.shape)).boxes
    assert np.allclose(box.high, [5.5, 14.5, 4.5], atol=1e-4)


@pytest.mark.parametrize("answer", ["{'a': x}", "'yes'", "None"])
def test_an_output_of_another_kind_is_an_error_of_the_model(answer: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        read(tmp_path, answering([said(answer)], manifest=zoo.manifest([1])), volume_in_plane("axial"))


def test_half_precision_is_read(tmp_path: Path) -> None:
    bundle = answering([said("(x > 0).bfloat16()")], manifest=zoo.manifest([1]))
    (layer,) = read(tmp_path, bundle, volume_in_plane("axial", array=HOUNSFIELD)).layers
    assert np.array_equal(layer, HOUNSFIELD > 0)


def test_a_bundle_that_does_not_take_its_batch_apart_is_read(tmp_path: Path) -> None:
    bundle = answering([], manifest=zoo.manifest([1]), inference={"evaluator": zoo.evaluator(decollate=False)})
    bundle.inference["postprocessing"] = zoo.chain(MASK)
    (layer,) = read(tmp_path, bundle, volume_in_plane("axial", array=HOUNSFIELD)).layers
    assert np.array_equal(layer, HOUNSFIELD > 0)


@contextmanager
def isolated(tmp_path: Path, answer: str, **resources: float) -> Iterator[IsolatedReader]:
    bundle = memory_hungry("Net")
    bundle.inference["network_def"] = {"_target_": "scripts.net.Net"}
    bundle.inference["postprocessing"] = zoo.chain()
    bundle.manifest = zoo.manifest([1, 2], resources=resources)
    bundle.scripts = {
        "scripts/__init__.py": "",
        "scripts/net.py": f"import os, time\n{GARBAGE}\n{network_of('Net', answer)}",
    }
    folder = zoo.write_zoo_bundle(tmp_path / "bundle", bundle)
    reader = IsolatedReader(folder, load_manifest(folder), device=CPU)
    try:
        yield reader
    finally:
        reader.close()


def of(value: float) -> Volume:
    return volume_in_plane("axial", array=np.full((6, 20, 14), value, np.float32))


def test_a_bundle_that_never_answers_is_ended_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with isolated(tmp_path, "time.sleep(60) if x.max() > 5 else x * 0 + 1", time_s=2.0) as reader:
        with pytest.raises(ModelError, match="expected an answer within 2 s"):
            reader.predict([of(9)])
        assert len(list(temporary.glob(f"{PREFIX}*"))) == 1, "its home, which is the worker's"
        assert (reader.predict([of(1)]).layers[0] == 1).all()
    assert list(temporary.iterdir()) == []


GARBAGE = """
def garbage():
    '''Says something that is no message in every pipe that there is.'''
    for fd in range(3, 12):
        try:
            os.write(fd, bytes([255]) * 64)
        except OSError:
            pass
    return True
"""


def test_after_an_answer_that_cannot_be_read_the_next_study_gets_its_own(tmp_path: Path) -> None:
    with isolated(tmp_path, "garbage() and x * 0 + 1 if x.max() > 5 else x * 0 + 2", time_s=20.0) as reader:
        with pytest.raises(ModelError, match="answered what cannot be read"):
            reader.predict([of(9)])
        for _ in range(2):
            assert (reader.predict([of(1)]).layers[0] == 2).all()


def test_a_process_that_was_ended_from_outside_is_worth_another_try(tmp_path: Path) -> None:
    with isolated(tmp_path, "os.kill(os.getpid(), 9) if x.max() > 5 else x * 0 + 1") as reader:
        with pytest.raises(OutOfMemory, match="ended from outside"):
            reader.predict([of(9)])
        assert (reader.predict([of(1)]).layers[0] == 1).all()


def test_a_child_of_a_bundle_neither_blocks_the_worker_nor_survives_it(tmp_path: Path) -> None:
    """The child's child keeps the pipe open after the bundle's process has died."""
    forks = "os.fork() and os._exit(3) or time.sleep(300)"
    with isolated(tmp_path, f"({forks}) if x.max() > 5 else x * 0 + 1") as reader:
        started = time.monotonic()
        with pytest.raises(ModelError, match="status 3"):
            reader.predict([of(9)])
        assert time.monotonic() - started < 60
    deadline = time.monotonic() + 60  # to be told to end and to have ended are two things
    while any(str(tmp_path) in _text_of(path) for path in Path("/proc").glob("[0-9]*/cmdline")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""


def test_the_worker_decides_when_a_bundles_process_ends(tmp_path: Path) -> None:
    """A terminal or a service manager tells every process to stop; the job in hand ends first."""
    with isolated(tmp_path, "os.kill(os.getpid(), 15) or x * 0 + 1") as reader:
        assert (reader.predict([of(1)]).layers[0] == 1).all()


def test_channels_of_one_extent_have_no_holes_at_their_rims() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        axes, _ = np.linalg.qr(random.normal(size=(3, 3)))
        fine = Volume.of(
            np.zeros((19, 12, 10)), directions=axes, spacing=(1.5, 1, 1), position=list(random.normal(0, 50, 3))
        )
        coarse = Volume.of(
            random.uniform(1, 2, (10, 12, 10)), directions=axes, spacing=(3, 1, 1), position=list(fine.affine[:3, 3])
        )
        assert onto(coarse, fine).array.min() >= 1


def test_beyond_a_channels_end_there_is_air_and_not_water() -> None:
    short = volume_in_plane("axial", shape=(4, 8, 8), array=np.linspace(-1000, 500, 256).reshape(4, 8, 8))
    long = volume_in_plane("axial", shape=(8, 8, 8))
    assert (onto(short, long).array[4:] == -1000).all()

"""A network answers alike by whatever engine it runs, or torch runs it; and a reading says which it was."""

import copy
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from monai.data import MetaTensor
from monai.networks.nets import UNet
from torch import nn

from coread.cli import coread
from coread.errors import ConfigurationError
from coread.models import prepared
from coread.models.bundle.engine import BundleEngine
from coread.models.catalogue import installed_models
from coread.models.forward import onnx_engine, openvino_engine
from coread.models.forward.agreement import agreement
from coread.models.forward.choice import OtherCall, choose
from coread.models.forward.engines import EAGER, Engine, Library, candidates, network_of
from coread.models.forward.torch_engine import TorchNetwork
from coread.models.forward.window import SlidingWindow
from coread.models.manifest import load_manifest
from coread.models.prepared import NotPrepared
from coread.models.runner import BundleRunner
from coread.settings import Settings
from coread.workers.pipeline import read_study
from coread.workers.prepare_model import prepare_model
from coread.workers.rehearsal import rehearse, study_for
from tests import zoo
from tests.support import NOW, settings_with

CPU = torch.device("cpu")
SHIPPED = ("chest_xray_pneumonia", "ecg_12_lead", "hippocampus_t1", "left_ventricle_sax")
ONE = torch.tensor([1])
OPENVINO = Engine(library=Library.OPENVINO)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*labels=.*:FutureWarning",  # MONAI announces a new default of Orientationd
)


def unet(*, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return UNet(spatial_dims=3, in_channels=1, out_channels=3, channels=(4, 8), strides=(2,)).eval()


def image(*size: int) -> torch.Tensor:
    return torch.randn((1, 1, *size), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def seen_by_shipped() -> Callable[[str], tuple[nn.Module, torch.Tensor]]:
    """Name of a shipped model → its network, and what that sees in a dry run."""

    def seen(name: str) -> tuple[nn.Module, torch.Tensor]:
        runner = BundleRunner(installed_models(Settings())[name], device=CPU)
        (network,) = runner.networks
        inputs: list[torch.Tensor] = []
        handle = network.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))
        rehearse(runner)
        handle.remove()
        runner.close()
        return network.eval(), torch.Tensor(inputs[0])

    return seen


@pytest.mark.parametrize("name", SHIPPED)
@torch.no_grad()
def test_openvino_answers_as_torch_for_every_shipped_model(name: str, seen_by_shipped: Any) -> None:
    network, seen = seen_by_shipped(name)
    converted = openvino_engine.converted(network, seen, shape=[-1, *seen.shape[1:]], precision="f32")
    fast = openvino_engine.OpenVinoNetwork(converted, precision="f32")
    assert agreement(fast(seen), network(seen)).reason_against("f32") == ""


@torch.no_grad()
def test_an_engine_takes_any_batch_and_any_size_that_it_was_converted_for() -> None:
    network, first = unet(), image(16, 16, 16)
    one_size = openvino_engine.OpenVinoNetwork(
        openvino_engine.converted(network, first, shape=[1, 1, 16, 16, 16], precision="f32"), precision="f32"
    )
    three = torch.cat([first, first + 1, first * 2])
    assert torch.allclose(one_size(three), network(three), atol=1e-4)
    with pytest.raises(openvino_engine.OtherShape, match="16, 16, 24"):
        one_size(image(16, 16, 24))
    placed = one_size(MetaTensor(first, meta={"filename_or_obj": "here"}))
    assert isinstance(placed, MetaTensor)
    assert placed.meta["filename_or_obj"] == "here"
    by_onnx = onnx_engine.OnnxNetwork(onnx_engine.converted(network, first, shape=[-1, 1, -1, -1, -1]))
    other = torch.cat([image(16, 24, 32), image(16, 24, 32)])
    assert torch.allclose(by_onnx(other), network(other), atol=1e-4)


def test_an_engine_without_memory_says_so_as_python_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO's own words, on a machine with too little of it."""

    class NoMemory:
        def infer(self, *_: object, **__: object) -> None:
            raise RuntimeError("[CPU] Concat node: Check 'ptr' failed\nFailed to allocate 100663296 bytes of memory\n")

    blob = openvino_engine.converted(unet(), image(16, 16, 16), shape=[1, 1, 16, 16, 16], precision="f32")
    fast = openvino_engine.OpenVinoNetwork(blob, precision="f32")
    monkeypatch.setattr(fast, "_request", NoMemory())
    with pytest.raises(MemoryError):
        fast(image(16, 16, 16))


class Even(nn.Module):
    """Goes another way where a half does not come out even, as BasicUNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv3d(1, 2, 2, stride=2), nn.ConvTranspose3d(2, 2, 2, stride=2)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        again: torch.Tensor = self.up(self.down(seen))
        for axis in (2, 3, 4):
            if again.shape[axis] != seen.shape[axis]:
                again = torch.cat([again, again.narrow(axis, 0, 1)], dim=axis)
        return again + seen


def test_an_engine_that_knows_only_some_sizes_is_not_used() -> None:
    choice = choose(Even().eval(), [image(16, 16, 16)], has_one_size=False, may_round=False)
    assert choice.engine.library is Library.TORCH
    by_openvino = next(each for each in choice.tried if each.label == OPENVINO.label)
    assert by_openvino.reason
    one_size = choose(Even().eval(), [image(16, 16, 16)], has_one_size=True, may_round=False)
    assert not next(each for each in one_size.tried if each.label == OPENVINO.label).reason


@torch.no_grad()
def test_torch_answers_alike_with_another_layout_and_nearly_so_in_16_bits() -> None:
    network, seen = unet(), image(16, 16, 16)
    expected = network(seen)
    tuned = TorchNetwork(copy.deepcopy(network))
    assert agreement(tuned(seen), expected).reason_against("f32") == ""
    rounded = TorchNetwork(copy.deepcopy(network), precision="bf16")(seen)
    assert rounded.dtype == torch.float32
    assert 0 < agreement(rounded, expected).deviation < 0.02


def test_an_answer_does_not_change_when_the_next_is_asked_for() -> None:
    network, first = unet(), image(16, 16, 16)
    blob = openvino_engine.converted(network, first, shape=[-1, 1, 16, 16, 16], precision="f32")
    fast = openvino_engine.OpenVinoNetwork(blob, precision="f32")
    answer = fast(first)
    before = answer.clone()
    fast(first + 1)
    assert torch.equal(answer, before)


def test_the_quickest_of_those_that_agree_is_chosen() -> None:
    network, seen = unet(), image(48, 48, 48)
    choice = choose(network, [seen], has_one_size=False, may_round=False)
    assert {each.label for each in choice.tried} >= {OPENVINO.label}
    assert not [each.reason for each in choice.tried if each.reason]
    if choice.engine != EAGER:
        assert choice.ratio == max(each.ratio or 0 for each in choice.tried)
    runs = network_of(choice.engine, network, choice.converted)
    with torch.no_grad():
        other = image(40, 56, 64)
        assert agreement(runs(other), network(other)).reason_against("f32") == ""


def test_16_bits_are_tried_only_where_the_package_allows_them() -> None:
    def precisions(device: str, *, may_round: bool) -> set[str]:
        return {each.precision for each in candidates(device, has_one_size=True, may_round=may_round)}

    assert precisions("cpu", may_round=False) == precisions("cuda", may_round=False) == {"f32"}
    assert precisions("cpu", may_round=True) == {"f32", "bf16"}
    assert precisions("cuda", may_round=True) == {"f32", "bf16", "f16"}


def test_torch_compiles_only_for_what_has_one_size() -> None:
    for one_size in (True, False):
        found = candidates("cuda", has_one_size=one_size, may_round=True)
        assert any(each.is_compiled for each in found) is one_size
        assert all(each.library is Library.TORCH for each in found)


class Unusual(nn.Module):
    """What it does depends on the values that it sees, which no traced graph can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 1)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        answer = self.layer(torch.linalg.pinv(seen) @ seen)
        return torch.as_tensor(answer if float(seen.mean()) > 0 else -answer)


def test_what_cannot_be_converted_or_answers_otherwise_is_left_to_torch_and_said() -> None:
    positive = image(16, 16, 16).abs()
    choice = choose(Unusual().eval(), [positive, -positive], has_one_size=True, may_round=False)
    assert choice.engine.library is Library.TORCH
    by_openvino = next(each for each in choice.tried if each.label == OPENVINO.label)
    assert by_openvino.reason
    assert by_openvino.ratio is None


def test_an_engine_with_other_weights_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    true = openvino_engine.converted

    def of_another_network(network: nn.Module, *arguments: Any, **named: Any) -> bytes:
        altered = copy.deepcopy(network)
        with torch.no_grad():
            for weight in altered.parameters():
                weight.add_(0.05 * torch.randn(weight.shape))
        return true(altered, *arguments, **named)

    monkeypatch.setattr(openvino_engine, "converted", of_another_network)
    choice = choose(unet(), [image(16, 16, 16)], has_one_size=True, may_round=False)
    assert choice.engine.library is not Library.OPENVINO
    by_openvino = next(each for each in choice.tried if each.label == OPENVINO.label)
    assert "torch's range" in by_openvino.reason or "same class" in by_openvino.reason


def test_a_network_with_several_answers_is_left_to_torch() -> None:
    class Two(nn.Module):
        def forward(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return seen, seen

    with pytest.raises(OtherCall, match="no tensor"):
        choose(Two().eval(), [image(8, 8, 8)], has_one_size=True, may_round=False)


def test_openvino_is_kept_from_reporting_its_use() -> None:
    openvino_engine.openvino()
    assert not [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module]
    assert "openvino.tools.ovc.telemetry_stub" in sys.modules  # what it takes where there is nothing to report with


@pytest.fixture(scope="module")
def spleen(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings with a bundle of the zoo's kind, prepared: a small UNet in sliding windows."""
    folder = tmp_path_factory.mktemp("prepared")
    zoo.write_zoo_bundle(folder / "spleen", zoo.spleen())
    settings = settings_with(folder)
    prepare_model("test_model", settings, at=NOW)
    return settings


def test_a_prepared_model_reads_alike_and_says_by_which_engine(spleen: Settings, tmp_path: Path) -> None:
    model = installed_models(spleen)["test_model"]
    found = prepared.load(spleen.prepared_home, "test_model", digest=model.digest(), device=prepared.cpu_name())
    (network,) = BundleRunner(model, device=CPU).networks
    blob = openvino_engine.converted(network, image(16, 16, 16), shape=[1, 1, 16, 16, 16], precision="f32")
    forward = found.record.forward.model_copy(  # whichever was quickest just now
        update={"engine": OPENVINO, "sha256": prepared.sha256_of(blob)}
    )
    prepared.save(tmp_path, found.record.model_copy(update={"forward": forward}), blob)
    study = study_for(model.manifest)
    readings = [
        read_study(study, BundleRunner(model, device=CPU, prepared=home), job_id="1", created_at=NOW)
        for home in (None, tmp_path)
    ]
    layers = [reading.parts[0].prediction.layers[0] for reading in readings]
    assert np.mean(layers[0] == layers[1]) >= 0.9999
    assert [reading.summary["engine"] for reading in readings] == [EAGER.label, OPENVINO.label]


def test_the_commands_say_by_what_a_model_runs_and_why(spleen: Settings, tmp_path: Path) -> None:
    config = tmp_path / "coread.toml"
    folder = spleen.models.folders[0]
    config.write_text(f'data_folder = "{spleen.data_folder}"\n[models]\nfolders = ["{folder}"]\n')

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(coread, ["--config", str(config), "models", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    digest = installed_models(spleen)["test_model"].digest()
    record = prepared.read(spleen.prepared_home, "test_model", digest=digest, device=None)
    engines = {row["name"]: row["engine"] for row in json.loads(said("list", "--json"))}
    assert engines == dict.fromkeys(SHIPPED, EAGER.label) | {"test_model": record.forward.engine.label}
    shown = said("show", "test_model")
    assert f"network:  {record.forward.engine.label}" in shown
    assert record.fusion is not None
    assert all(what in shown for what in record.fusion.fused)
    assert "because it was never prepared on this machine" in said("show", "hippocampus_t1")
    again = said("prepare", "ecg_12_lead")
    assert f"{EAGER.label}, because the model explains itself" in again


def test_images_that_an_engine_cannot_take_are_read_by_torch(spleen: Settings, tmp_path: Path) -> None:
    model = installed_models(spleen)["test_model"]
    (network,) = BundleRunner(model, device=CPU).networks
    blob = openvino_engine.converted(network, image(24, 24, 24), shape=[1, 1, 24, 24, 24], precision="f32")
    record = prepared.read(spleen.prepared_home, "test_model", digest=model.digest(), device=None)
    forward = record.forward.model_copy(update={"engine": OPENVINO, "sha256": prepared.sha256_of(blob)})
    prepared.save(tmp_path, record.model_copy(update={"forward": forward}), blob)
    runner = BundleRunner(model, device=CPU, prepared=tmp_path)
    assert runner.engine == OPENVINO.label
    summary = rehearse(runner).reading.summary
    assert summary["engine"] == EAGER.label
    assert any("torch ran the network" in each and "24" in each for each in summary["adapted"])


def test_scores_of_an_engine_that_are_no_numbers_are_not_taken(
    spleen: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The highest of them would be any: a mask comes of it that looks like others."""
    runner = _by_openvino(spleen, tmp_path)
    answer = openvino_engine.OpenVinoNetwork._answer
    monkeypatch.setattr(
        openvino_engine.OpenVinoNetwork, "_answer", lambda self, seen: answer(self, seen).index_fill(1, ONE, np.nan)
    )
    summary = rehearse(runner).reading.summary
    assert summary["engine"] == EAGER.label
    assert any("found NaN" in each for each in summary["adapted"])


def test_what_an_engine_holds_counts_as_memory(spleen: Settings, tmp_path: Path) -> None:
    by_torch = BundleRunner(installed_models(spleen)["test_model"], device=CPU).held_bytes
    assert _by_openvino(spleen, tmp_path).held_bytes >= by_torch > 0


def test_answers_are_the_same_to_the_bit_each_time_and_after_loading_anew() -> None:
    first = image(16, 16, 16)
    blob = openvino_engine.converted(unet(), first, shape=[1, 1, 16, 16, 16], precision="f32")
    answers = [
        network(first)
        for network in (openvino_engine.OpenVinoNetwork(blob, precision="f32") for _ in range(2))
        for _ in range(3)
    ]
    assert all(torch.equal(answers[0], each) for each in answers)


def _by_openvino(spleen: Settings, home: Path) -> BundleRunner:
    """The model as if OpenVINO had been the quickest."""
    model = installed_models(spleen)["test_model"]
    record = prepared.read(spleen.prepared_home, "test_model", digest=model.digest(), device=None)
    (network,) = BundleRunner(model, device=CPU).networks
    blob = openvino_engine.converted(network, image(16, 16, 16), shape=[1, 1, 16, 16, 16], precision="f32")
    forward = record.forward.model_copy(update={"engine": OPENVINO, "sha256": prepared.sha256_of(blob)})
    prepared.save(home, record.model_copy(update={"forward": forward}), blob)
    runner = BundleRunner(model, device=CPU, prepared=home)
    assert runner.engine == OPENVINO.label
    return runner


def test_a_record_counts_for_one_model_on_one_machine(
    spleen: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home, digest = spleen.prepared_home, installed_models(spleen)["test_model"].digest()
    here = prepared.cpu_name()

    def refusal(**other: Any) -> str:
        with pytest.raises(NotPrepared) as refused:
            prepared.load(other.pop("home", home), "test_model", **{"digest": digest, "device": here, **other})
        return str(refused.value)

    assert prepared.load(home, "test_model", digest=digest, device=here).record.digest == digest
    assert "model has changed" in refusal(digest="0" * 64)
    assert "another processor" in refusal(device="another")
    assert "never prepared" in refusal(home=tmp_path)
    (tmp_path / "test_model").mkdir()
    (tmp_path / "test_model" / prepared.RECORD).write_text("{")
    assert "cannot be read" in refusal(home=tmp_path)
    monkeypatch.setattr(prepared, "version_of", lambda library: "0" if library == "torch" else "1")
    assert "torch" in refusal()


@pytest.mark.parametrize("library", [Library.OPENVINO, Library.ONNXRUNTIME])
def test_a_damaged_network_is_not_run(spleen: Settings, tmp_path: Path, library: Library) -> None:
    model = installed_models(spleen)["test_model"]
    record = prepared.read(spleen.prepared_home, "test_model", digest=model.digest(), device=None)
    content = b"a network"
    forward = record.forward.model_copy(
        update={"engine": Engine(library=library), "sha256": prepared.sha256_of(content)}
    )
    prepared.save(tmp_path, record.model_copy(update={"forward": forward}), content)
    (network,) = (tmp_path / "test_model").glob("network-*")
    network.write_bytes(content + b"!")
    with pytest.raises(NotPrepared, match="not the one that was prepared"):
        prepared.load(tmp_path, "test_model", digest=model.digest(), device=prepared.cpu_name())
    prepared.save(tmp_path, record.model_copy(update={"forward": forward}), content)
    runner = BundleRunner(model, device=CPU, prepared=tmp_path)  # whole, but nothing that the library can take
    assert runner.engine == EAGER.label
    assert any("cannot run the network" in each for each in rehearse(runner).reading.summary["adapted"])


def test_the_log_says_once_that_a_model_is_not_prepared(
    spleen: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        runner = BundleRunner(installed_models(spleen)["test_model"], device=CPU, prepared=tmp_path)
        rehearse(runner)
    assert runner.engine == EAGER.label
    (said,) = [each for each in caplog.messages if "coread models prepare test_model" in each]
    assert said.startswith("test_model: torch runs the network, because it was never prepared on this machine;")


def test_a_model_that_explains_itself_keeps_torch_and_the_record_says_why(tmp_path: Path) -> None:
    record = prepare_model("ecg_12_lead", Settings(data_folder=tmp_path), at=NOW)
    assert record.forward.engine == EAGER
    assert "saliency" in record.forward.reason
    said = json.loads((tmp_path / "prepared" / "ecg_12_lead" / prepared.RECORD).read_text())
    assert said["model"] == "ecg_12_lead"


def test_sliding_windows_are_ours_and_can_be_taken_one_by_one(tmp_path: Path) -> None:
    folder = zoo.write_zoo_bundle(tmp_path / "spleen", zoo.spleen())
    engine = BundleEngine(folder=folder, manifest=load_manifest(folder), device=CPU)
    inferer = engine._evaluator.inferer
    assert type(inferer) is SlidingWindow
    assert inferer.sw_batch_size > 1
    assert engine.has_one_size
    engine._evaluator = None  # as after a run that failed
    assert engine.use_less_memory()
    assert type(engine._evaluator.inferer) is SlidingWindow
    assert engine._evaluator.inferer.sw_batch_size == 1


def test_air_is_left_out_as_the_manifest_says(tmp_path: Path) -> None:
    bundle = zoo.spleen()
    bundle.manifest["speed"] = {"air_at_most": 0.25}
    folder = zoo.write_zoo_bundle(tmp_path / "spleen", bundle)
    engine = BundleEngine(folder=folder, manifest=load_manifest(folder), device=CPU)
    assert engine._evaluator.inferer.air_at_most == 0.25
    whole = zoo.classification_template()
    whole.manifest["speed"] = {"air_at_most": 0.25}
    folder = zoo.write_zoo_bundle(tmp_path / "whole", whole)
    with pytest.raises(ConfigurationError, match=r"speed\.air_at_most"):
        BundleEngine(folder=folder, manifest=load_manifest(folder), device=CPU)

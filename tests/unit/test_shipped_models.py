"""Each shipped model: a proper MONAI bundle whose parts fit each other, small enough to be shipped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out

from coread.evaluation.document import load_report
from coread.models.catalogue import SHIPPED, installed_models
from coread.models.manifest import Manifest, load_manifest
from coread.settings import Settings

SCHEMA = SHIPPED / "bundle_metadata.schema.json"
NAMES = ["chest_xray_pneumonia", "ecg_12_lead", "hippocampus_t1", "left_ventricle_sax"]
SEGMENTING = [name for name in NAMES if load_manifest(SHIPPED / name).labels]

pytestmark = pytest.mark.parametrize("name", NAMES)


def test_it_is_one_of_those_that_are_shipped(name: str) -> None:
    assert name in installed_models(Settings())
    assert sorted(installed_models(Settings())) == NAMES


def test_monai_verifies_the_metadata(name: str) -> None:
    verify_metadata(meta_file=str(SHIPPED / name / "configs" / "metadata.json"), filepath=str(SCHEMA))


def test_metadata_without_named_channels_is_not_verified(name: str, tmp_path: Path) -> None:
    metadata = metadata_of(name)
    del metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    harmed = tmp_path / "metadata.json"
    harmed.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="channel_def"):
        verify_metadata(meta_file=str(harmed), filepath=str(SCHEMA))


@pytest.mark.filterwarnings("ignore")  # MONAI's command-line entry warns about its own arguments
def test_the_network_takes_and_gives_what_the_metadata_says(name: str) -> None:
    if name in SEGMENTING:
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(SHIPPED / name / "configs" / "metadata.json"),
            config_file=str(SHIPPED / name / "configs" / "inference.json"),
            device="cpu",
        )
        return
    formats = metadata_of(name)["network_data_format"]
    given, wanted = formats["inputs"]["image"], formats["outputs"]["pred"]
    with torch.inference_mode():
        found = network_of(name).eval()(torch.rand(1, given["num_channels"], *given["spatial_shape"]))
    assert found.shape == (1, wanted["num_channels"])


def test_the_weights_fit_the_network_and_are_small(name: str) -> None:
    path = SHIPPED / name / "models" / "model.pt"
    network_of(name).load_state_dict(torch.load(path, weights_only=True))
    assert path.stat().st_size < 10e6


def test_the_manifest_and_the_metadata_name_the_same_outputs(name: str) -> None:
    manifest = load_manifest(SHIPPED / name)
    channels = metadata_of(name)["network_data_format"]["outputs"]["pred"]["channel_def"]
    named = {number: channels[str(number)].casefold() for number in outputs_of(manifest)}
    said = {number: output.casefold() for number, output in outputs_of(manifest).items()}
    if name == "ecg_12_lead":  # an ECG is called normal, a finding present or absent
        said = {0: "normal", 1: "not normal"}
    assert named == said


def test_its_figures_are_those_of_its_files(name: str) -> None:
    model = installed_models(Settings())[name]
    report = load_report(model.folder / "docs" / "report.json")
    assert report["model"]["digest"] == model.digest()
    assert report["counts"]["failed"] == 0


def metadata_of(name: str) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads((SHIPPED / name / "configs" / "metadata.json").read_text())
    return metadata


def network_of(name: str) -> torch.nn.Module:
    parser = ConfigParser()
    parser.read_config(SHIPPED / name / "configs" / "inference.json")
    network: torch.nn.Module = parser.get_parsed_content("network_def")
    return network


def outputs_of(manifest: Manifest) -> dict[int, str]:
    of_classes = {number: meaning.name for number, meaning in manifest.classes.items()}
    return of_classes | {number: meaning.name for number, meaning in manifest.labels.items()}

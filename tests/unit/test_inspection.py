import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from coread.errors import ConfigurationError
from coread.models.catalogue import SHIPPED
from coread.models.inspection import Found, Inspection, inspect_bundle

INFERENCE = "configs/inference.json"
MARKER = "marker"


def bundle(folder: Path, **inference: Any) -> Path:
    """A bundle whose inference configuration is this, and nothing else."""
    write(folder, "configs/metadata.json", json.dumps({"version": "1.2.3"}))
    return write(folder, INFERENCE, json.dumps(inference))


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return folder


def unusual(found: Inspection) -> list[str]:
    return [each.text for each in found.unusual]


def test_everything_that_can_be_executed_is_listed(tmp_path: Path) -> None:
    bundle(tmp_path, network={"_target_": "UNet"}, run=["$@network.eval()", {"_target_": "monai.losses.DiceLoss"}])
    write(tmp_path, "configs/train.yaml", "network: '%configs/inference.json#network'\nrate: $1 / 3\n")
    write(tmp_path, "scripts/inferer.py", "")
    write(tmp_path, "models/model.pt", "four")
    write(tmp_path, "models/model.ts", "")
    write(tmp_path, "models/model.engine", "")
    assert inspect_bundle(tmp_path) == Inspection(
        targets=("UNet", "monai.losses.DiceLoss"),
        expressions=(Found(INFERENCE, "$@network.eval()"), Found("configs/train.yaml", "$1 / 3")),
        macros=(Found("configs/train.yaml", "%configs/inference.json#network"),),
        unusual=(),
        python_files=("scripts/inferer.py",),
        torchscript=("models/model.engine", "models/model.ts"),
        weights={"models/model.pt": 4},
    )


CALL = "__import__('os').system('touch MARKER')"


@pytest.mark.parametrize(
    ("inference", "metadata", "expected"),
    [
        ({"x": {"_target_": "os.system", "command": "touch MARKER"}}, {}, "os.system"),
        ({"run": [f"${CALL}"]}, {}, "__import__"),
        ({"imports": [f"${CALL}"]}, {}, "__import__"),
        ({"imports": ["$from os import system"], "run": "$system('touch MARKER')"}, {}, "os.system"),
        ({"imports": ["$import os as np"], "run": "$np.system('touch MARKER')"}, {}, "np.system"),
        ({"imports": ["$import os"], "run": "$@imports#0.system('touch MARKER')"}, {}, "(…).system"),
        ({}, {"version": f"${CALL}"}, "__import__"),
        ({}, {"network_data_format": {"inputs": {"image": f"${CALL}"}}}, "__import__"),
        ({"x": {"_target_": "@a", "command": "touch MARKER"}, "a": "os.system"}, {}, "@a"),
        ({"x": {"_target_": "$'os' + '.system'", "command": "touch MARKER"}}, {}, "$'os' + '.system'"),
        ({"x": {}, "x#_target_": "os.system", "x#command": "touch MARKER"}, {}, "os.system"),
        ({"x": {"_target_": "torch.os.system", "command": "touch MARKER"}}, {}, "torch.os.system"),
        ({"x": {"_target_": "open", "file": "MARKER", "mode": "w"}}, {}, "open"),
        ({"x": {"_target_": {"_target_": "os.system", "command": "touch MARKER"}}}, {}, "os.system"),
        ({"x": {"_target_": "LoadImage", "reader": "os.system", "command": "touch MARKER"}}, {}, "os.system"),
    ],
)
def test_a_call_that_touches_the_machine_is_reported_and_not_made(
    tmp_path: Path, inference: dict[str, Any], metadata: dict[str, Any], expected: str
) -> None:
    folder = bundle(tmp_path / "bundle", **inference)
    write(folder, "configs/metadata.json", json.dumps(metadata))
    for path in (folder / "configs").iterdir():
        path.write_text(path.read_text().replace("MARKER", str(tmp_path / MARKER)))
    assert expected in unusual(inspect_bundle(folder))
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("name", ["evil.py", "scripts/__init__.py", "scripts/fast.cpython-311-x86_64-linux-gnu.so"])
def test_python_beside_the_configuration_is_reported_and_not_imported(tmp_path: Path, name: str) -> None:
    folder = bundle(tmp_path / "bundle", imports=["$import evil"])
    write(folder, name, f"open({str(tmp_path / MARKER)!r}, 'w')")
    found = inspect_bundle(folder)
    assert found.python_files == (name,)
    assert unusual(found) == ["evil"]
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch MARKER']",
        "a: !!python/name:os.system",
        "a: !own {}",
        "a: 1\na: 2",
        "a: &a {}\nb: *a",
        "a: &a [*a]",
        "a: [",
        "--- {}\n--- {}",
        "a: 2020-13-45",
        "[" * 5000,
    ],
)
def test_yaml_that_is_not_plain_data_is_refused_and_not_built(tmp_path: Path, text: str) -> None:
    folder = bundle(tmp_path / "bundle")
    write(folder, "configs/train.yml", text.replace("MARKER", str(tmp_path / MARKER)))
    with pytest.raises(ConfigurationError, match=r"train\.yml: expected YAML of plain data.*correct the file"):
        inspect_bundle(folder)
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("text", ["{", '{"a": 1, "a": 2}', "[" * 100_000, "\ufeff{}"])
def test_json_that_is_not_valid_or_gives_a_key_twice_is_refused(tmp_path: Path, text: str) -> None:
    write(bundle(tmp_path), "docs/data.JSON", text)
    with pytest.raises(ConfigurationError, match=r"data\.JSON: expected JSON in UTF-8, found"):
        inspect_bundle(tmp_path)


@pytest.mark.parametrize(
    "macro", ["%../../etc/x.json#key", "%/etc/x.json::key", "%configs/../../x.YAML", "%train.json#key", "%a\n/x.yml"]
)
def test_a_macro_that_reads_a_file_outside_of_the_bundle_is_refused(tmp_path: Path, macro: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a macro to name a file of the bundle"):
        inspect_bundle(bundle(tmp_path, x=macro))


def test_a_macro_may_name_a_key_or_a_file_of_the_bundle(tmp_path: Path) -> None:
    macros = ["%network#size", "%configs/metadata.json#version", "%./configs/metadata.json"]
    assert [each.text for each in inspect_bundle(bundle(tmp_path, x=macros)).macros] == macros


@pytest.mark.parametrize(
    "inference",
    [
        {"a": 1, "a) or torch.os.system('x') or ('": {"b": "$(@##c')"}},
        {"../../etc/x.json": {"a": "%#key"}},
    ],
)
def test_keys_that_a_relative_reference_would_turn_into_code_are_refused(
    tmp_path: Path, inference: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match="would become part of it"):
        inspect_bundle(bundle(tmp_path, **inference))


@pytest.mark.parametrize("target", ["/etc/hostname", "configs/inference.json", "nowhere", "configs"])
def test_a_link_is_refused_wherever_it_leads(tmp_path: Path, target: str) -> None:
    bundle(tmp_path)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ConfigurationError, match="link is a symbolic link"):
        inspect_bundle(tmp_path)


def test_what_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    bundle(tmp_path)
    os.mkfifo(tmp_path / "models.pt")
    with pytest.raises(ConfigurationError, match=r"models\.pt is neither"):
        inspect_bundle(tmp_path)


@pytest.mark.parametrize("name", ["scripts/__pycache__/x.cpython-311.pyc", "scripts/x.pyc", "__pycache__/README"])
def test_byte_code_that_could_run_instead_of_the_source_is_refused(tmp_path: Path, name: str) -> None:
    write(bundle(tmp_path), name, "")
    with pytest.raises(ConfigurationError, match="expected no Python byte code"):
        inspect_bundle(tmp_path)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Kb", "a\udcffb"])
def test_a_name_that_would_garble_what_a_person_reads_is_refused(tmp_path: Path, name: str) -> None:
    write(bundle(tmp_path), name, "")
    with pytest.raises(ConfigurationError, match="expected file names that can be printed"):
        inspect_bundle(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere cannot be read"):
        inspect_bundle(tmp_path / "nowhere")


def test_torchscript_is_known_under_another_name(tmp_path: Path) -> None:
    bundle(tmp_path)
    for name, member in (("script.pt", "model/constants.pkl"), ("weights.pt", "archive/data.pkl")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, "")
    found = inspect_bundle(tmp_path)
    assert found.torchscript == ("script.pt",)
    assert list(found.weights) == ["weights.pt"]


@pytest.mark.parametrize(
    "expression",
    [
        "$import os",
        "$import numpy as np",
        "$from monai.transforms import Compose",
        "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "$@bundle_root + '/models/model.pt'",
        "$list(sorted(glob.glob(os.path.join(@dataset_dir, '*.nii.gz'))))",
        "$[{'image': i, 'label': l} for i, l in zip(@images, @labels)]",
        "$@train#trainer.run()",
        "$setattr(torch.backends.cudnn, 'benchmark', True)",
        "$lambda x: torch.nan_to_num(x[..., ::2], nan=255)",
        "$json.loads(pathlib.Path(@metadata_path).read_text())",
        "$monai.handlers.from_engine(['pred', 'label'])",
        "$@model.load_state_dict(torch.load(@path, map_location=@device))",
    ],
)
def test_what_ordinary_bundles_say_is_not_unusual(tmp_path: Path, expression: str) -> None:
    assert unusual(inspect_bundle(bundle(tmp_path, x=expression))) == []


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("$eval('1')", ["eval"]),
        ("$exec('1')", ["exec"]),
        ("$open('x')", ["open"]),
        ("$[open for open in []] or open('x')", ["open"]),
        ("$subprocess.run(['x'])", ["subprocess"]),
        ("$import socket", ["socket"]),
        ("$from torch import os", ["torch.os"]),
        ("$import scripts", ["scripts"]),
        ("$pathlib.Path('x').write_text('y')", ["(…).write_text"]),
        ("$os.path.os.remove('x')", ["os.path.os", "os.path.os.remove"]),
        ("$().__class__.__base__", ["(…).__class__", "(…).__class__.__base__"]),
        ("$getattr(os, 'sys' + 'tem')('x')", ["getattr"]),
        ("$setattr(torch, 'load', print)", ["setattr"]),
        ("$setattr(torch.backends.cudnn, 'benchmark', exec('x'))", ["exec"]),
        ("$monai.utils.optional_import('os', name='system')", ["monai.utils.optional_import"]),
        ("$torch.hub.load('x', 'y')", ["torch.hub"]),
        ("$torch.load('x', weights_only=False)", ["weights_only"]),
        ("$not python", ["python"]),
        ("$1 +", ["$1 +"]),
        ("$\0", ["$\0"]),
    ],
)
def test_what_touches_the_machine_or_is_not_known_is_unusual(
    tmp_path: Path, expression: str, expected: list[str]
) -> None:
    found = inspect_bundle(bundle(tmp_path, x=expression))
    assert set(found.unusual) == {Found(INFERENCE, name) for name in expected}


def test_arguments_that_let_weights_bring_code_along_are_unusual(tmp_path: Path) -> None:
    assert unusual(inspect_bundle(bundle(tmp_path, x={"_target_": "torch.load", "weights_only": False}))) == [
        "weights_only"
    ]


def test_the_bundle_that_ships_has_nothing_unusual(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "hippocampus_t1" / "configs", tmp_path / "configs")
    found = inspect_bundle(tmp_path)
    assert "DynUNet" in found.targets
    assert found.unusual == ()


def test_looking_at_a_bundle_needs_neither_torch_nor_monai() -> None:
    code = (
        "import sys, coread.models.inspection, coread.models.allowlist, coread.models.unpack;"
        "print({'torch', 'monai', 'numpy', 'pydicom'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60) == "set()\n"

"""`coread models` as a user meets it, on bundles of every sort, hostile ones too."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pydicom
import pytest
import torch
import yaml
from monai.networks.nets import UNet

from coread.dicom_files import write_files
from tests import zoo
from tests.integration.test_bundle_kinds import detector
from tests.support import images_of, volume_in_plane

COREAD = Path(sys.executable).with_name("coread")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An installation of its own, with one route to the added model."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "coread.toml").write_text('data_folder = "data"\n')
    return folder


def coread(home: Path, *arguments: object, code: int = 0, said: str = "") -> str:
    """What the command says; it must end with ``code``. ``said``: what is typed in."""
    done = subprocess.run(
        [COREAD, *map(str, arguments)], cwd=home, input=said, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def states(home: Path) -> dict[str, str]:
    """Name → state of each model that does not ship."""
    rows = json.loads(coread(home, "models", "list", "--json"))
    return {row["name"]: row["state"] for row in rows if row["state"] != "shipped"}


def spleen(folder: Path) -> Path:
    return zoo.write_zoo_bundle(folder / "spleen_like", zoo.spleen())


def test_a_bundle_is_added_verified_used_disabled_and_removed(home: Path, tmp_path: Path) -> None:
    bundle = spleen(tmp_path)
    shown = coread(home, "models", "add", bundle, "--yes")
    assert "'UNet'" in shown
    assert "test_model is enabled" in shown
    assert states(home) == {"test_model": "enabled"}
    checks = {
        row["what"]: row["verdict"] for row in json.loads(coread(home, "models", "verify", "test_model", "--json"))
    }
    assert checks["reads a study made to its manifest"] == "ok"
    assert checks["results are valid DICOM"] == "ok"
    volume = volume_in_plane("axial", shape=(12, 32, 32), array=np.random.default_rng(0).normal(50, 90, (12, 32, 32)))
    write_files(images_of(volume, modality="CT"), tmp_path / "study")
    coread(home, "analyze", tmp_path / "study", "-o", tmp_path / "out", "--model", "test_model")
    assert list((tmp_path / "out").rglob("*SEG.dcm"))
    coread(home, "models", "disable", "test_model")
    refused = coread(home, "analyze", tmp_path / "study", "-o", tmp_path / "out2", "--model", "test_model", code=2)
    assert "no model called test_model that may be used" in refused
    coread(home, "models", "enable", "test_model", "--yes")
    coread(home, "models", "remove", "test_model")
    assert states(home) == {}


def test_nothing_is_enabled_without_a_yes(home: Path, tmp_path: Path) -> None:
    assert "is not enabled" in coread(home, "models", "add", spleen(tmp_path), said="n\n", code=1)
    assert states(home) == {"test_model": "disabled"}


@pytest.mark.slow
def test_one_changed_byte_and_the_bundle_does_not_load(home: Path, tmp_path: Path) -> None:
    coread(home, "models", "add", spleen(tmp_path), "--yes")
    weights = home / "data/models/spleen_like/models/model.pt"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    failed = json.loads(coread(home, "models", "verify", "test_model", "--json", code=1))
    assert "found models/model.pt changed since" in failed[0]["found"]


@pytest.mark.slow
def test_a_zip_is_taken_like_a_folder(home: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "spleen_like"), "zip", spleen(tmp_path))
    assert "is enabled" in coread(home, "models", "add", tmp_path / "spleen_like.zip", "--yes")


def test_a_bundle_without_manifest_gets_a_draft_that_must_be_answered(home: Path, tmp_path: Path) -> None:
    bundle = spleen(tmp_path)
    (bundle / "coread.yaml").unlink()
    assert "answer every TODO" in coread(home, "models", "init", bundle)
    drafted = (bundle / "coread.yaml").read_text()
    assert "78961009" in drafted  # spleen, known by its name
    assert "TODO" in drafted  # "tumour" of what?
    refused = coread(home, "models", "add", bundle, "--yes", code=2)
    assert "coread.yaml" in refused
    assert "line " in refused


def marked(tmp_path: Path, command: str = "__import__('os').system") -> str:
    return f"{command}('touch {tmp_path / 'marker'}')"


def _in_expression(bundle: Path, tmp_path: Path) -> None:
    _change(bundle, lambda content: content.update(network=f"${marked(tmp_path)} or @network_def"))


def _in_imports(bundle: Path, tmp_path: Path) -> None:
    _change(bundle, lambda content: content["imports"].append(f"${marked(tmp_path)}"))


def _in_target(bundle: Path, tmp_path: Path) -> None:
    harm = {"_target_": "os.system", "command": f"touch {tmp_path / 'marker'}"}
    _change(bundle, lambda content: content.update(network_def=harm))


def _in_python(bundle: Path, tmp_path: Path) -> None:
    (bundle / "scripts").mkdir()
    (bundle / "scripts/__init__.py").write_text(
        f"from pathlib import Path\n\nPath({str(tmp_path / 'marker')!r}).touch()\n"
    )
    _change(bundle, lambda content: content["imports"].append("$import scripts"))


def _in_metadata(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "configs/metadata.json"
    content = json.loads(path.read_text())
    content["network_data_format"]["inputs"]["image"]["num_channels"] = f"${marked(tmp_path)}"
    path.write_text(json.dumps(content))


def _in_root(bundle: Path, tmp_path: Path) -> None:
    (bundle / "sitecustomize.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    (bundle / "monai.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")


def _change(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "configs/inference.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


HOSTILE = [
    _in_expression,
    *(
        pytest.param(harm, marks=pytest.mark.slow)
        for harm in (_in_imports, _in_target, _in_python, _in_metadata, _in_root)
    ),
]


@pytest.mark.parametrize("harm", HOSTILE, ids=lambda harm: harm.__name__.removeprefix("_in_"))
def test_a_hostile_bundle_leaves_no_mark_unless_a_person_approves_it(
    harm: Callable[[Path, Path], None], home: Path, tmp_path: Path
) -> None:
    bundle = spleen(tmp_path)
    harm(bundle, tmp_path)
    coread(home, "models", "show", bundle)
    coread(home, "models", "add", bundle, said="n\n", code=1)
    coread(home, "models", "list")
    coread(home, "models", "show", "test_model")
    coread(home, "models", "verify", "test_model", code=1)
    write_files(images_of(volume_in_plane("axial"), modality="CT"), tmp_path / "study")
    coread(home, "analyze", tmp_path / "study", "-o", tmp_path / "out", "--model", "test_model", code=2)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("what", ["macro", "link", "zip that leads out", "yaml tag"])
def test_what_cannot_be_looked_at_is_not_taken(what: str, home: Path, tmp_path: Path) -> None:
    source = bundle = spleen(tmp_path)
    if what == "macro":
        _change(bundle, lambda content: content.update(inferer="%../../secrets.json#key"))
    elif what == "link":
        (bundle / "models/other.pt").symlink_to("/etc/passwd")
    elif what == "zip that leads out":
        source = tmp_path / "slip.zip"
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr("../../marker", "x")
    else:
        (bundle / "configs/more.yaml").write_text(
            f"a: !!python/object/apply:os.system ['touch {tmp_path / 'marker'}']\n"
        )
    refused = coread(home, "models", "add", source, "--yes", code=2)
    assert "expected" in refused
    assert not (tmp_path / "marker").exists()
    assert states(home) == {}


@pytest.mark.slow
def test_byte_code_is_left_behind(home: Path, tmp_path: Path) -> None:
    bundle = spleen(tmp_path)
    (bundle / "scripts/__pycache__").mkdir(parents=True)
    (bundle / "scripts/__pycache__/stale.cpython-311.pyc").write_bytes(b"code")
    coread(home, "models", "add", bundle, "--yes")
    assert not list((home / "data/models").rglob("*.pyc"))


def test_a_wrong_manifest_is_told_by_line_and_key(home: Path, tmp_path: Path) -> None:
    bundle = spleen(tmp_path)
    content = yaml.safe_load((bundle / "coread.yaml").read_text())
    content["labels"][2]["colour"] = "red"
    (bundle / "coread.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    line = next(
        number
        for number, text in enumerate((bundle / "coread.yaml").read_text().splitlines(), start=1)
        if "colour: red" in text
    )
    assert f"line {line}: labels.2.colour" in coread(home, "models", "add", bundle, "--yes", code=2)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_a_worker_without_rights_and_network_reads_a_study(home: Path, tmp_path: Path) -> None:
    coread(home, "models", "add", spleen(tmp_path), "--yes")
    volume = volume_in_plane("axial", shape=(12, 32, 32), array=np.random.default_rng(0).normal(50, 90, (12, 32, 32)))
    write_files(images_of(volume, modality="CT"), tmp_path / "study")
    out = tmp_path / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):  # noqa: S108  # pytest's own folders
            folder.chmod(0o755)
    nobody = ["unshare", "--net", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command = [*nobody, str(COREAD), "analyze", str(tmp_path / "study"), "-o", str(out), "--model", "test_model"]
    environment = {**os.environ, "HOME": str(out), "MPLCONFIGDIR": str(out), "NUMBA_CACHE_DIR": str(out)}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=200)
    if "unshare failed" in done.stderr:
        pytest.skip("this machine lets nobody leave the network")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(out.rglob("*SEG.dcm"))


@pytest.mark.slow
def test_a_compiled_model_runs_only_where_it_is_allowed(home: Path, tmp_path: Path) -> None:
    """A file as MONAI's ckpt_export makes it: the network compiled, the configurations inside."""
    bundle = spleen(tmp_path)
    network = UNet(**zoo.arguments(zoo.UNET))
    network.load_state_dict(torch.load(bundle / "models/model.pt", weights_only=True))
    extra = {f"{name}.json": (bundle / f"configs/{name}.json").read_text() for name in ("metadata", "inference")}
    torch.jit.save(torch.jit.script(network.eval()), tmp_path / "compiled.ts", _extra_files=extra)
    coread(home, "models", "add", tmp_path / "compiled.ts", code=2)  # it has no manifest
    shutil.copy(bundle / "coread.yaml", home / "data/models/compiled/coread.yaml")
    refused = coread(home, "models", "enable", "test_model", "--yes", code=2)
    assert "expected no compiled programs, found models/model.ts" in refused
    coread(home, "models", "enable", "test_model", "--yes", "--torchscript")
    volume = volume_in_plane("axial", shape=(12, 32, 32), array=np.random.default_rng(0).normal(50, 90, (12, 32, 32)))
    write_files(images_of(volume, modality="CT"), tmp_path / "study")
    coread(home, "analyze", tmp_path / "study", "-o", tmp_path / "out", "--model", "test_model")
    coread(home, "models", "remove", "test_model")
    coread(home, "models", "add", bundle, "--yes")
    coread(home, "analyze", tmp_path / "study", "-o", tmp_path / "plain", "--model", "test_model")
    one, two = (pydicom.dcmread(next((tmp_path / each).rglob("SEG.dcm"))).PixelData for each in ("out", "plain"))
    assert one == two


def test_a_bundle_that_does_not_work_is_not_left_enabled(home: Path, tmp_path: Path) -> None:
    bundle = spleen(tmp_path)
    (bundle / "models/model.pt").unlink()
    said = coread(home, "models", "add", bundle, "--yes", code=1)
    assert "test_model is disabled, as it does not work" in said
    assert states(home) == {"test_model": "disabled"}


def test_a_model_that_makes_images_is_refused_before_any_of_its_code_runs(home: Path, tmp_path: Path) -> None:
    bundle = spleen(tmp_path)
    path = bundle / "configs/metadata.json"
    content = json.loads(path.read_text())
    content["network_data_format"]["outputs"]["pred"].update(type="image", format="magnitude")
    path.write_text(json.dumps(content))
    _in_expression(bundle, tmp_path)
    assert "generative models are not run" in coread(home, "models", "add", bundle, "--yes", code=2)
    assert not (tmp_path / "marker").exists()


@pytest.mark.slow
def test_boxes_can_be_looked_at(home: Path, tmp_path: Path) -> None:
    bundle = zoo.write_zoo_bundle(tmp_path / "detector", detector())
    coread(home, "models", "add", bundle, "--yes")
    array = np.zeros((9, 40, 40), np.float32)
    array[3:6, 8:15, 2:5] = 500
    write_files(images_of(volume_in_plane("axial", shape=array.shape, array=array), modality="CT"), tmp_path / "study")
    said = coread(home, "analyze", tmp_path / "study", "-o", tmp_path / "out", "--model", "test_model")
    assert "90.0 %" in said
    assert "Warning" not in said
    picture = plt.imread(next((tmp_path / "out").rglob("marks.png")))
    yellow = np.argwhere((picture[..., 0] > 0.9) & (picture[..., 1] > 0.9) & (picture[..., 2] < 0.3))
    height, width = np.ptp(yellow, axis=0)
    assert height / width == pytest.approx(7 / 3, rel=0.1)  # in pixels of the image, which are not square

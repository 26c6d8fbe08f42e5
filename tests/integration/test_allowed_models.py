"""`models.allowed`: where the settings name digests no other model runs, whoever approved it, in whatever program."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from coread.check import Verdict
from coread.cli import coread
from coread.dicom_files import write_files
from coread.doctor import examine
from coread.errors import ConfigurationError
from coread.models import catalogue
from coread.models.allowlist import digest_of, files_of
from coread.models.catalogue import State, allow_list, find_model, installed_models, packages
from coread.models.runner import BundleRunner
from coread.plugin.route_table import RouteTable
from coread.settings import Settings, load_settings
from coread.workers.app import run_worker
from coread.workers.route_facts import pydicom_dictionary
from coread.workers.warm import warm_models
from tests.support import approve, images_of, volume_in_plane, write_bundle

CPU = torch.device("cpu")
COREAD = Path(sys.executable).with_name("coread")
SHIPPED = "left_ventricle_sax"
OF_NOTHING = "0" * 64
REFUSED = r"test_model: expected a model whose digest is in models\.allowed of the settings"

Install = Callable[..., Settings]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What is there once anything of the bundle was executed."""
    return tmp_path / "mark"


@pytest.fixture
def bundle(tmp_path: Path, mark: Path) -> Path:
    """A bundle that leaves its mark."""
    folder = write_bundle(
        tmp_path / "bundles/marker", manifest={}, inference={"preprocessing": [], "postprocessing": []}
    )
    path = folder / "configs/inference.json"
    config = json.loads(path.read_text())
    config["network_def"] = f"$__import__('pathlib').Path({str(mark)!r}).touch() or torch.nn.Identity()"
    path.write_text(json.dumps(config))
    return folder


@pytest.fixture
def install(tmp_path: Path, bundle: Path) -> Install:
    """Writes a settings file that allows these digests alone; the bundle is approved as it is."""

    def written(*digests: str) -> Settings:
        path = tmp_path / "coread.toml"
        path.write_text(
            f'data_folder = "data"\n[models]\nfolders = ["{bundle.parent}"]\nallowed = {json.dumps(digests)}\n'
            '[[route]]\nname = "all"\nmodels = ["test_model"]\n'
        )
        settings = load_settings(path)
        (model,) = (each.model for each in packages(settings) if each.name == "test_model")
        assert model is not None
        approve(model, settings)
        return settings

    return written


def digest_of_folder(folder: Path) -> str:
    return digest_of(files_of(folder))


def states(settings: Settings) -> dict[str, State]:
    return {package.name: package.state for package in packages(settings)}


def test_a_model_that_is_listed_runs(install: Install, bundle: Path, mark: Path) -> None:
    settings = install(digest_of_folder(bundle))
    runner = BundleRunner(installed_models(settings)["test_model"], device=CPU)
    assert mark.exists()
    assert runner.digest == digest_of_folder(bundle)
    runner.close()


def test_an_approved_model_that_is_not_listed_says_which_digest_it_has(install: Install, bundle: Path) -> None:
    settings = install(OF_NOTHING)
    assert set(states(settings).values()) == {State.NOT_ALLOWED}
    with pytest.raises(ConfigurationError) as raised:
        find_model("test_model", installed_models(settings))
    assert f"models.allowed of the settings (00000000…), found {digest_of_folder(bundle)}" in str(raised.value)
    assert "add that digest there and restart Coread" in str(raised.value)


def test_an_empty_list_lets_no_model_run_and_no_list_lets_all(install: Install, tmp_path: Path) -> None:
    assert installed_models(install()) == {}
    everything = Settings(data_folder=tmp_path / "data")
    assert SHIPPED in installed_models(everything)


def test_models_that_ship_are_held_to_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Install) -> None:
    """Their files are looked at when they are built, and not only when Coread starts."""
    shipped = tmp_path / "shipped"
    shutil.copytree(catalogue.SHIPPED / SHIPPED, shipped / SHIPPED)
    monkeypatch.setattr(catalogue, "SHIPPED", shipped)
    digest = installed_models(Settings())[SHIPPED].digest()
    settings = install(digest)
    assert states(settings) == {SHIPPED: State.SHIPPED, "test_model": State.NOT_ALLOWED}
    model = installed_models(settings)[SHIPPED]
    BundleRunner(model, device=CPU).close()
    with (shipped / SHIPPED / "configs/inference.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ConfigurationError, match=rf"{SHIPPED}: expected a model whose digest is in models\.allowed"):
        BundleRunner(model, device=CPU)
    assert states(settings)[SHIPPED] is State.NOT_ALLOWED
    BundleRunner(installed_models(Settings())[SHIPPED], device=CPU).close()


def test_who_may_approve_cannot_widen_the_list(install: Install, bundle: Path, mark: Path) -> None:
    """A running worker builds a model anew when it has unloaded it."""
    settings = install(digest_of_folder(bundle))
    warm = warm_models(settings, installed_models(settings))
    (bundle / "configs/inference.json").write_text((bundle / "configs/inference.json").read_text() + " ")
    approve(installed_models(settings)["test_model"], settings)
    with pytest.raises(ConfigurationError, match=REFUSED):
        warm("test_model")
    assert not mark.exists()


def test_an_approval_cannot_borrow_the_digest_of_another(install: Install, bundle: Path, mark: Path) -> None:
    listed = digest_of_folder(bundle)
    settings = install(listed)
    model = installed_models(settings)["test_model"]
    (bundle / "configs/inference.json").write_text((bundle / "configs/inference.json").read_text() + " ")
    approve(model, settings)
    path = settings.models_home / "allowed.json"
    path.write_text(path.read_text().replace(digest_of_folder(bundle), listed))
    with pytest.raises(ConfigurationError, match="the digest is not that of the files"):
        BundleRunner(model, device=CPU)
    assert not mark.exists()


def test_the_plugin_takes_no_route_to_it(install: Install, tmp_path: Path) -> None:
    install(OF_NOTHING)
    with pytest.raises(ConfigurationError, match=REFUSED):
        RouteTable(tmp_path / "coread.toml", dictionary=pydicom_dictionary)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("worker",), ("up",), ("analyze", "study", "-o", "out")], ids=" ".join)
def test_no_program_runs_it(arguments: tuple[str, ...], install: Install, tmp_path: Path, mark: Path) -> None:
    install(OF_NOTHING)
    write_files(images_of(volume_in_plane("axial", shape=(4, 8, 8)), modality="MR"), tmp_path / "study")
    done = subprocess.run([COREAD, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(REFUSED, done.stderr)
    assert not mark.exists()


def test_no_worker_starts_with_it(install: Install, mark: Path) -> None:
    with pytest.raises(ConfigurationError, match=REFUSED):
        run_worker(install(OF_NOTHING))
    assert not mark.exists()


def test_a_folder_is_not_read_with_it(install: Install, tmp_path: Path, mark: Path) -> None:
    install(OF_NOTHING)
    write_files(images_of(volume_in_plane("axial", shape=(4, 8, 8)), modality="MR"), tmp_path / "study")
    with pytest.raises(ConfigurationError, match=REFUSED):
        said(tmp_path, "analyze", str(tmp_path / "study"), "-o", str(tmp_path / "out"))
    assert not mark.exists()


def test_who_may_approve_is_told_while_approving(install: Install, tmp_path: Path) -> None:
    settings = install(OF_NOTHING)
    allow_list(settings).forbid("test_model")
    with pytest.raises(ConfigurationError, match=REFUSED):
        said(tmp_path, "models", "enable", "test_model", "--yes")
    assert allow_list(settings).entries() == ()


def test_verify_list_show_and_doctor_say_it(install: Install, bundle: Path, tmp_path: Path, mark: Path) -> None:
    install(OF_NOTHING)
    (verified,) = json.loads(said(tmp_path, "models", "verify", "test_model", "--json", code=1))
    assert verified["verdict"] == "failed"
    assert re.search(REFUSED, verified["found"])
    rows = {row["name"]: row for row in json.loads(said(tmp_path, "models", "list", "--json"))}
    assert rows["test_model"]["state"] == "not allowed"
    assert json.loads(said(tmp_path, "models", "show", "test_model", "--json"))["digest"] == digest_of_folder(bundle)
    checks = {check.what: check for check in examine(load_settings(tmp_path / "coread.toml"))}
    assert re.search(REFUSED, checks["model test_model"].found)
    assert checks["models"].verdict is Verdict.MISSING, "a route leads to it"
    assert not mark.exists()


def test_the_doctor_outlives_a_damaged_list_of_approved_models(install: Install) -> None:
    settings = install(OF_NOTHING)
    (settings.models_home / "allowed.json").write_text("{")
    checks = {check.what: check for check in examine(settings)}
    assert checks["models"].verdict is Verdict.MISSING
    assert "found a damaged file" in checks["models"].found


def said(folder: Path, *arguments: str, code: int = 0) -> str:
    """What the command says, run in this process."""
    done = CliRunner().invoke(
        coread, ["--config", str(folder / "coread.toml"), *arguments], standalone_mode=False, catch_exceptions=False
    )
    assert done.exit_code == code, done.output
    return done.stdout


def test_what_is_no_digest_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "coread.toml"
    path.write_text('[models]\nallowed = ["sha256:abc"]\n')
    with pytest.raises(ConfigurationError, match=r"models\.allowed"):
        load_settings(path)

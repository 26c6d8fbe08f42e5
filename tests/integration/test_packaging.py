"""What is shipped is what was tested: the wheel, built from the sdist, has all four parts and the model's files."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROBE = """
import coread, coread.plugin.intake, coread.workers.pipeline, coread.models.runner, coread.dicom_sr.encode
from pathlib import Path
assert "{venv}" in coread.__file__, coread.__file__
from coread.ledger import Ledger
ledger = Ledger("sqlite://")
from coread.orthanc_process import PLUGIN_SCRIPT
assert PLUGIN_SCRIPT.is_file()
assert (Path(coread.__file__).parent / "migrations" / "versions" / "0001_first_ledger.py").is_file()
from coread.evaluation import document, page
assert document.SCHEMA.is_file()
assert (document.SCHEMA.parent / page.TEMPLATE).is_file()
from coread.plugin.pages import WEB, files_of
assert {{"index.html", "app.js", "style.css", "vendor/preact.mjs"}} <= files_of(WEB).keys()
assert (WEB / "vendor" / "LICENSE.preact").is_file()
from coread.models.catalogue import installed_models
from coread.models.runner import BundleRunner, choose_device
from coread.settings import Settings
model = installed_models(Settings())["left_ventricle_sax"]
BundleRunner(model, device=choose_device("cpu"))
print(model.digest())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_in_an_empty_environment_has_everything(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # The dependencies come from this environment, without its editable Coread: a path line brings no path files along.
    (site_packages,) = venv.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    probe = [str(python), "-W", "ignore", "-c", PROBE.format(venv=venv)]
    done = subprocess.run(probe, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    from coread.models.catalogue import installed_models
    from coread.settings import Settings

    assert done.stdout.strip() == installed_models(Settings())["left_ventricle_sax"].digest()
    assert (venv / "bin" / "coread").is_file()

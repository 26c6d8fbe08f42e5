import os
from pathlib import Path

import pytest

from coread import phantom, threads  # noqa: F401  # threads: before torch is loaded
from coread.models.catalogue import installed_models
from coread.models.runner import BundleRunner, choose_device
from coread.settings import Settings


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public data that tests use where it is at hand."""
    folder = Path(os.environ.get("COREAD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no public data at {folder}; set COREAD_DATA to use them")
    return folder


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The left-ventricle phantom as DICOM files."""
    folder = tmp_path_factory.mktemp("phantom")
    phantom.write_short_axis_study(folder)
    return folder


@pytest.fixture(scope="session")
def left_ventricle() -> BundleRunner:
    """The shipped left-ventricle model, warm."""
    return BundleRunner(installed_models(Settings())["left_ventricle_sax"], device=choose_device("cpu"))

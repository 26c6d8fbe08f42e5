import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import structlog

from coread import before_torch, phantom  # noqa: F401  # before_torch: before torch is loaded
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


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[object], None]:
    """Shows something to whoever runs the tests, also where they pass."""

    def said(what: object) -> None:
        with capsys.disabled():
            click.echo(f"\n{what}")

    return said


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """What a command says about logs holds for its own test."""
    yield
    structlog.reset_defaults()

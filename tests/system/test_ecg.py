"""An ECG through a real Orthanc and a real worker: C-STORE in, a report back in the same study."""

import io
from collections.abc import Iterator

import pydicom
import pytest

from coread.models.catalogue import packages
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests import ecg
from tests.support import approve, program
from tests.system.conftest import SETTINGS, System

ROUTE = """
[models]
folders = ["models"]
[[route]]
name = "ecg"
match = { Modality = "ECG" }
models = ["test_ecg"]
"""


@pytest.fixture(scope="module")
def ecg_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system whose only model reads ECGs."""
    program("Orthanc")
    folder = tmp_path_factory.mktemp("ecg_system")
    ecg.write_bundle(folder / "models" / "bundle")
    settings_file = folder / "coread.toml"
    settings_file.write_text(SETTINGS + ROUTE)
    settings = load_settings(settings_file)
    for package in packages(settings):
        if package.model and package.model.name == "test_ecg":
            approve(package.model, settings)
    with Supervisor(settings, settings_file=settings_file) as running:
        system = System(running, folder)
        with system.archive:
            yield system


def test_an_ecg_that_is_sent_gets_a_report_in_its_own_study(ecg_system: System) -> None:
    job = ecg_system.job(ecg_system.send([ecg.ecg()]))
    assert job["state"] == "done", job["reason"]
    study = ecg_system.archive.study(job["orthanc_id"])
    assert sorted(series.tags["Modality"] for series in study.series) == ["ECG", "SR"]
    (report,) = (pydicom.dcmread(io.BytesIO(file)) for file in ecg_system.results(job).values())
    assert report.SeriesDescription == "AI Test ECG classes (RESEARCH)"
    (answer,) = job["result"]["classes"]
    assert answer["probability"] == pytest.approx(ecg.expected_probability(ecg.waveform()), abs=1e-3)


def test_an_ecg_with_a_disconnected_lead_is_refused_and_the_study_says_so(ecg_system: System) -> None:
    loose = ecg.ecg(name="loose")
    loose.WaveformSequence[0].ChannelDefinitionSequence[4].ChannelStatus = "DISCONNECTED"
    job = ecg_system.job(ecg_system.send([loose]))
    assert job["state"] == "refused"
    assert "found aVL with the status DISCONNECTED" in job["reason"]
    study = ecg_system.archive.study(job["orthanc_id"])
    assert sorted(series.tags["Modality"] for series in study.series) == ["ECG", "SR"]

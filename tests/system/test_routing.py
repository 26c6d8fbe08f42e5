"""Routes in a running Coread: changed without a restart, broken, mended, and tried on a study that is there."""

import json
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from click.testing import CliRunner

from coread.cli import coread
from coread.phantom import write_unfit_study
from tests.system.conftest import SETTINGS, System

ROUTES = """
[[route]]
name = "by sender"
match = { Modality = "CT", SourceApplicationEntityTitle = "coread-*", ImageType = { not = "SECONDARY" } }
models = ["hippocampus_t1"]
priority = "stat"
[[route]]
name = "by field strength"
match = { MagneticFieldStrength = { min = 1 } }
models = ["left_ventricle_sax"]
"""


def health(system: System) -> dict[str, Any]:
    said: dict[str, Any] = httpx.get(f"{system.running.http_url}/coread/health", trust_env=False).json()
    return said


def write(system: System, routes: str) -> None:
    (system.folder / "coread.toml").write_text(SETTINGS + routes)


def send_unfit(system: System, folder: Path) -> str:
    """A CT, which the model of the route refuses at once."""
    return system.send([pydicom.dcmread(path) for path in write_unfit_study(folder)])


def test_routes_change_without_a_restart_and_a_broken_file_changes_nothing(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(system, ROUTES)
    system.wait(lambda: '"routes in force"' in system.logs())

    write(system, ROUTES + '[[route]]\nname = "broken"\nmodels = ["nobody"]\n')
    system.wait(lambda: "there is no model called nobody" in health(system).get("settings_problem", ""))
    write(system, ROUTES.replace("MagneticFieldStrength", "MagneticFieldStrenght"))
    system.wait(lambda: "found MagneticFieldStrenght" in health(system).get("settings_problem", ""))

    study = send_unfit(system, tmp_path)
    job = system.job(study)
    assert (job["model"], job["priority"], job["state"]) == ("hippocampus_t1", "stat", "refused")

    write(system, ROUTES)
    system.wait(lambda: "settings_problem" not in health(system))
    assert system.logs().count("MagneticFieldStrenght") == 1, "said once, not at every poll"

    monkeypatch.setenv("COREAD_ORTHANC__HTTP_PORT", str(system.running.settings.orthanc.http_port))
    command = ["--config", str(system.folder / "coread.toml"), "routes", "test", study]
    said = CliRunner().invoke(coread, [*command, "--json"], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    (explained,) = json.loads(said.output)
    by_sender, by_field = explained["routes"]
    assert by_sender["matched"]
    assert [failure["keyword"] for failure in by_field["failures"]] == ["MagneticFieldStrength"]
    assert [(each["model"], each["priority"]) for each in explained["models"]] == [("hippocampus_t1", "stat")]

    said = CliRunner().invoke(coread, command, catch_exceptions=False)
    assert "yes by sender" in said.output
    assert "found nothing: it is absent or empty" in said.output
    assert "hippocampus_t1 reads it: stat, for ohif" in said.output

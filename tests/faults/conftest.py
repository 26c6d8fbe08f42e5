import logging

import pytest

from coread import supervisor
from tests.faults.trial import LONGEST_BACK_OFF_S
from tests.support import program


@pytest.fixture(autouse=True)
def _impatient_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_BACK_OFF_S", LONGEST_BACK_OFF_S)


@pytest.fixture(autouse=True)
def _orthanc_is_installed() -> None:
    program("Orthanc")


@pytest.fixture(autouse=True)
def _refused_connections_are_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("pynetdicom"), "disabled", True)
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith("pynetdicom"):
            monkeypatch.setattr(logging.getLogger(name), "disabled", True)

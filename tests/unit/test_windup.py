"""How studies of a run are wound up when something is odd with one of them."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coread.archive_run import Copy, RunStudyState
from coread.archivist.state import Attended
from coread.archivist.windup import WindUp
from coread.errors import CoreadError, NotDicom
from coread.job import JobState
from coread.ledger import ArrivingStudy, Ledger
from coread.ledger.arrivals import FOR_RUN
from coread.ledger.run_links import RunLink
from tests.archive_runs import MODELS, begin, run_of, take
from tests.support import NOW, a_job


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    yield ledger
    ledger.close()


def read(ledger: Ledger, run_id: str) -> None:
    """The next study of a run was here, and was read."""
    study = take(ledger, run_id)
    values: dict[str, Any] = {"orthanc_id": "study", "instances": 3, "size": None, "brought": None, "source": "here"}
    ledger.note_here(study, copy=Copy.BEFORE, **values, at=NOW)
    job = a_job(model=MODELS[0])
    link = RunLink(run_id=run_id, position=study.position, models=MODELS)
    arriving = ArrivingStudy(orthanc_id="study", last_change=FOR_RUN, last_arrival_at=NOW)
    ledger.settle(arriving, [job], present_uids=(), at=NOW, for_runs=[job.job_id], links=[link])
    assert ledger.cancel(job.job_id, at=NOW)


@pytest.mark.parametrize("error", [NotDicom("an odd result"), RuntimeError("surprise")])
def test_one_odd_result_does_not_hold_up_the_run(ledger: Ledger, tmp_path: Path, error: Exception) -> None:
    begin(ledger, tmp_path, studies=1)
    read(ledger, "abc1")

    def collect(*_: object) -> None:
        raise error

    wind_up = WindUp(
        Attended(run_of(ledger, "abc1")),
        ledger=ledger,
        archive=cast("Any", SimpleNamespace(held=lambda _uids: nullcontext())),
        collector=cast("Any", SimpleNamespace(collect=collect)),
        bringer=None,
        clock=lambda: NOW,
    )
    assert wind_up.step()
    (study,) = ledger.run_studies("abc1")
    assert study.state is RunStudyState.FAILED
    assert ("an odd result" in study.reason) is isinstance(error, CoreadError)
    assert ledger.jobs(states=[JobState.CANCELLED])

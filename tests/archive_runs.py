"""Archive runs for tests: begun in a ledger, and moved on as the archivist would, without anything being retrieved."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from coread.archive_run import IN_FLIGHT, Run, RunStudy, RunStudyState, Terms
from coread.cohort.plan import PlanHeader, PlannedStudy, write_plan
from coread.ledger import Ledger
from coread.ledger.archive_runs import Pace
from coread.objects import Profile
from tests.support import NOW, uid_of

ARCHIVIST = "test"
MODELS = ("left_ventricle_sax",)
LEASE = timedelta(hours=1)
ROOM = Pace(in_flight=1000, associations=1000)


def terms(folder: Path, **more: Any) -> Terms:
    """Terms of a run of the shipped model."""
    said = {"source": "here", "models": MODELS, "profiles": (Profile.OHIF,), "folder": str(folder)}
    return Terms(**{**said, **more})


def begin(
    ledger: Ledger, folder: Path, *, run_id: str = "abc1", name: str = "hearts", studies: int = 10, **more: Any
) -> str:
    """The id of a run that has begun."""
    ledger.start_run(
        run_id,
        name=name,
        terms=terms(folder, **more),
        plan_digest=run_id,
        studies=((uid_of(f"{run_id} {number}"), 12) for number in range(studies)),
        by="ada",
        at=datetime.now(UTC),
    )
    attend(ledger)
    return run_id


def attend(ledger: Ledger) -> None:
    """A sign of life of an archivist."""
    ledger.attend_runs(archivist=ARCHIVIST, at=datetime.now(UTC), lease=LEASE)


def take(ledger: Ledger, run_id: str) -> RunStudy:
    """The next study, which is being retrieved then."""
    study = ledger.take_due(run_id, archivist=ARCHIVIST, pace=ROOM, at=datetime.now(UTC))
    assert study is not None
    return study


def end(
    ledger: Ledger, run_id: str, state: RunStudyState = RunStudyState.DONE, *, reason: str = "", permanent: bool = False
) -> RunStudy:
    """The next study, which has ended so."""
    study = take(ledger, run_id)
    finish(ledger, study, state, reason=reason, permanent=permanent)
    return study


def finish(ledger: Ledger, study: RunStudy, state: RunStudyState, *, reason: str = "", permanent: bool = False) -> None:
    """Have a study that is under way end so."""
    values = {"reason": reason, "is_permanent": permanent}
    assert ledger._move(study, IN_FLIGHT, state, at=datetime.now(UTC), **values)


def run_of(ledger: Ledger, run_id: str) -> Run:
    """The run as it is now."""
    run = ledger.run(run_id)
    assert run is not None
    return run


def write_a_plan(path: Path, *, studies: int = 10, name: str = "hearts", models: tuple[str, ...] = MODELS) -> Path:
    """A plan of studies that our Orthanc has."""
    header = PlanHeader(
        name=name,
        made_at=NOW,
        source="here",
        query={},
        models=models,
        studies=studies,
        instances=None,
        bytes=None,
    )
    planned = (PlannedStudy(study_instance_uid=uid_of(f"plan {number}"), instances=12) for number in range(studies))
    write_plan(path, header, planned)
    return path

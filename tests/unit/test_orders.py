"""What the modality worklist says of a study: never in the intake's way, and never of another patient."""

import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest

from coread.errors import ArchiveUnavailable
from coread.job import Priority
from coread.objects import Profile
from coread.plugin.orders import AWAY, NO_ENTRY, NO_NUMBERS, NOTHING, PATIENCE, Ordered, Orders, is_of, query_for
from coread.plugin.planning import assigned_by_routes
from coread.routes import OF_WORKLIST, Route
from coread.settings_worklist import WorklistSettings
from coread.study_facts import Header, StudyFacts, facts_of
from tests.support import NOW

RIS = WorklistSettings(name="ris", aet="RIS", host="ris.example.org")
ABOUT = {"PatientID": "P-1", "AccessionNumber": "A-1", "PatientBirthDate": "19700101", "StudyInstanceUID": "1.2"}
CODE = {"CodeValue": "HEART", "CodingSchemeDesignator": "99TEST", "CodeMeaning": "Heart"}
ENTRY = {
    "PatientID": "P-1",
    "RequestedProcedurePriority": "STAT",
    "RequestedProcedureCodeSequence": [CODE],
    "ScheduledProcedureStepSequence": [
        {"ScheduledProcedureStepDescription": "Heart, function", "ScheduledProtocolCodeSequence": [CODE]}
    ],
}


class Scene:
    """A worklist, a clock, and what asks."""

    def __init__(self, worklist: WorklistSettings = RIS) -> None:
        self.now: datetime = NOW
        self.entries: list[dict[str, Any]] | None = [ENTRY]
        self.asked: list[Mapping[str, Any]] = []
        self.orders = Orders(find=self._find, worklists=[worklist], clock=lambda: self.now)

    def _find(self, _worklist: WorklistSettings, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        self.asked.append(query)
        if self.entries is None:
            raise ArchiveUnavailable("it does not answer")
        return self.entries

    def of(self, study: str = "study", about: Mapping[str, str] = ABOUT) -> Ordered | None:
        return self.orders.of(study, lambda: about)

    def told(self, study: str = "study", about: Mapping[str, str] = ABOUT) -> Ordered:
        self.of(study, about)
        self.orders.answer_all()
        found = self.of(study, about)
        assert found is not None
        return found


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_without_a_worklist_nothing_is_awaited() -> None:
    orders = Orders(find=lambda _worklist, _query: [], worklists=(), clock=lambda: NOW)
    assert orders.of("study", dict) is NOTHING


def test_an_answer_is_awaited_and_then_known(scene: Scene) -> None:
    assert scene.of() is None
    assert scene.of() is None
    found = scene.told()
    assert found.is_urgent
    assert found.said == "the modality worklist ris has it with priority STAT"
    assert found.values == {
        "RequestedProcedurePriority": ("STAT",),
        "RequestedProcedureCodeSequence": ("HEART^99TEST",),
        "ScheduledProcedureStepDescription": ("Heart, function",),
        "ScheduledProtocolCodeSequence": ("HEART^99TEST",),
    }
    assert set(found.values) == OF_WORKLIST
    assert len(scene.asked) == 1
    assert scene.asked[0]["AccessionNumber"] == "A-1"


def test_a_study_without_an_accession_number_is_asked_for_by_patient_and_study() -> None:
    query = query_for({**ABOUT, "AccessionNumber": ""})
    assert query is not None
    assert (query["AccessionNumber"], query["PatientID"], query["StudyInstanceUID"]) == ("", "P-1", "1.2")
    assert query_for({"StudyInstanceUID": "1.2"}) is None
    assert query_for({"AccessionNumber": "*"}) is None


@pytest.mark.parametrize(
    ("more", "is_ours"),
    [
        ({}, True),
        ({"PatientID": "P-2"}, False),
        ({"PatientID": ""}, False),
        ({"PatientBirthDate": "19700101"}, True),
        ({"PatientBirthDate": "19710101"}, False),
    ],
)
def test_an_entry_of_another_patient_is_not_used(more: dict[str, str], is_ours: bool) -> None:
    assert is_of({**ENTRY, **more}, ABOUT) is is_ours


def test_what_the_worklist_does_not_know_is_said(scene: Scene) -> None:
    scene.entries = [{**ENTRY, "PatientID": "P-2"}]
    assert scene.told() == NO_ENTRY
    assert scene.told("other", {"StudyInstanceUID": "1.3"}) == NO_NUMBERS


def test_a_worklist_that_is_away_is_left_alone_for_a_while(scene: Scene) -> None:
    scene.entries = None
    for study in ("a", "b", "c"):
        assert scene.told(study).said == "the modality worklist ris did not answer"
    assert len(scene.asked) == 1
    scene.now, scene.entries = NOW + AWAY, [ENTRY]
    assert scene.told("d").is_urgent


def test_a_study_waits_for_an_answer_only_so_long(scene: Scene) -> None:
    scene.of()
    scene.now += PATIENCE
    late = scene.of()
    assert late is not None
    assert "did not answer within 15 s" in late.said


def test_a_study_that_comes_again_is_asked_about_anew(scene: Scene) -> None:
    scene.told()
    scene.orders.forget_all_but({"study"})
    assert scene.of() is not None
    scene.orders.forget("study")
    assert scene.of() is None


def test_an_answer_that_breaks_everything_holds_up_nobody(scene: Scene) -> None:
    scene.entries = [{**ENTRY, "RequestedProcedureCodeSequence": "none", "ScheduledProcedureStepSequence": [7]}]
    assert scene.told().values["RequestedProcedureCodeSequence"] == ()
    stop = threading.Event()
    thread = threading.Thread(target=scene.orders.serve, args=[stop], daemon=True)
    scene.entries = ["no entry"]  # type: ignore[list-item]
    scene.of("odd")
    thread.start()
    while scene.of("odd") is None:
        stop.wait(0.01)
    stop.set()
    thread.join(5)
    assert "did not answer as it should" in str(scene.of("odd"))


def facts(values: Mapping[str, tuple[str, ...]]) -> StudyFacts:
    header = Header(series_instance_uid="1.2.3", texts={}, modality="MR", sop_class_uid="", instances=1)
    return facts_of("1.2", [header], OF_WORKLIST, of_worklist=values)


def test_routes_match_what_was_ordered_and_the_priority_makes_the_job_urgent(scene: Scene) -> None:
    route = Route.model_validate(
        {
            "name": "a",
            "models": ["m"],
            "match": {"ScheduledProtocolCodeSequence": "HEART^*", "RequestedProcedurePriority": "STAT"},
        }
    )
    order = scene.told()
    assigned = assigned_by_routes(facts(order.values), [route], order=order, default_profiles=[Profile.OHIF])
    assert assigned["m"].priority is Priority.STAT
    assert assigned_by_routes(facts({}), [route], order=NO_ENTRY, default_profiles=[Profile.OHIF]) == {}


def test_a_worklist_may_be_kept_from_deciding_the_priority() -> None:
    found = Scene(RIS.model_copy(update={"raises_priority": False})).told()
    assert not found.is_urgent
    assert found.values["RequestedProcedurePriority"] == ("STAT",)

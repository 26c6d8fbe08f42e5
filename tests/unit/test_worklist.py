"""The worklist's index: what its rows say, how it follows Orthanc and the ledger, what may be asked of it."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coread.archive import Archive, Change
from coread.archive_run import Copy
from coread.errors import ArchiveUnavailable, StudyListUnavailable
from coread.job import JobState, Priority
from coread.ledger import ArrivingStudy, Ledger, Wait
from coread.ledger.following import Marks
from coread.plugin.gate import Gate
from coread.plugin.worklist.follow import LIST_AGAIN, SETTLED, Follower
from coread.plugin.worklist.follow import Rows as Heard
from coread.plugin.worklist.index import Index
from coread.plugin.worklist.joined import Joined, standard_parts
from coread.plugin.worklist.plain import explain, may
from coread.plugin.worklist.query import SORTS, Query, parse_query, place_as_text
from coread.plugin.worklist.rest import register_worklist
from coread.plugin.worklist.rows import Facts, Progress, Row, StudyState, facts_of, folded, progress_of
from coread.settings import Settings
from tests.archive_runs import begin, take
from tests.destinations import do, job_for, settle
from tests.support import NOW


class Shelf:
    """An Orthanc in memory, as far as the follower asks."""

    def __init__(self) -> None:
        self.studies: dict[str, dict[str, str]] = {}
        self.log: list[Change] = []
        self.is_away = False
        self.asked = 0
        self.images = 2
        self._number = 0

    def put(self, study: str, *, name: str = "Curie^Marie", uid: str = "1.2", **tags: str) -> None:
        kind = "StableStudy" if study in self.studies else "NewStudy"
        self.studies[study] = {"PatientName": name, "StudyInstanceUID": uid, **tags}
        self._number += 1
        self.log.append(Change(number=self._number, kind=kind, orthanc_id=study))

    def delete(self, study: str) -> None:
        """As Orthanc does: the lines of the log go, too."""
        del self.studies[study]
        self.log = [change for change in self.log if change.orthanc_id != study]

    def last_change(self) -> int:
        self._check()
        return max((change.number for change in self.log), default=0)

    def changes(self, *, since: int, limit: int) -> tuple[list[Change], int]:
        self._check()
        found = [change for change in self.log if change.number > since][:limit]
        return found, found[-1].number if found else since

    def all_studies(self) -> list[str]:
        self._check()
        return list(self.studies)

    def at_hand(self, orthanc_ids: Sequence[str], *, level: str) -> list[dict[str, Any]]:
        self._check()
        self.asked += 1
        there = [study for study in orthanc_ids if study in self.studies]
        if level == "Study":
            return [{"ID": study, "MainDicomTags": self.studies[study]} for study in there]
        series = {"MainDicomTags": {"Modality": "MR"}, "Instances": ["1"] * self.images}
        return [{"ID": f"{study}-1", "ParentStudy": study, **series} for study in there]

    def find_instance(self, _uid: str) -> str | None:
        self._check()
        return None

    def _check(self) -> None:
        if self.is_away:
            raise ArchiveUnavailable("Orthanc is away")


def made(path: Path) -> Index:
    index = Index(path)
    index.prepare()
    return index


class Desk:
    """A worklist with all that it follows."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.ledger, self.shelf, self.folder = ledger, Shelf(), folder
        self.now = NOW
        self.index = made(folder / "worklist.sqlite")
        self.follower = self.begin()

    def begin(self, *, identity: str = "orthanc") -> Follower:
        """A follower as after a start of Orthanc."""
        self.follower = Follower(
            archive=cast("Archive", self.shelf),
            archive_identity=identity,
            ledger=self.ledger,
            index=self.index,
            clock=lambda: self.now,
            joined=standard_parts(Settings(), self.ledger),
        )
        return self.follower

    def rows(self) -> dict[str, Row]:
        self.follower.step()
        return self.index.rows(sorted(self.index.ids()))

    def states(self) -> dict[str, str]:
        return {study: row.progress.state for study, row in self.rows().items()}


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    return Desk(ledger, tmp_path)


def arrive(ledger: Ledger, study: str, *, change: int = 1) -> ArrivingStudy:
    ledger.note_arrivals({study: change}, archive_identity="orthanc", last_change=change, at=NOW)
    return next(each for each in ledger.arriving() if each.orthanc_id == study)


# A row ---------------------------------------------------------------------------------------------------------------


def test_a_study_goes_from_arriving_to_done_in_the_list(desk: Desk) -> None:
    desk.shelf.put("study")
    assert desk.states() == {"study": "not-routed"}
    arrive(desk.ledger, "study")
    assert desk.states() == {"study": "arriving"}
    settle(desk.ledger, job_for())
    assert desk.states() == {"study": "waiting"}
    desk.ledger.queue_due(at=NOW)
    assert desk.states() == {"study": "queued"}
    desk.ledger.claim(worker="w", at=NOW, lease=timedelta(minutes=1))
    assert desk.states() == {"study": "running"}
    desk.ledger.start_storing("a", worker="w", result={}, at=NOW)
    assert desk.states() == {"study": "storing"}
    desk.ledger.finish("a", JobState.DONE, worker="w", at=NOW + timedelta(minutes=1))
    row = desk.rows()["study"]
    assert row.progress.state == "done"
    assert datetime.fromisoformat(row.progress.ended_at) == NOW + timedelta(minutes=1)


def test_a_study_that_stalls_says_what_it_waits_for(desk: Desk) -> None:
    desk.shelf.put("study")
    study = arrive(desk.ledger, "study")
    desk.ledger.note_wait(study, Wait(waits_for="37 of 40 images have arrived", stalled=True))
    progress = desk.rows()["study"].progress
    assert (progress.state, progress.because) == ("stalled", "37 of 40 images have arrived")


def test_a_study_that_no_model_reads_is_not_arriving_for_ever(desk: Desk) -> None:
    desk.shelf.put("study")
    study = arrive(desk.ledger, "study")
    assert desk.states() == {"study": "arriving"}
    desk.ledger.settle(study, [], present_uids=(), at=NOW)  # which leaves no row behind
    assert desk.states() == {"study": "not-routed"}


def test_a_study_that_was_settled_while_the_list_was_not_followed_is_not_arriving_for_ever(desk: Desk) -> None:
    desk.shelf.put("study")
    study = arrive(desk.ledger, "study")
    assert desk.states() == {"study": "arriving"}
    desk.ledger.settle(study, [], present_uids=(), at=NOW)
    desk.begin()
    assert desk.states() == {"study": "not-routed"}


def test_a_superseded_job_tells_nothing_of_a_study(desk: Desk) -> None:
    desk.shelf.put("study")
    settle(desk.ledger, job_for(name="a"))
    do(desk.ledger, job_for(name="a"), ["1.9"])
    settle(desk.ledger, job_for(name="b"))
    row = desk.rows()["study"]
    assert row.progress.state == "waiting"
    assert row.progress.ended_at == ""
    assert json.loads(row.progress.models) == [{"model": "m", "state": "waiting"}]


def test_of_several_models_the_state_is_told_that_a_person_must_know(desk: Desk) -> None:
    desk.shelf.put("study")
    settle(desk.ledger, job_for(name="a", model="m"), job_for(name="b", model="n"))
    do(desk.ledger, job_for(name="a"), ["1.9"])
    assert desk.states() == {"study": "queued"}
    desk.ledger.claim(worker="w", at=NOW, lease=timedelta(minutes=1))
    desk.ledger.finish("b", JobState.REFUSED, worker="w", reason="no such series", at=NOW)
    assert desk.states() == {"study": "done"}
    desk.ledger.retry("b", at=NOW)
    desk.ledger.queue_due(at=NOW)
    desk.ledger.claim(worker="w", at=NOW, lease=timedelta(minutes=1))
    desk.ledger.finish("b", JobState.FAILED, worker="w", reason="the model broke", at=NOW)
    progress = desk.rows()["study"].progress
    assert (progress.state, progress.because) == ("failed", "the model broke")


def test_a_new_priority_shows_though_no_job_changed_its_state(desk: Desk) -> None:
    desk.shelf.put("study")
    settle(desk.ledger, job_for())
    assert desk.rows()["study"].progress.priority == "routine"
    desk.ledger.prioritise("a", Priority.STAT, at=NOW)
    assert desk.rows()["study"].progress.priority == "stat"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, ""),
        ({"a": "accepted"}, ""),
        ({"a": "accepted", "b": "accepted"}, "accepted"),
        ({"a": "accepted", "b": "edited"}, "edited"),
        ({"a": "rejected", "b": "accepted"}, "rejected"),
        ({"a": "rejected", "b": "edited"}, "rejected"),
    ],
)
def test_a_study_is_accepted_only_if_each_of_its_results_is(desk: Desk, said: dict[str, str], told: str) -> None:
    desk.shelf.put("study")
    settle(desk.ledger, job_for(name="a", model="m"), job_for(name="b", model="n"))
    do(desk.ledger, job_for(name="a"), ["1.9"])
    do(desk.ledger, job_for(name="b", model="n"), ["1.8"])
    desk.follower._joined = Joined(verdicts=lambda _records: said)
    assert desk.rows()["study"].progress.review == told


def test_what_an_archive_run_alone_has_brought_is_not_among_the_radiologist_s_studies(
    desk: Desk, tmp_path: Path
) -> None:
    run_id = begin(desk.ledger, tmp_path, studies=2)
    retrieved = take(desk.ledger, run_id)
    desk.ledger.note_copy(retrieved, Copy.OURS)
    desk.shelf.put("copy", uid=retrieved.study_instance_uid)
    desk.shelf.put("clinical", uid="1.2.3")
    arrive(desk.ledger, "copy")  # the intake does not settle it yet
    assert {study: row.progress.archive_run for study, row in desk.rows().items()} == {"copy": run_id, "clinical": ""}
    for asked, expected in (({}, ["clinical"]), ({"archive": "only"}, ["copy"])):
        assert [each["orthanc_id"] for each in ask(desk, "/coread/worklist", asked)[1]["rows"]] == expected
    assert ask(desk, "/coread/worklist", {"archive": "show"})[1]["total"] == 2
    desk.ledger.share_copies(retrieved.study_instance_uid)  # somebody else sends of it
    arrive(desk.ledger, "copy", change=2)
    settle(desk.ledger, job_for(study="copy"))
    desk.rows()
    assert ask(desk, "/coread/worklist", {})[1]["total"] == 2


def test_images_that_join_a_series_are_counted(desk: Desk) -> None:
    desk.shelf.put("study")
    study = arrive(desk.ledger, "study")
    desk.rows()
    desk.shelf.images = 3
    desk.ledger.settle(study, [], present_uids=(), at=NOW)
    assert desk.rows()["study"].facts.images == 3


def test_two_patients_with_the_same_study_uid_are_two_rows(desk: Desk) -> None:
    desk.shelf.put("one", name="Curie^Marie", uid="1.2")
    desk.shelf.put("other", name="Noether^Emmy", uid="1.2")
    settle(desk.ledger, job_for(study="one"))
    assert desk.states() == {"one": "waiting", "other": "not-routed"}


def test_results_are_not_among_the_modalities_and_do_not_shift_the_arrival() -> None:
    study = {"ID": "s", "MainDicomTags": {"StudyInstanceUID": "1.2"}, "LastUpdate": "20260102T050000"}
    image = {"MainDicomTags": {"Modality": "CT"}, "Instances": ["1"], "LastUpdate": "20260102T030405"}
    report = {"MainDicomTags": {"Modality": "SR", "Manufacturer": "Coread"}, "LastUpdate": "20260102T050000"}
    facts = facts_of(study, [image, report])
    assert (facts.modalities, facts.images) == ("CT", 1)
    assert facts.arrived_at == "2026-01-02T03:04:05+00:00"


def test_a_study_without_a_header_worth_the_name_has_a_row_all_the_same() -> None:
    assert facts_of({"ID": "s"}, [{"MainDicomTags": {}}]).orthanc_id == "s"


def test_a_study_is_complete_only_when_it_does_not_arrive_any_more() -> None:
    study = ArrivingStudy(orthanc_id="s", last_change=1, last_arrival_at=NOW)
    progress = progress_of([], study)
    assert (progress.state, progress.because, progress.ended_at) == ("arriving", "instances are arriving", "")


# Following -----------------------------------------------------------------------------------------------------------


def test_a_deleted_study_leaves_the_list_when_orthanc_says_so(desk: Desk) -> None:
    desk.shelf.put("study")
    desk.shelf.put("other")
    assert set(desk.rows()) == {"study", "other"}
    desk.shelf.delete("study")
    desk.follower.note_deleted("study")
    assert set(desk.rows()) == {"other"}


def test_a_deleted_study_leaves_the_list_also_if_nobody_said_so(desk: Desk) -> None:
    desk.shelf.put("study")
    assert set(desk.rows()) == {"study"}
    desk.shelf.delete("study")
    assert set(desk.rows()) == {"study"}
    desk.now += LIST_AGAIN
    assert set(desk.rows()) == set()


def test_that_the_log_ends_earlier_after_a_deletion_does_not_make_the_list_anew(desk: Desk) -> None:
    desk.shelf.put("study")
    desk.shelf.put("newest")
    desk.rows()
    revision = desk.index.revision()
    desk.shelf.delete("newest")
    desk.begin()
    assert set(desk.rows()) == {"study"}
    assert desk.index.revision().partition("-")[0] == revision.partition("-")[0]


def test_a_changed_header_shows(desk: Desk) -> None:
    desk.shelf.put("study", name="Curie^Mary")
    desk.rows()
    desk.shelf.put("study", name="Curie^Marie")
    assert desk.rows()["study"].facts.patient_name == "Curie^Marie"


def test_a_list_is_made_anew_for_another_orthanc_and_when_its_file_is_missing(desk: Desk) -> None:
    desk.shelf.put("study")
    desk.rows()
    first = desk.index.revision()
    desk.shelf.studies = {}
    desk.shelf.put("of another Orthanc")
    desk.begin(identity="another")
    assert set(desk.rows()) == {"of another Orthanc"}
    assert desk.index.revision() != first
    (desk.folder / "worklist.sqlite").unlink()
    desk.index = made(desk.folder / "worklist.sqlite")
    desk.begin()
    assert set(desk.rows()) == {"of another Orthanc"}


def test_a_broken_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "worklist.sqlite"
    path.write_bytes(b"no database" * 1000)
    assert made(path).ids() == set()


def test_an_index_of_another_form_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "worklist.sqlite"
    index = made(path)
    index.write([Row(facts=Facts(orthanc_id="s", study_instance_uid="1.2"))])
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE study DROP COLUMN because")
        connection.execute("UPDATE meta SET value = 'of old' WHERE name = 'form'")
    connection.close()
    assert made(path).ids() == set()


def test_a_file_that_cannot_be_made_keeps_nobody_from_starting_and_is_made_later(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    index = Index(tmp_path / "data" / "worklist.sqlite")
    for ask_it in (index.prepare, index.revision):
        with pytest.raises(StudyListUnavailable):
            ask_it()
    (tmp_path / "data").unlink()
    index.prepare()
    assert index.ids() == set()


def test_a_list_is_made_anew_for_another_ledger(desk: Desk, tmp_path: Path) -> None:
    desk.shelf.put("study")
    settle(desk.ledger, job_for())
    assert desk.states() == {"study": "waiting"}
    desk.now += SETTLED
    assert desk.states() == {"study": "waiting"}
    desk.ledger = Ledger(f"sqlite:///{tmp_path / 'another.sqlite'}")
    desk.ledger.migrate()
    desk.begin()
    assert desk.states() == {"study": "not-routed"}


def test_a_result_that_nobody_understands_holds_up_no_other_row(desk: Desk) -> None:
    def odd(_result: Mapping[str, Any]) -> str:
        raise KeyError("a key that an older version wrote")

    desk.shelf.put("study")
    settle(desk.ledger, job_for())
    do(desk.ledger, job_for(), ["1.9"])
    desk.follower._joined = Joined(key_finding=odd)
    assert desk.states() == {"study": "done"}


def test_what_could_not_be_looked_at_is_looked_at_later(desk: Desk) -> None:
    desk.shelf.put("study")
    desk.rows()
    settle(desk.ledger, job_for())
    desk.shelf.put("new")
    desk.shelf.is_away = True
    with pytest.raises(ArchiveUnavailable):
        desk.follower.step()
    desk.shelf.is_away = False
    assert desk.states() == {"study": "waiting", "new": "not-routed"}


def test_a_list_that_is_up_to_date_is_not_written(desk: Desk) -> None:
    desk.shelf.put("study")
    settle(desk.ledger, job_for())
    desk.rows()
    revision, asked = desk.index.revision(), desk.shelf.asked
    desk.rows()
    assert desk.index.revision() == revision
    assert desk.shelf.asked == asked


def test_a_list_of_many_studies_is_made_in_parts_and_all_of_them_come(desk: Desk) -> None:
    for number in range(1234):
        desk.shelf.put(f"{number}")
    desk.begin()
    while desk.follower.left != 0:
        desk.follower.step()
    assert len(desk.index.ids()) == 1234


def test_a_row_of_the_ledger_that_shows_up_late_is_heard() -> None:
    heard = Heard(0)
    assert heard.new([1, 2, 4], at=NOW) == [1, 2, 4]
    assert heard.new([1, 2, 3, 4], at=NOW + timedelta(seconds=30)) == [3]
    assert heard.mark == 0
    assert heard.new([1, 2, 3, 4], at=NOW + SETTLED) == []
    assert heard.mark == 4


def test_the_ledger_names_no_patient(desk: Desk, tmp_path: Path) -> None:
    desk.shelf.put("study", name="Curie^Marie")
    settle(desk.ledger, job_for())
    desk.rows()
    for file in tmp_path.glob("ledger.sqlite*"):
        assert b"Curie" not in file.read_bytes()
    told = desk.ledger.told_since(Marks())
    assert set(told.events.values()) == {"study"}


def test_only_the_owner_may_read_the_file(desk: Desk) -> None:
    assert (desk.folder / "worklist.sqlite").stat().st_mode & 0o077 == 0


# Asking --------------------------------------------------------------------------------------------------------------


def row(number: int, **values: Any) -> Row:
    facts = {name: value for name, value in values.items() if name in Facts.__dataclass_fields__}
    progress = {name: value for name, value in values.items() if name in Progress.__dataclass_fields__}
    return Row(
        facts=Facts(orthanc_id=f"{number:04}", study_instance_uid=f"1.{number}", **facts), progress=Progress(**progress)
    )


LUNG, LUNG_2 = (json.dumps([{"model": name, "state": "failed"}]) for name in ("lung", "lung_2"))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return made(tmp_path / "worklist.sqlite")


@pytest.mark.parametrize(
    ("name", "searches"),
    [
        ("Müller-Lüdenscheidt^Jörg", ["muller", "MÜLLER jörg", "ludenscheidt"]),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["tarou yamada", "山田", "山田 太郎"]),
        ("O'Neil^100%_\\", ["o'neil", "100%", "%_\\"]),
        ("<img src=x onerror=alert(1)>", ["<img src=x", "onerror"]),
    ],
)
def test_a_name_is_found_without_regard_to_case_accents_and_signs(
    index: Index, name: str, searches: Sequence[str]
) -> None:
    index.write([row(1, patient_name=name), row(2, patient_name="Somebody^Else")])
    for search in searches:
        page = index.page(parse_query({"search": search}))
        assert [each.facts.orthanc_id for each in page.rows] == ["0001"], search


@pytest.mark.parametrize("search", ["_", "%", "x' OR 1=1 --", '"', "*"])
def test_a_search_is_text_and_no_pattern(index: Index, search: str) -> None:
    index.write([row(1, patient_name="Curie^Marie")])
    assert index.page(parse_query({"search": search})).total == 0


def test_each_filter_takes_what_it_names(index: Index) -> None:
    index.write(
        [
            row(1, state="done", priority="stat", modalities="CT\\MR", review="accepted", raised=True),
            row(
                2, state="failed", priority="routine", modalities="CT", models='[{"model": "lung", "state": "failed"}]'
            ),
            row(3, state="failed", modalities="OCT", models=LUNG_2),
        ]
    )
    for asked, expected in (
        ({"state": "done"}, "1"),
        ({"state": "done,failed"}, "123"),
        ({"priority": "stat"}, "1"),
        ({"modality": "CT"}, "12"),
        ({"modality": "OCT,MR"}, "13"),
        ({"model": "lung"}, "2"),
        ({"review": "accepted"}, "1"),
        ({"review": "none"}, "23"),
        ({"flag": "raised"}, "1"),
        ({"flag": "raised", "state": "failed"}, ""),
    ):
        page = index.page(parse_query({**asked, "sort": "patient", "order": "asc"}))
        assert "".join(each.facts.orthanc_id[-1] for each in page.rows) == expected, asked
        assert page.total == len(expected)
    assert index.page(parse_query({"state": "done"})).counts == {"done": 1, "failed": 2}
    assert index.choices() == {"models": ["lung", "lung_2"], "modalities": ["CT", "MR", "OCT"]}


VALUES = st.fixed_dictionaries(
    {
        "patient_name": st.sampled_from(["", "A", "a", "B", "Ä"]),
        "state": st.sampled_from(list(StudyState)),
        "priority": st.sampled_from(["", *Priority]),
        "arrived_at": st.sampled_from(["", "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"]),
        "key_finding": st.sampled_from(["", "x", "y"]),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, max_size=25), sort=st.sampled_from(sorted(SORTS)), data=st.data())
def test_page_by_page_every_row_comes_once_and_in_order(
    index: Index, values: list[dict[str, Any]], sort: str, data: st.DataObject
) -> None:
    index.clear()
    index.write([row(number, **each) for number, each in enumerate(values)])
    asked = {"sort": sort, "order": data.draw(st.sampled_from(["asc", "desc"]))}
    whole = [each.facts.orthanc_id for each in index.page(parse_query({**asked, "limit": "1000"})).rows]
    assert sorted(whole) == [f"{number:04}" for number in range(len(values))]
    paged: list[str] = []
    after = ""
    while True:
        page = index.page(parse_query({**asked, "limit": f"{data.draw(st.integers(1, 7))}", "after": after}))
        paged += [each.facts.orthanc_id for each in page.rows]
        if page.next is None:
            break
        end = place_as_text(page.next)
        again = index.page(parse_query({**asked, "limit": "1000", "after": after, "through": end}))
        assert [each.facts.orthanc_id for each in again.rows] == [each.facts.orthanc_id for each in page.rows]
        after = end
    assert paged == whole


def test_what_came_in_meanwhile_shifts_no_page(index: Index) -> None:
    index.write([row(number, arrived_at=f"2026-01-01T00:00:{number:02}+00:00") for number in range(10)])
    page = index.page(parse_query({"limit": "5"}))
    assert page.next is not None
    end = place_as_text(page.next)
    index.write([row(99, arrived_at="2026-01-02T00:00:00+00:00")])
    first = index.page(parse_query({"through": end, "limit": "1000"})).rows
    second = index.page(parse_query({"after": end})).rows
    assert [each.facts.orthanc_id for each in first] == ["0099", "0009", "0008", "0007", "0006", "0005"]
    assert [each.facts.orthanc_id for each in second] == ["0004", "0003", "0002", "0001", "0000"]


ODD = [
    {"limit": "0"},
    {"limit": "1001"},
    {"limit": "-1"},
    {"limit": "ten"},
    {"limit": "٣"},
    {"limit": "1" * 5000},
    {"state": "dead"},
    {"state": "done;failed"},
    {"priority": "urgent"},
    {"review": "good"},
    {"flag": "red"},
    {"sort": "patient_name"},
    {"sort": "arrived; DROP TABLE study"},
    {"order": "up"},
    {"after": "nonsense"},
    {"after": "W10"},  # []
    {"after": "e30"},  # {}
    {"after": place_as_text((3, "s"))},
    {"after": place_as_text(("text", "s")), "sort": "state"},
    {"after": place_as_text((10**30, "s")), "sort": "state"},
    {"after": place_as_text((True, "s")), "sort": "state"},
    {"search": "x" * 201},
    {"search": "a b c d e f g h i"},
    {"model": "x" * 201},
    {"patient": "Curie"},
    {"archive": "yes"},
]


@pytest.mark.parametrize("asked", ODD, ids=lambda asked: next(iter(asked.items()))[1][:20])
def test_an_odd_question_is_answered_400_and_what_was_expected(desk: Desk, asked: Mapping[str, str]) -> None:
    status, body = ask(desk, "/coread/worklist", asked)
    assert status == 400
    assert body["error"].startswith("expected ")
    assert "Curie" not in body["error"]


@given(text=st.text(max_size=300))
def test_no_text_as_place_is_an_error_of_ours(text: str) -> None:
    for sort in SORTS:
        try:
            assert isinstance(parse_query({"after": text, "sort": sort}), Query)
        except ValueError as error:
            assert str(error).startswith("expected ")  # noqa: PT017  # either is right


def ask(
    desk: Desk,
    path: str,
    asked: Mapping[str, str] | None = None,
    *,
    groups: tuple[str, ...] = (),
    joined: Joined | None = None,
) -> tuple[int, Any]:
    handlers: dict[str, Callable[..., None]] = {}
    said: list[tuple[int, str]] = []
    register_worklist(
        Gate(SimpleNamespace(RegisterRestCallback=handlers.__setitem__), asks_users=False),
        index=desk.index,
        ledger=desk.ledger,
        archive=lambda: cast("Archive", desk.shelf),
        left=lambda: desk.follower.left,
        problem=lambda: None,
        joined=joined or standard_parts(Settings(), desk.ledger),
    )
    output = SimpleNamespace(
        AnswerBuffer=lambda text, _kind: said.append((200, text)),
        SendHttpStatus=lambda status, text, _length: said.append((status, text)),
        SetHttpHeader=lambda _name, _value: None,
    )
    handlers[path](output, path, method="GET", get=dict(asked or {}), groups=groups)
    ((status, text),) = said
    return status, json.loads(text)


STUDY = "/coread/worklist/([0-9a-f-]+)"


def test_a_client_that_has_the_newest_revision_is_answered_shortly(desk: Desk) -> None:
    desk.shelf.put("study")
    desk.rows()
    _, first = ask(desk, "/coread/worklist")
    assert first["total"] == 1
    _, second = ask(desk, "/coread/worklist", {"revision": first["revision"]})
    assert second == {"revision": first["revision"], "unchanged": True, "building": 0, "problem": None}
    settle(desk.ledger, job_for())
    desk.rows()
    _, third = ask(desk, "/coread/worklist", {"revision": first["revision"]})
    assert third["rows"][0]["state"] == "waiting"


@pytest.mark.parametrize("search", ["marie%20curie", "marie+curie", "marie curie", "%6Darie", "m%C3%A4rie"])
def test_a_question_is_understood_encoded_as_orthanc_hands_it_over(desk: Desk, search: str) -> None:
    desk.shelf.put("study")
    desk.rows()
    assert ask(desk, "/coread/worklist", {"search": search})[1]["total"] == 1


def test_a_study_s_page_has_its_jobs_with_what_became_of_them_and_what_may_be_done(desk: Desk) -> None:
    desk.shelf.put("study")
    settle(desk.ledger, job_for(name="a"))
    do(desk.ledger, job_for(name="a"), ["1.9"], sop_class_uids=["1.2.840.10008.5.1.4.1.1.66.4"])
    settle(desk.ledger, job_for(name="b"))
    desk.ledger.cancel("b", at=NOW)
    desk.rows()
    status, body = ask(desk, STUDY, groups=("study",))
    assert status == 200
    assert [(job["job_id"], job["state"]) for job in body["jobs"]] == [("b", "cancelled"), ("a", "superseded")]
    job = body["jobs"][0]
    assert job["may"] == {"retry": True, "cancel": False, "prioritise": False, "review": False}
    assert job["explanation"]["do"]
    assert [event["to"] for event in job["history"]] == ["waiting", "cancelled"]
    assert {"words", "pictures", "reviews", "deliveries", "timings", "key_finding"} <= job.keys()


def test_a_result_that_is_gone_from_orthanc_has_no_link(desk: Desk) -> None:
    desk.shelf.put("study")
    settle(desk.ledger, job_for())
    do(desk.ledger, job_for(), ["1.9"], sop_class_uids=["1.2.840.10008.5.1.4.1.1.66.4"])
    desk.rows()
    for desk.shelf.is_away in (False, True):
        (result,) = ask(desk, STUDY, groups=("study",))[1]["jobs"][0]["results"]
        assert (result["kind"], result["url"]) == ("Segmentation", None)


def test_what_other_parts_add_is_on_the_page(desk: Desk) -> None:
    desk.shelf.put("study")
    settle(desk.ledger, job_for())
    desk.rows()
    joined = Joined(
        of_jobs=[lambda records: {record.job.job_id: {"words": ["A word."]} for record in records}],
        raised=lambda studies: {study: [{"words": "a finding"}] for study in studies},
        viewers=lambda facts: [{"name": "OHIF", "url": f"/ohif/{facts.study_instance_uid}"}],
    )
    body = ask(desk, STUDY, groups=("study",), joined=joined)[1]
    assert body["jobs"][0]["words"] == ["A word."]
    assert body["raised"] == [{"words": "a finding"}]
    assert body["viewers"] == [{"name": "OHIF", "url": "/ohif/1.2"}]


def test_a_study_that_is_not_there_is_answered_404(desk: Desk) -> None:
    assert ask(desk, STUDY, groups=("abc",))[0] == 404


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_is_explained_and_what_may_be_done_is_what_the_ledger_does(desk: Desk, state: JobState) -> None:
    settle(desk.ledger, job_for())
    found = desk.ledger.job("a")
    assert found is not None
    record = replace(found, state=state, result={"sop_instance_uids": ["1.9"]})
    assert explain(record).what.endswith(".")
    allowed = may(record)
    if state is JobState.WAITING:
        assert allowed["cancel"] == desk.ledger.cancel("a", at=NOW)
        assert allowed["prioritise"]
    assert allowed["review"] == (state is JobState.DONE)


def test_what_another_system_reads_is_not_said_to_be_read_by_the_model(desk: Desk) -> None:
    settle(desk.ledger, job_for())
    found = desk.ledger.job("a")
    assert found is not None
    for state in (JobState.RUNNING, JobState.DONE):
        record = replace(found, state=state, worker="outside performer ada", result={"sop_instance_uids": []})
        assert explain(record).what.startswith("Another system")
        assert not may(record)["review"]


@given(st.text())
def test_folding_a_text_twice_changes_nothing(text: str) -> None:
    assert folded(folded(text)) == folded(text)

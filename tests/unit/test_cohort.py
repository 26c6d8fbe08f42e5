"""The parts of a plan: its file, lists in CSV, filters, and what is estimated."""

import csv
import io
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.cohort.estimate import Pace, estimate, seconds_by_model, usual_sizes
from coread.cohort.found import BYTES, Filters, Found, found_in, left_out_because
from coread.cohort.gather import Cohort
from coread.cohort.listed import Line, lines_of
from coread.cohort.plan import PlanHeader, PlannedStudy, read_plan, write_plan
from coread.errors import ConfigurationError, CoreadError
from coread.retrieval.multipart import MultipartError, boundary_of, parts_in
from coread.timeline import Row, Span
from tests.support import NOW

UIDS = st.from_regex(r"[0-2]\.[1-9][0-9]{0,20}(\.[1-9][0-9]{0,9}){0,3}", fullmatch=True)
COUNTS = st.none() | st.integers(0, 2**40)
STUDIES = st.builds(
    PlannedStudy,
    study_instance_uid=UIDS,
    instances=COUNTS,
    bytes=COUNTS,
    study_date=st.sampled_from(["", "20260101"]),
    modalities=st.lists(st.sampled_from(["CT", "MR", "SR"]), max_size=3).map(tuple),
)


def header(studies: int, name: str = "test") -> PlanHeader:
    return PlanHeader(
        name=name,
        made_at=NOW,
        source="here",
        query={"modalities": ["MR"]},
        models=("m",),
        studies=studies,
        instances=None,
        bytes=None,
        estimate={"hours": None},
    )


@settings(deadline=None)
@given(studies=st.lists(STUDIES, max_size=5), name=st.text(max_size=50))
def test_a_plan_reads_back_as_it_was_written(
    studies: list[PlannedStudy], name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.jsonl"
    write_plan(path, header(len(studies), name.encode(errors="ignore").decode()), studies)
    plan = read_plan(path)
    assert list(plan.studies()) == studies
    assert plan.header == header(len(studies), name.encode(errors="ignore").decode())
    assert plan.digest == read_plan(path).digest
    assert path.stat().st_mode & 0o777 == 0o600


@settings(deadline=None)
@given(data=st.data())
def test_a_plan_that_was_changed_anywhere_is_refused_or_still_a_plan(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.jsonl"
    write_plan(path, header(2), [PlannedStudy(study_instance_uid=f"1.2.{number}") for number in range(2)])
    text = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(text) - 1))
    path.write_bytes(bytes(text[:at] + data.draw(st.binary(max_size=3)) + text[at + data.draw(st.integers(0, 3)) :]))
    with suppress(ConfigurationError):
        assert len(list(read_plan(path).studies())) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("[]\n", "line 1: expected a JSON object"),
        ('{"coread_plan": 2}\n', "expected a plan of format 1"),
        ("[" * 9000 + "\n", "line 1: expected"),
        ("{" + "x" * 20000 + "}\n", "line 1: it does not end"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "plan.jsonl").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        read_plan(tmp_path / "plan.jsonl")


def test_a_plan_that_was_cut_off_between_two_lines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    write_plan(path, header(2), [PlannedStudy(study_instance_uid=f"1.2.{number}") for number in range(2)])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(ConfigurationError, match="has 1 studies, and its first line says 2"):
        read_plan(path)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), max_size=6),
    delimiter=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_each_line_of_a_list_comes_out_or_is_said_to_be_unfit(
    rows: list[tuple[str, str]], delimiter: str, encoding: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("list") / "list.csv"
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([("Comment", "Accession No."), *rows])
    path.write_bytes(text.getvalue().encode(encoding))
    expected = [accession.strip() for comment, accession in rows if comment.strip() or accession.strip()]
    found = list(lines_of(path))
    assert [line.value for line in found] == expected
    for line in found:
        is_pattern = not line.value or len(line.value) > 16 or any(sign in line.value for sign in "*?\\")
        assert not (is_pattern and not line.why)


@settings(deadline=None)
@given(text=st.binary(max_size=200))
def test_any_file_is_a_list_or_an_error_of_ours(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("list") / "list.csv"
    path.write_bytes(b"StudyInstanceUID\n" + text)
    with suppress(ConfigurationError):
        assert all(isinstance(line, Line) for line in lines_of(path))


def test_a_column_is_found_by_its_header_or_named(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("Accession;Study Instance UID;Fall\n A ; 1.2.3 ; F1 \n\n;;\nB\n")
    assert [(line.keyword, line.value, line.why) for line in lines_of(path)] == [
        ("StudyInstanceUID", "1.2.3", ""),
        ("StudyInstanceUID", "", "empty"),
    ]
    assert [(line.number, line.value) for line in lines_of(path, column="fall")] == [(2, "F1"), (5, "")]
    for column, said in (("Nothing", "has no column Nothing"),):
        with pytest.raises(ConfigurationError, match=said):
            list(lines_of(path, column=column))
    path.write_text("1.2.3\n1.2.4\n")
    with pytest.raises(ConfigurationError, match="expected a column StudyInstanceUID or AccessionNumber"):
        list(lines_of(path))


def test_what_a_source_does_not_say_is_no_match_and_counted_apart() -> None:
    filters = Filters(modalities={"MR"}, sex="F")
    study = Found(study_instance_uid="1.2")
    assert left_out_because(study, filters) == ("sex not stated", False)
    known = Found(study_instance_uid="1.2", sex="F")
    assert left_out_because(known, filters) == ("modality not stated", True)
    assert left_out_because(known.with_series([{"Modality": "MR"}]), filters) == ("", False)
    assert left_out_because(known.with_series([{"Modality": "CT"}]), filters) == ("modality", False)


def test_odd_answers_are_read_as_far_as_they_go() -> None:
    found = found_in(
        {
            "StudyInstanceUID": " 1.2 ",
            "StudyDate": "2026.01.02",
            "ModalitiesInStudy": "MR\\\\ SR ",
            "NumberOfStudyRelatedInstances": "many",
            "PatientAge": "043Y",
        }
    )
    assert found is not None
    assert found.study_date == "20260102"
    assert found.modalities == {"MR", "SR"}
    assert found.instances is None
    assert found.age_years == 43
    assert found_in({"StudyInstanceUID": "DOE"}) is None
    assert found_in({}) is None


def cohort_of(*studies: Found) -> Cohort:
    cohort = Cohort()
    for study in studies:
        assert cohort.add(study)
        assert not cohort.add(study)
    return cohort


def test_what_is_not_measured_is_estimated_from_what_is_usual_here_and_said_to_be() -> None:
    usual = usual_sizes(
        {"ModalitiesInStudy": "CT\\SR", "NumberOfStudyRelatedInstances": str(count), BYTES: str(500 * count)}
        for count in (100, 300)
    )
    assert set(usual) == {"CT"}
    assert usual["CT"].bytes_per_instance == 500
    with cohort_of(
        Found(study_instance_uid="1", modalities=frozenset({"CT"}), instances=10),
        Found(study_instance_uid="2", modalities=frozenset({"CT", "SR"})),
        Found(study_instance_uid="3", modalities=frozenset({"CT"}), instances=1, bytes=7),
    ) as cohort:
        found = estimate(cohort.groups(), usual=usual, models=[], taken_s={}, pace=Pace(workers=1))
        assert found.bytes is None
        assert found.instances is None
        assert found.bytes_estimated == 10 * 500 + 200 * 500 + 7
        assert any("estimated" in note for note in found.notes)
        nothing = estimate(cohort.groups(), usual={}, models=[], taken_s={}, pace=Pace(workers=1))
        assert (nothing.bytes_estimated, nothing.bytes_unknown) == (None, 2)


def row(model: str, seconds: float) -> Row:
    span = Span(stage="infer", begin=NOW, end=NOW + timedelta(seconds=seconds))
    return Row(job_id="a", worker="w", model=model, spans=[span])


def test_hours_hang_on_the_models_the_workers_and_the_pace() -> None:
    taken = seconds_by_model([row("a", 10), row("a", 30), row("a", 20), row("b", 16), row("c", 99)], ["a", "b"])
    with cohort_of(*(Found(study_instance_uid=f"1.{number}") for number in range(100))) as cohort:
        for pace, hours, bounded_by in (
            (Pace(workers=1), 1.0, "models"),
            (Pace(workers=4), 0.25, "models"),
            (Pace(workers=1, studies_per_minute=0.5), 100 / 30, "pace"),
            (Pace(workers=1, hours="19:00-07:00"), 2.0, "models"),
        ):
            found = estimate(cohort.groups(), usual={}, models=["a", "b"], taken_s=taken, pace=pace)
            assert found.hours == pytest.approx(hours)
            assert found.bounded_by == bounded_by
        unknown = estimate(cohort.groups(), usual={}, models=["a", "z"], taken_s=taken, pace=Pace(workers=1))
        assert unknown.hours is None
        assert any("z takes: let it read a pilot (--sample 20)" in note for note in unknown.notes)


def test_a_sample_does_not_hang_on_the_order_of_the_answers() -> None:
    studies = [Found(study_instance_uid=f"1.{number}") for number in range(200)]
    with cohort_of(*studies) as one, cohort_of(*reversed(studies)) as other:
        one.draw(20)
        other.draw(20)
        assert len(one) == 20
        assert list(one.studies()) == list(other.studies())


@settings(deadline=None)
@given(
    files=st.lists(st.binary(max_size=100).filter(lambda file: b"\r\n--bound" not in file), max_size=4),
    cuts=st.integers(1, 40),
    preamble=st.sampled_from([b"", b"\r\n", b"preamble\r\n"]),
    cut_off=st.integers(0, 30),
)
def test_parts_come_out_as_they_went_in_however_the_body_is_cut(
    files: list[bytes], cuts: int, preamble: bytes, cut_off: int
) -> None:
    head = b"--bound\r\nContent-Type: application/dicom\r\nContent-Length: 7\r\n\r\n"
    body = preamble + b"".join(head + file + b"\r\n" for file in files) + b"--bound--"
    pieces = [body[begin : begin + cuts] for begin in range(0, len(body), cuts)]
    assert list(parts_in(pieces, boundary="bound")) == files
    if cut_off:
        with pytest.raises(MultipartError):
            list(parts_in([body[: max(0, len(body) - cut_off)]], boundary="bound"))


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ("multipart/related; boundary=x", "x"),
        ('Multipart/Related; type="application/dicom"; boundary="a b"', "a b"),
        ("text/html; boundary=x", None),
        ("multipart/related", None),
        ("", None),
    ],
)
def test_the_boundary_stands_in_the_content_type(kind: str, boundary: str | None) -> None:
    assert boundary_of(kind) == boundary


def test_a_plan_says_nothing_that_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    write_plan(path, header(1), [PlannedStudy(study_instance_uid="1.2")])
    first, line = map(json.loads, path.read_text().splitlines())
    assert datetime.fromisoformat(first["made_at"]).tzinfo == UTC
    assert line == {"study_instance_uid": "1.2", "study_date": "", "modalities": []}


def test_a_query_too_long_for_a_plan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CoreadError, match="too long"):
        write_plan(tmp_path / "plan.jsonl", header(0, "x" * 20_000), [])
    assert list(tmp_path.iterdir()) == []

"""Workitems: the standard's state table, UIDs that lead back to jobs, datasets that are read with limits."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from coread.job import JobState
from coread.plugin.ups import dataset as dicom
from coread.plugin.ups.dataset import KEYWORDS, BadRequest, read_dataset
from coread.plugin.ups.matching import KEYS, keys_of, matches, query_of
from coread.plugin.ups.rules import FINAL_STATE, missing_for
from coread.plugin.ups.view import DISCONTINUED
from coread.workitem import (
    FINAL,
    TABLE,
    Code,
    JobRun,
    Request,
    WorkitemRefused,
    WorkitemState,
    after,
    job_of_uid,
    state_of_job,
    uid_of_job,
)

JOB_ID = "0123456789abcdef0123456789abcdef"
JSON = "application/dicom+json"


def test_the_state_table_has_an_answer_for_every_request_in_every_state() -> None:
    assert set(TABLE) == set(Request)
    assert all(set(row) == {None, *WorkitemState} for row in TABLE.values())


def test_no_request_leads_out_of_a_final_state() -> None:
    for request in Request:
        for state in FINAL:
            with pytest.raises(WorkitemRefused):
                after(request, state)


def test_a_refusal_bears_the_standards_code() -> None:
    with pytest.raises(WorkitemRefused) as refused:
        after(Request.CLAIM, WorkitemState.IN_PROGRESS)
    assert refused.value.code is Code.ALREADY_IN_PROGRESS


@given(st.integers(0, 2**128 - 1), st.integers(0, 99))
def test_a_jobs_uid_leads_back_to_the_job_and_its_run(number: int, run: int) -> None:
    uid = uid_of_job(f"{number:032x}", run)
    assert len(uid) <= 64
    assert dicom.UID.fullmatch(uid)
    assert job_of_uid(uid) == JobRun(job_id=f"{number:032x}", run=run)


@pytest.mark.parametrize("uid", ["1.2.3", "2.25", "2.25.01", f"2.25.{2**128}", "2.25.1.0", "2.25.1.2.3"])
def test_another_uid_is_no_jobs(uid: str) -> None:
    assert job_of_uid(uid) is None


def test_a_job_that_was_begun_is_never_scheduled_again() -> None:
    assert state_of_job(JobState.WAITING, attempts=0) is WorkitemState.SCHEDULED
    assert state_of_job(JobState.WAITING, attempts=1) is WorkitemState.IN_PROGRESS
    assert {state for state in JobState if state_of_job(state, attempts=1) is WorkitemState.COMPLETED} == {
        JobState.DONE
    }


def test_every_attribute_is_the_dictionarys() -> None:
    for keyword, (tag, vr) in KEYWORDS.items():
        number = tag_for_keyword(keyword)
        if number is None:  # of the command set, which the dictionary keeps apart
            assert tag.startswith("0000")
            continue
        assert (f"{number:08X}", dictionary_VR(number)) == (tag, vr), keyword
        assert keyword_for_tag(number) == keyword


def test_every_reason_is_a_code_of_dicoms() -> None:
    known = {str(code.value): code.meaning for code in (getattr(codes.DCM, name) for name in codes.DCM.dir())}
    for value, meaning in DISCONTINUED.values():
        assert isinstance(DicomCode(value, "DCM", meaning), DicomCode)
        assert known[value] == meaning


def test_every_key_that_is_matched_is_an_attribute_that_is_known() -> None:
    assert {part for key in KEYS for part in key.split(".")} <= set(KEYWORDS)


# Reading ---------------------------------------------------------------------------------------------------------

ATTRIBUTE = st.fixed_dictionaries(
    {"vr": st.sampled_from(["LO", "SQ", "PN", "US", "UI", "OB", "??"])},
    optional={
        "Value": st.recursive(st.none() | st.text() | st.integers() | st.booleans(), st.lists),
        "BulkDataURI": st.text(),
    },
)
DATASET = st.dictionaries(
    st.sampled_from(["00741000", "00100010", "00404021", "tag", "0010001"]), ATTRIBUTE | st.none()
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | DATASET,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.binary() | st.text() | ANYTHING.map(json.dumps) | st.lists(DATASET, max_size=2).map(json.dumps))
def test_whatever_is_sent_is_read_or_refused_with_what_was_expected(body: bytes | str) -> None:
    try:
        found = read_dataset(body, content_type=JSON)
    except BadRequest as error:
        assert "expected" in str(error) or "no bulk data" in str(error)  # noqa: PT017  # either is right
    else:
        assert all(set(attribute) <= {"vr", "Value"} for attribute in found.values())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"x" * 1_000_001, 413),
        (b"[" * 100_000, 413),
        (b'{"00404021": {"vr": "SQ", "Value": [' * 40 + b"{}" + b"]}}" * 40, 413),
        (
            json.dumps({f"{number:08X}": {"vr": "LO"} for number in range(0x00190000, 0x00190000 + 10_001)}).encode(),
            413,
        ),
        (b'{"00741000": {"vr": "LO", "Value": ["SCHEDULED"]}}', 400),
        (b'{"00741000": {"vr": "CS", "Value": [NaN]}}', 400),
    ],
)
def test_what_is_too_large_or_too_deep_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as error:
        read_dataset(body, content_type=JSON)
    assert error.value.status == status


def test_xml_is_refused_as_not_understood() -> None:
    with pytest.raises(BadRequest) as error:
        read_dataset(b"<a/>", content_type='multipart/related; type="application/dicom+xml"')
    assert error.value.status == 415


def test_a_refusal_quotes_nothing_of_the_patient() -> None:
    with pytest.raises(BadRequest) as error:
        read_dataset(b'{"00100010": {"vr": "PN", "Value": ["DOE^JANE"]}}', content_type=JSON)
    assert "DOE" not in str(error.value)


# Matching --------------------------------------------------------------------------------------------------------

WORKITEM = dicom.of(
    ProcedureStepState="SCHEDULED",
    ProcedureStepLabel="Read [the] heart",
    PatientName="Müller^Jörg",
    ScheduledProcedureStepStartDateTime="20260315120000",
    ScheduledWorkitemCodeSequence=dicom.code("LV", "99TEST", "Left ventricle"),
    InputInformationSequence=[dicom.of(StudyInstanceUID="1.2.3"), dicom.of(StudyInstanceUID="1.2.4")],
)


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({}, True),
        ({"ProcedureStepLabel": "Read [the]*"}, True),
        ({"00741204": "read*"}, False),
        ({"PatientName": "müller*"}, True),
        ({"StudyInstanceUID": "1.2.4"}, True),
        ({"00404021.0020000D": "1.2.4,9.9"}, True),
        ({"StudyInstanceUID": "1.2"}, False),
        ({"ScheduledWorkitemCodeSequence.CodeValue": "LV"}, True),
        ({"ScheduledProcedureStepStartDateTime": "20260315"}, True),
        ({"ScheduledProcedureStepStartDateTime": "20260301-20260331"}, True),
        ({"ScheduledProcedureStepStartDateTime": "20260316-"}, False),
        ({"ScheduledProcedureStepStartDateTime": "-20260315"}, True),
        ({"WorklistLabel": "?*"}, False),
    ],
)
def test_a_query_finds_by_the_standards_matching(asked: dict[str, str], fits: bool) -> None:
    assert matches(WORKITEM, keys_of(asked)) is fits


@given(st.dictionaries(st.sampled_from([*KEYS, "limit", "offset", "includefield", "x"]), st.text()))
def test_every_query_is_understood_or_refused(asked: dict[str, str]) -> None:
    try:
        query = query_of(asked)
    except BadRequest as error:
        assert "expected" in str(error)  # noqa: PT017  # either is right
    else:
        matches(WORKITEM, query.keys)


# Ending ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_workitem_without_what_the_final_state_requires_cannot_end(state: WorkitemState) -> None:
    lacking = missing_for(state, {})
    assert len(lacking) >= len(FINAL_STATE[state])
    whole: dict[str, Any] = {}
    for sequence, keyword in FINAL_STATE[state]:
        tag = KEYWORDS[sequence][0]
        item = whole.get(tag, {}).get("Value", [{}])[0]
        item |= dicom.of(**{keyword: "x", "OutputInformationSequence": None})
        whole[tag] = {"vr": "SQ", "Value": [item]}
    assert missing_for(state, whole) == []

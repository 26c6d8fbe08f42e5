import json
from typing import Any

import pytest

from coread.job import ENDED, LEASED, TRANSITIONS, Job, JobState, Priority, fingerprint_of, job_id_of
from coread.objects import Profile
from tests.support import a_job


def test_the_fingerprint_does_not_depend_on_the_order_or_on_repeats() -> None:
    assert fingerprint_of(["1.2", "1.10", "1.3"]) == fingerprint_of(["1.3", "1.2", "1.10", "1.2"])


def test_the_fingerprint_changes_with_an_instance() -> None:
    assert fingerprint_of(["1.2"]) != fingerprint_of(["1.2", "1.3"])


@pytest.mark.parametrize(
    "other", [{"study": "t"}, {"model": "n"}, {"model_version": "2"}, {"profiles": ["slicer"]}, {"fingerprint": "g"}]
)
def test_each_part_of_a_job_makes_it_another_job(other: dict[str, Any]) -> None:
    parts: dict[str, Any] = {"study": "s", "model": "m", "model_version": "1", "profiles": ["ohif"], "fingerprint": "f"}
    assert job_id_of(**parts) == job_id_of(**parts)
    assert job_id_of(**parts) != job_id_of(**{**parts, **other})


def test_a_job_comes_through_json_as_it_was() -> None:
    job = a_job(profiles=(Profile.SLICER, Profile.OHIF), destinations=("pacs",), priority=Priority.STAT)
    assert Job.from_json(json.loads(json.dumps(job.as_json()))) == job


def test_the_table_names_every_state_and_leads_everywhere_from_waiting() -> None:
    assert set(TRANSITIONS) == set(JobState)
    reached = {JobState.WAITING}
    while more := {after for state in reached for after in TRANSITIONS[state]} - reached:
        reached |= more
    assert reached == set(JobState)


def test_nothing_leaves_a_leased_state_for_nowhere() -> None:
    for state in LEASED:
        assert JobState.WAITING in TRANSITIONS[state], "a lease that ends must lead back"
    assert not LEASED & ENDED

"""Harmed studies through a whole Coread: each ends in a stated state, and what comes after them is read.

COREAD_FUZZ_EXAMPLES says how many are sent.
"""

import httpx
import pytest
from hypothesis import given

from coread.phantom import short_axis_volume
from tests.fuzzed_dicom import HARMS, Harm, harmed, healthy
from tests.fuzzing import EXAMPLES, searching
from tests.support import images_of
from tests.system.conftest import ENDED, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 + EXAMPLES * 60)]

STATED = {"done", "refused"}
"""How a job for a study may end; one that has failed is a mistake of ours."""


def as_a_study_of_its_own(files: list[bytes], number: int) -> list[bytes]:
    """The files under UIDs that no other study has: as long as those that they had, so that nothing else moves."""
    first = healthy("fuzzed")[0]
    at = first.index(b"\x20\x00\x0d\x00UI") + 8
    old = first[at : at + int.from_bytes(first[at - 2 : at], "little")].rstrip(b"\x00")
    new = old[: -len(str(number))] + str(number).encode()
    return [file.replace(old, new) for file in files]


def send(system: System, files: list[bytes]) -> int:
    """Store what Orthanc takes of some files; how many that is."""
    answers = [
        httpx.post(f"{system.running.http_url}/instances", content=file, trust_env=False, timeout=60) for file in files
    ]
    assert [answer.status_code for answer in answers if answer.status_code >= 500] == []
    return sum(answer.status_code == httpx.codes.OK for answer in answers)


def all_have_ended(system: System) -> bool:
    jobs = httpx.get(f"{system.running.http_url}/coread/jobs", trust_env=False).json()
    return not system.arriving() and all(job["state"] in ENDED for job in jobs)


def test_harmed_studies_end_in_a_stated_state(system: System) -> None:
    sent: list[int] = []

    @searching(25)
    @given(harms=HARMS)
    def send_one(harms: list[Harm]) -> None:
        sent.append(send(system, as_a_study_of_its_own(harmed(harms), len(sent) + 10)))

    send_one()
    assert sum(sent) > 0
    system.wait(lambda: all_have_ended(system))
    jobs = httpx.get(f"{system.running.http_url}/coread/jobs", params={"limit": "10000"}, trust_env=False).json()
    assert {job["state"] for job in jobs} - STATED - {"superseded"} == set(), [
        (job["state"], job["reason"]) for job in jobs if job["state"] not in STATED
    ]
    assert "intake step failed" not in system.logs()
    assert "worklist step failed" not in system.logs()
    after = system.job(system.send(images_of(short_axis_volume(), name="after the harmed ones")))
    assert after["state"] == "done", after["reason"]

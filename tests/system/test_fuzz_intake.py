"""Harmed studies through a whole Coread: each ends in a stated state, and what comes after them is read.

COREAD_FUZZ_EXAMPLES says how many are sent.
"""

import contextlib

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
    """Store what Orthanc takes of some files; how many that is.

    At about one in a thousand such files Debian's Orthanc ends by itself, without any plugin, too: then it is started
    again, as `coread up` does.
    """
    statuses = []
    for file in files:
        try:
            answer = httpx.post(f"{system.running.http_url}/instances", content=file, trust_env=False, timeout=60)
            statuses.append(answer.status_code)
        except (httpx.RemoteProtocolError, httpx.ReadError):
            system.running.watch(lambda: is_up(system))
    assert [status for status in statuses if status >= httpx.codes.INTERNAL_SERVER_ERROR] == []
    return statuses.count(httpx.codes.OK)


def is_up(system: System) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{system.running.http_url}/coread/health", trust_env=False).is_success
    return False


def all_have_ended(system: System) -> bool:
    """Whether no job is left, and no study but those that say what they wait for a person to do.

    Some harmed studies have an identifier in common: what pauses so long between its images is waited for longer.
    """
    jobs = httpx.get(f"{system.running.http_url}/coread/jobs", trust_env=False).json()
    return all(study["stalled"] for study in system.arriving()) and all(job["state"] in ENDED for job in jobs)


def test_harmed_studies_end_in_a_stated_state(system: System) -> None:
    sent: list[int] = []

    @searching(25)
    @given(harms=HARMS)
    def send_one(harms: list[Harm]) -> None:
        sent.append(send(system, as_a_study_of_its_own(harmed(harms), len(sent) + 10)))

    send_one()
    assert sum(sent) > 0
    system.running.watch(lambda: all_have_ended(system))
    jobs = httpx.get(f"{system.running.http_url}/coread/jobs", params={"limit": "10000"}, trust_env=False).json()
    assert {job["state"] for job in jobs} - STATED - {"superseded"} == set(), [
        (job["state"], job["reason"]) for job in jobs if job["state"] not in STATED
    ]
    assert "intake step failed" not in system.logs()
    assert "worklist step failed" not in system.logs()
    after = system.job(system.send(images_of(short_axis_volume(), name="after the harmed ones")))
    assert after["state"] == "done", after["reason"]

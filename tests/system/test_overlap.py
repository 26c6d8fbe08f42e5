"""A worker fetches, has the model look, and stores at the same time: told from the jobs' own timings."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from coread.benchmarks.overlap import SMALL, timed
from coread.cli import coread
from coread.timeline import ON_DEVICE, Row, Span, devices_of
from tests.support import program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a Coread with a worker."""
    program("Orthanc")
    return tmp_path_factory.mktemp("overlap") / "coread"


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Row]:
    """Studies that waited for one worker, as they were on the device one after the other."""
    return timed(folder, SMALL, is_overlapped=True)


def span(row: Row, stage: str) -> Span:
    (found,) = (each for each in row.spans if each.stage == stage)
    return found


def test_a_study_is_fetched_while_the_one_before_is_in_the_model(rows: list[Row]) -> None:
    assert len(rows) == SMALL.studies
    assert any(
        span(before, ON_DEVICE).begin < span(after, "fetch").end
        and span(after, "fetch").begin < span(before, ON_DEVICE).end
        for before, after in pairwise(rows)
    )


def test_one_study_is_in_the_model_at_a_time_and_the_stages_of_each_follow_each_other(rows: list[Row]) -> None:
    for before, after in pairwise(rows):
        assert span(before, ON_DEVICE).end <= span(after, ON_DEVICE).begin
        assert span(before, "store").end <= span(after, "measure").begin
    for row in rows:
        assert [each.stage for each in row.spans] == ["fetch", ON_DEVICE, "measure", "encode", "draw", "store"]
        assert all(one.end <= other.begin for one, other in pairwise(row.spans))
    (device,) = devices_of(rows)
    assert device.jobs == SMALL.studies


def test_a_study_is_written_and_stored_while_the_next_is_in_the_model(rows: list[Row]) -> None:
    assert any(span(after, ON_DEVICE).begin < span(before, "store").end for before, after in pairwise(rows))


def test_the_command_draws_the_timeline_and_says_how_busy_the_device_was(folder: Path, rows: list[Row]) -> None:
    def say(*words: str) -> str:
        result = CliRunner().invoke(coread, ["--config", str(folder / "coread.toml"), "jobs", "timeline", *words])
        assert result.exit_code == 0, result.output
        return result.output

    found = json.loads(say("--json"))
    assert [job["job_id"] for job in found["jobs"]] == [row.job_id for row in rows]
    assert found["devices"] == [device.as_json() for device in devices_of(rows)]
    drawn = say().splitlines()
    assert [line.split()[0] for line in drawn if "█" in line and "·" in line][:-1] == [row.job_id[:8] for row in rows]
    assert f"{SMALL.studies} jobs, busy" in drawn[-1]
    assert len(json.loads(say("--json", rows[0].job_id))["jobs"]) == 1

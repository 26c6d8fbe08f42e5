"""Asking the source PACS: never in the intake's way, and a PACS that does not answer is left alone."""

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import cast

import pytest

from coread.archive import Archive
from coread.errors import ArchiveUnavailable
from coread.plugin import stated as stated_module
from coread.plugin.stated import AWAY, SOONEST, Stated, StatedCounts, find_counts
from coread.settings import PacsSettings
from tests.support import NOW

PACS = PacsSettings(name="main", aet="PACS1", host="pacs.example.org")


class Scene:
    """A PACS, a clock, and what asks."""

    def __init__(self) -> None:
        self.now: datetime = NOW
        self.counts: Mapping[str, int] | None = {"1.2.3": 40}
        self.asked: list[str] = []
        self.stated = StatedCounts(find=self._find, pacs=[PACS], clock=lambda: self.now)

    def _find(self, pacs: PacsSettings, study_instance_uid: str) -> Mapping[str, int]:
        assert pacs is PACS
        self.asked.append(study_instance_uid)
        if self.counts is None:
            raise ArchiveUnavailable("it does not answer")
        return self.counts

    def of(self, study: str, last_arrival_at: datetime = NOW) -> Stated | None:
        return self.stated.of(study, aet="PACS1", last_arrival_at=last_arrival_at)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_answer_is_awaited_and_then_known(scene: Scene) -> None:
    assert scene.of("1.2") is None
    assert scene.of("1.2") is None
    scene.stated.answer_all()
    assert scene.of("1.2") == Stated(asked_at=NOW, counts={"1.2.3": 40})
    assert scene.asked == ["1.2"]


def test_it_is_asked_again_after_a_while_and_the_old_answer_counts_until_then(scene: Scene) -> None:
    scene.of("1.2")
    scene.stated.answer_all()
    scene.now, scene.counts = NOW + SOONEST, {"1.2.3": 41}
    assert scene.of("1.2") == Stated(asked_at=NOW, counts={"1.2.3": 40})
    scene.stated.answer_all()
    assert scene.of("1.2") == Stated(asked_at=scene.now, counts={"1.2.3": 41})


def test_a_study_that_has_been_quiet_for_long_is_asked_about_seldom(scene: Scene) -> None:
    scene.of("1.2")
    scene.stated.answer_all()
    for _ in range(24 * 60):
        scene.now += timedelta(minutes=1)
        scene.of("1.2")
        scene.stated.answer_all()
    assert len(scene.asked) < 24 * 60 / 8


def test_an_answer_from_before_the_last_arrival_does_not_count(scene: Scene) -> None:
    scene.of("1.2")
    scene.stated.answer_all()
    assert scene.of("1.2", last_arrival_at=NOW + timedelta(seconds=1)) is None


def test_a_pacs_that_does_not_answer_is_left_alone_for_a_while(scene: Scene) -> None:
    scene.counts = None
    for study in ("1", "2", "3"):
        scene.of(study)
        scene.stated.answer_all()
        assert scene.of(study) == Stated(asked_at=NOW, counts=None)
    assert scene.asked == ["1"]
    scene.now, scene.counts = NOW + AWAY, {"1.2.3": 40}
    scene.of("1")
    scene.stated.answer_all()
    assert scene.of("1") == Stated(asked_at=scene.now, counts={"1.2.3": 40})


def test_questions_that_find_no_room_are_asked_later(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stated_module, "WAITING_AT_MOST", 1)
    scene.stated = StatedCounts(find=scene._find, pacs=[PACS], clock=lambda: scene.now)
    scene.of("1")
    scene.of("2")
    scene.stated.answer_all()
    assert scene.asked == ["1"]
    scene.of("2")
    scene.stated.answer_all()
    assert scene.asked == ["1", "2"]


def test_a_pacs_that_hangs_does_not_hold_up_who_asks(scene: Scene) -> None:
    answers, asked = threading.Event(), threading.Event()

    def hang(_pacs: PacsSettings, _study: str) -> Mapping[str, int]:
        asked.set()
        assert answers.wait(30)
        return {"1.2.3": 40}

    scene.stated = StatedCounts(find=hang, pacs=[PACS], clock=lambda: scene.now)
    stop = threading.Event()
    thread = threading.Thread(target=scene.stated.serve, args=[stop])
    thread.start()
    try:
        assert scene.of("1") is None
        assert asked.wait(30)
        assert scene.of("1") is None
    finally:
        stop.set()
        answers.set()
        thread.join()
    assert scene.of("1") == Stated(asked_at=NOW, counts={"1.2.3": 40})


def test_a_surprise_is_no_answer_and_does_not_end_the_asking(scene: Scene) -> None:
    answers = iter([{"1.2.3": 40}])
    surprised = threading.Event()

    def surprise(_pacs: PacsSettings, study: str) -> Mapping[str, int]:
        if study == "1":
            raise KeyError("SeriesInstanceUID")
        surprised.set()
        return next(answers)

    scene.stated = StatedCounts(find=surprise, pacs=[PACS], clock=lambda: scene.now)
    scene.of("1")
    scene.of("2")
    stop = threading.Event()
    thread = threading.Thread(target=scene.stated.serve, args=[stop])
    thread.start()
    try:
        assert surprised.wait(30)
    finally:
        stop.set()
        thread.join()
    assert scene.of("1") == Stated(asked_at=NOW, counts=None)
    assert scene.of("2") == Stated(asked_at=NOW, counts={"1.2.3": 40})


class FakeArchive:
    def __init__(self, *series: dict[str, str]) -> None:
        self._series = list(series)

    def find_series(self, _modality: str, _study: str, *, timeout_s: int) -> list[dict[str, str]]:
        assert timeout_s > 0
        return self._series


def test_reports_and_series_without_a_number_are_left_out_of_the_answer() -> None:
    archive = FakeArchive(
        {"SeriesInstanceUID": "1", "Modality": "CT", "NumberOfSeriesRelatedInstances": "40 "},
        {"SeriesInstanceUID": "2", "Modality": "SR", "NumberOfSeriesRelatedInstances": "1"},
        {"SeriesInstanceUID": "3", "Modality": "CT", "NumberOfSeriesRelatedInstances": ""},
        {"SeriesInstanceUID": "4", "Modality": "CT"},
    )
    assert find_counts(cast("Archive", archive), PACS, "1.2") == {"1": 40}

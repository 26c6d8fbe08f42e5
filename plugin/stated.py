"""What source PACS say they have of a study, asked by C-FIND without holding up the intake."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from queue import Empty, Full, Queue

from coread.archive import Archive, is_source
from coread.errors import CoreadError
from coread.logs import logger
from coread.settings import PacsSettings

TIMEOUT_S = 5
"""A PACS answers in milliseconds to a few seconds; one that takes longer is as good as away."""

WAITING_AT_MOST = 100
"""Questions that may wait for their turn. A study whose question finds no room is asked about a moment later."""

AWAY = timedelta(seconds=30)
"""A PACS that did not answer is left alone for this long."""

SOONEST, LATEST = timedelta(seconds=5), timedelta(minutes=10)
"""When a study that still waits is asked about again: after a tenth of its quiet time, within these limits."""

IDLE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Stated:
    """An answer. ``counts``: SeriesInstanceUID → number of instances, of series that a model may read; None if there
    was no answer.
    """

    asked_at: datetime
    counts: Mapping[str, int] | None


@dataclass(frozen=True, kw_only=True)
class _Question:
    pacs: PacsSettings
    study_instance_uid: str


class StatedCounts:
    """Asks in a thread of its own, and remembers the latest answers."""

    def __init__(
        self,
        *,
        find: Callable[[PacsSettings, str], Mapping[str, int]],
        pacs: Sequence[PacsSettings],
        clock: Callable[[], datetime],
    ) -> None:
        """``find``: PACS, StudyInstanceUID → counts; raises a CoreadError if there is no answer."""
        self._find = find
        self._pacs = {one.aet: one for one in pacs}
        self._clock = clock
        self._questions: Queue[_Question] = Queue(WAITING_AT_MOST)
        self._asked: set[str] = set()
        self._answers: dict[str, Stated] = {}
        self._away_until: dict[str, datetime] = {}

    def knows(self, aet: str | None) -> bool:
        """Whether this sender can be asked."""
        return aet in self._pacs

    def of(self, study_instance_uid: str, *, aet: str, last_arrival_at: datetime) -> Stated | None:
        """The latest answer from since the last arrival; None while it is awaited. Asks again from time to time."""
        now = self._clock()
        answer = self._answers.get(study_instance_uid)
        if answer is not None and answer.asked_at < last_arrival_at:
            answer = None
        again_after = min(max((now - last_arrival_at) / 10, SOONEST), LATEST)
        if answer is None or now - answer.asked_at >= again_after:
            self._ask(_Question(pacs=self._pacs[aet], study_instance_uid=study_instance_uid))
        return answer

    def forget_all_but(self, study_instance_uids: set[str]) -> None:
        """Keep the answers about these studies alone."""
        for uid in self._answers.keys() - study_instance_uids:
            self._answers.pop(uid, None)

    def serve(self, stop: threading.Event) -> None:
        """Answer questions until told to stop: the thread's work."""
        while not stop.is_set():
            try:
                question = self._questions.get(timeout=IDLE_S)
            except Empty:
                continue
            try:
                self.answer(question)
            except Exception:  # noqa: BLE001  # the thread must outlive every surprise: studies wait longer, that is all
                logger().exception("asking the PACS failed", pacs=question.pacs.name)

    def answer_all(self) -> None:
        """Answer what is asked by now, in the caller's thread."""
        while not self._questions.empty():
            self.answer(self._questions.get_nowait())

    def answer(self, question: _Question) -> None:
        """Answer one question."""
        asked_at = self._clock()
        counts = None
        try:
            counts = self._counts(question, asked_at)
        finally:
            self._answers[question.study_instance_uid] = Stated(asked_at=asked_at, counts=counts)
            self._asked.discard(question.study_instance_uid)

    def _ask(self, question: _Question) -> None:
        if question.study_instance_uid in self._asked:
            return
        self._asked.add(question.study_instance_uid)
        try:
            self._questions.put_nowait(question)
        except Full:
            self._asked.discard(question.study_instance_uid)

    def _counts(self, question: _Question, now: datetime) -> Mapping[str, int] | None:
        name = question.pacs.name
        away_until = self._away_until.get(name)
        if away_until is not None and now < away_until:
            return None
        try:
            counts = self._find(question.pacs, question.study_instance_uid)
        except CoreadError as error:
            if away_until is None:
                logger().warning("the PACS does not say what it has; studies wait longer", pacs=name, reason=str(error))
            self._away_until[name] = now + AWAY
            return None
        if self._away_until.pop(name, None) is not None:
            logger().info("the PACS says again what it has", pacs=name)
        return counts


def find_counts(archive: Archive, pacs: PacsSettings, study_instance_uid: str) -> dict[str, int]:
    """What a PACS states, asked through Orthanc: SeriesInstanceUID → NumberOfSeriesRelatedInstances.

    Series of objects that speak about images are left out, and those of which it states no number. Raises
    ArchiveUnavailable or SourceGone if there is no answer.
    """
    counts = {}
    for series in archive.find_series(pacs.name, study_instance_uid, timeout_s=TIMEOUT_S):
        number = series.get("NumberOfSeriesRelatedInstances", "").strip()
        if number.isdecimal() and is_source(modality=series.get("Modality"), manufacturer=None):
            counts[series["SeriesInstanceUID"]] = int(number)
    return counts

"""What modality worklists say of a study that is complete, asked by C-FIND without holding up the intake.

A study waits for the answer for a moment, the others go on. Without an answer it is read all the same, by the routes
that do not ask for one: the history of its jobs says so.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from queue import Empty, Full, Queue
from typing import Any

from coread.archive import Archive
from coread.errors import CoreadError, WorklistUnavailable
from coread.logs import logger
from coread.settings_worklist import WorklistSettings

TIMEOUT_S = 5
"""A worklist answers in milliseconds to a few seconds; one that takes longer is as good as away."""
PATIENCE = timedelta(seconds=15)
"""How long a complete study waits for an answer, whatever the reason."""
AWAY = timedelta(seconds=30)
"""A worklist that did not answer is left alone for this long."""
WAITING_AT_MOST = 100
IDLE_S = 1.0
MOST_ENTRIES = 50
"""More entries of one request are not looked at."""

URGENT = frozenset({"STAT", "HIGH"})
"""Of Requested Procedure Priority (PS3.3 C.4.11): STAT, HIGH, ROUTINE, MEDIUM, LOW."""

CODE = {"CodeValue": "", "CodingSchemeDesignator": "", "CodeMeaning": ""}
RETURNED: Mapping[str, Any] = {
    "PatientID": "",
    "PatientBirthDate": "",
    "AccessionNumber": "",
    "StudyInstanceUID": "",
    "RequestedProcedurePriority": "",
    "RequestedProcedureCodeSequence": [CODE],
    "ScheduledProcedureStepSequence": [
        {"ScheduledProcedureStepDescription": "", "ScheduledProtocolCodeSequence": [CODE]}
    ],
}


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """What a worklist says of a study. ``values``: keyword → its values, as routes match them."""

    said: str
    """In words, for the history of the jobs; empty if nobody was asked."""
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    is_urgent: bool = False
    is_missing: bool = False
    """Whether nobody answered: what was ordered is not known."""


NOTHING = Ordered(said="")
NO_ENTRY = Ordered(said="the modality worklist has no entry of this study and patient")
NO_NUMBERS = Ordered(said="the modality worklist was not asked: the study has no AccessionNumber, and no PatientID")


@dataclass(frozen=True, kw_only=True)
class _Question:
    orthanc_id: str
    about: Mapping[str, str]


Find = Callable[[WorklistSettings, Mapping[str, Any]], list[dict[str, Any]]]


class Orders:
    """Asks in a thread of its own, and remembers the answers as long as the studies arrive."""

    def __init__(self, *, find: Find, worklists: Sequence[WorklistSettings], clock: Callable[[], datetime]) -> None:
        """``find``: the entries that fit a query; raises a CoreadError if there is no answer."""
        self._find = find
        self._worklists = worklists
        self._clock = clock
        self._questions: Queue[_Question] = Queue(WAITING_AT_MOST)
        self._asked_at: dict[str, datetime] = {}
        self._queued: set[str] = set()
        self._answers: dict[str, Ordered] = {}
        self._away_until: dict[str, datetime] = {}

    def of(self, orthanc_id: str, about: Callable[[], Mapping[str, str]]) -> Ordered | None:
        """What is said of a study; None while the answer is awaited. ``about``: what the archive says of it."""
        if not self._worklists:
            return NOTHING
        if orthanc_id in self._answers:
            return self._answers[orthanc_id]
        now = self._clock()
        asked_at = self._asked_at.setdefault(orthanc_id, now)
        if now - asked_at >= PATIENCE:
            said = f"the modality worklist did not answer within {PATIENCE.total_seconds():g} s"
            return Ordered(said=said, is_missing=True)
        if orthanc_id not in self._queued:
            self._queued.add(orthanc_id)
            try:
                self._questions.put_nowait(_Question(orthanc_id=orthanc_id, about=about()))
            except Full:
                self._queued.discard(orthanc_id)
            except BaseException:
                self._queued.discard(orthanc_id)
                raise
        return None

    def forget(self, orthanc_id: str) -> None:
        """The study is settled: next time it is asked about anew."""
        self._answers.pop(orthanc_id, None)
        self._asked_at.pop(orthanc_id, None)
        self._queued.discard(orthanc_id)

    def forget_all_but(self, orthanc_ids: set[str]) -> None:
        """Keep the answers about these studies alone."""
        for orthanc_id in {*self._answers, *self._asked_at} - orthanc_ids:
            self.forget(orthanc_id)

    def serve(self, stop: threading.Event) -> None:
        """Answer questions until told to stop: the thread's work."""
        while not stop.is_set():
            try:
                question = self._questions.get(timeout=IDLE_S)
            except Empty:
                continue
            try:
                self.answer(question)
            except Exception:  # noqa: BLE001  # the thread must outlive every surprise: studies are read without it
                logger().exception("asking the modality worklist failed")

    def answer_all(self) -> None:
        """Answer what is asked by now, in the caller's thread."""
        while not self._questions.empty():
            self.answer(self._questions.get_nowait())

    def answer(self, question: _Question) -> None:
        """Answer one question."""
        said = "the modality worklist did not answer as it should: Orthanc's log says how"
        found = Ordered(said=said, is_missing=True)
        try:
            found = ordered(question.about, self._worklists, self._find_unless_away)
        except WorklistUnavailable as error:
            found = Ordered(said=str(error), is_missing=True)
        finally:
            if question.orthanc_id in self._queued:
                self._answers[question.orthanc_id] = found

    def _find_unless_away(self, worklist: WorklistSettings, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        now = self._clock()
        away_until = self._away_until.get(worklist.name)
        if away_until is not None and now < away_until:
            raise WorklistUnavailable("it did not answer a moment ago")
        try:
            found = self._find(worklist, query)
        except CoreadError as error:
            if away_until is None:
                logger().warning("the modality worklist does not answer", worklist=worklist.name, reason=str(error))
            self._away_until[worklist.name] = now + AWAY
            raise
        if self._away_until.pop(worklist.name, None) is not None:
            logger().info("the modality worklist answers again", worklist=worklist.name)
        return found


def find_entries(archive: Archive, worklist: WorklistSettings, query: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries that fit, asked through Orthanc. Raises ArchiveUnavailable or SourceGone if there is no answer."""
    return archive.find_worklist(worklist.name, query, timeout_s=TIMEOUT_S)


def ordered(about: Mapping[str, str], worklists: Sequence[WorklistSettings], find: Find) -> Ordered:
    """What the first worklist that has an entry says of a study.

    Raises WorklistUnavailable if none has, and one did not answer.
    """
    query = query_for(about)
    if query is None:
        return NO_NUMBERS
    away = []
    for worklist in worklists:
        try:
            entries = [each for each in find(worklist, query)[:MOST_ENTRIES] if is_of(each, about)]
        except CoreadError:
            away.append(worklist.name)
            continue
        if entries:
            return _told(entries, worklist)
    if away:
        raise WorklistUnavailable(f"the modality worklist {', '.join(away)} did not answer")
    return NO_ENTRY


def query_for(about: Mapping[str, str]) -> dict[str, Any] | None:
    """The query for a study: by its AccessionNumber, else by patient and study. None if it has neither."""
    accession, patient = _plain(about.get("AccessionNumber")), _plain(about.get("PatientID"))
    if accession:
        return {**RETURNED, "AccessionNumber": accession}
    if patient:
        return {**RETURNED, "PatientID": patient, "StudyInstanceUID": about.get("StudyInstanceUID", "")}
    return None


def is_of(entry: Mapping[str, Any], about: Mapping[str, str]) -> bool:
    """Whether an entry is of the study's patient: the same PatientID, and no other date of birth."""
    patient, born = _text(entry, "PatientID"), _text(entry, "PatientBirthDate")
    if not patient or patient != str(about.get("PatientID", "")).strip():
        return False
    return not born or not about.get("PatientBirthDate") or born == about["PatientBirthDate"].strip()


def values_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """What routes may ask of entries, all of them together."""
    steps = [step for entry in entries for step in _items(entry, "ScheduledProcedureStepSequence")]
    return {
        "RequestedProcedurePriority": _distinct(_text(entry, "RequestedProcedurePriority") for entry in entries),
        "RequestedProcedureCodeSequence": _distinct(
            _code(item) for entry in entries for item in _items(entry, "RequestedProcedureCodeSequence")
        ),
        "ScheduledProcedureStepDescription": _distinct(
            _text(step, "ScheduledProcedureStepDescription") for step in steps
        ),
        "ScheduledProtocolCodeSequence": _distinct(
            _code(item) for step in steps for item in _items(step, "ScheduledProtocolCodeSequence")
        ),
    }


def is_urgent(values: Mapping[str, Sequence[str]]) -> bool:
    """Whether what was ordered is to be done before other work."""
    return bool(URGENT & set(values.get("RequestedProcedurePriority", ())))


def _told(entries: Sequence[Mapping[str, Any]], worklist: WorklistSettings) -> Ordered:
    values = values_of(entries)
    priorities = values["RequestedProcedurePriority"]
    known = [each for each in priorities if each in {*URGENT, "ROUTINE", "MEDIUM", "LOW"}]
    said = f"the modality worklist {worklist.name} has it with priority {', '.join(known) or 'unsaid'}"
    return Ordered(said=said, values=values, is_urgent=worklist.raises_priority and is_urgent(values))


def _plain(text: str | None) -> str:
    """A value that can be asked for: without what would match others, too (PS3.4 C.2.2.2.4)."""
    stripped = (text or "").strip()
    return "" if set(stripped) & set("*?\\") else stripped


def _text(entry: Mapping[str, Any], keyword: str) -> str:
    value = entry.get(keyword)
    return value.strip(" \0") if isinstance(value, str) else ""


def _items(entry: Mapping[str, Any], keyword: str) -> list[Mapping[str, Any]]:
    value = entry.get(keyword)
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _code(item: Mapping[str, Any]) -> str:
    value = _text(item, "CodeValue")
    return f"{value}^{_text(item, 'CodingSchemeDesignator')}" if value else ""


def _distinct(texts: Any) -> tuple[str, ...]:
    return tuple(sorted({text for text in texts if text}))

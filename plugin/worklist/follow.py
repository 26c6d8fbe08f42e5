"""Keeps the index true: follows Orthanc's change log and the ledger, and lists all studies when the index is new.

What has changed is never trusted to be told once and in order: a study that anything tells of is looked at anew, in
Orthanc and in the ledger, and its row is written if it differs.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from coread.archive import Archive
from coread.job import JobState
from coread.ledger import ArrivingStudy, JobRecord, Ledger
from coread.ledger.following import Marks
from coread.logs import logger
from coread.plugin.worklist.index import Index
from coread.plugin.worklist.joined import Joined
from coread.plugin.worklist.rows import Facts, Progress, Row, StudyState, facts_of, gravest, progress_of

PAGE = 100
"""Studies that are looked at together: Orthanc answers in a tenth of a second."""
CHANGES_PER_PAGE = 2000
OF_STUDIES = frozenset({"NewStudy", "StableStudy", "UpdatedMetadata"})
OF_SERIES = frozenset({"NewSeries", "StableSeries"})
SETTLED = timedelta(minutes=1)
"""After so long no row of the ledger shows up any more below one that was seen: no transaction takes as long."""
LIST_AGAIN = timedelta(minutes=10)
"""So often all studies are listed, in case Orthanc's word of a deletion was missed."""
MOST_AHEAD = 200_000
"""Rows of the ledger: with more, as after a backup of the index was restored, it is quicker to begin anew."""
BUILDING_S = 0.5
"""How long a step goes on making the index, before it looks at what is new."""


class Rows:
    """Numbers of rows that tell of something: those that are new, though lower ones may still show up late."""

    def __init__(self, mark: int) -> None:
        self.mark = mark
        """No row up to here will show up any more."""
        self._seen: dict[int, datetime] = {}

    def new(self, numbers: Collection[int], *, at: datetime) -> list[int]:
        """Those of the rows after the mark that were not seen before. Moves the mark on."""
        new = [number for number in numbers if number not in self._seen]
        self._seen |= dict.fromkeys(new, at)
        settled = [number for number, seen_at in self._seen.items() if at - seen_at >= SETTLED]
        self.mark = max([self.mark, *settled])
        self._seen = {number: seen_at for number, seen_at in self._seen.items() if number > self.mark}
        return new


class Follower:
    """Writes the index. One thread calls ``step``; ``note_deleted`` may be called by any."""

    def __init__(
        self,
        *,
        archive: Archive,
        archive_identity: str,
        ledger: Ledger,
        index: Index,
        clock: Callable[[], datetime],
        joined: Joined,
    ) -> None:
        self._archive = archive
        self._archive_identity = archive_identity
        self._ledger = ledger
        self._index = index
        self._clock = clock
        self._joined = joined
        self._deleted: deque[str] = deque()
        self._in_orthanc: set[str] = set()
        """Studies whose facts are to be looked at."""
        self._in_ledger: set[str] = set()
        """Studies whose progress is to be looked at."""
        self._change = 0
        self._events = Rows(0)
        self._audit = Rows(0)
        self._arriving: dict[str, ArrivingStudy] = {}
        self._to_list: list[str] | None = None
        """Studies that have no row yet; None before they were listed."""
        self._listed_at: datetime | None = None

    @property
    def left(self) -> int | None:
        """How many studies have no row yet; None if that is not known."""
        return None if self._to_list is None else len(self._to_list)

    def note_deleted(self, orthanc_id: str) -> None:
        """Take note that Orthanc says that a study was deleted: its change log does not."""
        self._deleted.append(orthanc_id)

    def step(self) -> None:
        """Write what has changed. Raises ArchiveUnavailable and LedgerUnavailable; the next step goes on then."""
        if self._listed_at is None:
            self._begin()
        elif not self._to_list and self._clock() - self._listed_at >= LIST_AGAIN:
            self._list()
        self._follow()
        self._build()

    def _begin(self) -> None:
        """Take up the index where it was left, or begin it anew if it is not this archive's."""
        self._index.prepare()
        newest = self._archive.last_change()
        marks = self._ledger.marks()
        notes = self._index.notes()
        if notes.get("archive") != self._archive_identity or not _may_follow(notes, marks):
            self._index.clear()
            notes = {"change": f"{newest}", "event": f"{marks.event}", "audit": f"{marks.audit}"}
            self._index.note(archive=self._archive_identity, **notes)
        # The log can end before what was read of it: lines go with the studies that are deleted.
        self._change = min(int(notes["change"]), newest)
        self._events, self._audit = Rows(int(notes["event"])), Rows(int(notes["audit"]))
        # Of a study that no model reads, no row of the ledger tells that it is complete.
        self._in_ledger |= self._index.ids(states=(StudyState.ARRIVING, StudyState.STALLED))
        self._list()

    def _list(self) -> None:
        """See which studies have no row, and which rows no study."""
        there = self._archive.all_studies()
        rows = self._index.ids()
        self._index.remove(sorted(rows.difference(there)))
        # The newest, which stand last, are wanted first.
        self._to_list = [study for study in there if study not in rows]
        self._listed_at = self._clock()

    def _build(self) -> None:
        until = time.monotonic() + BUILDING_S
        while self._to_list and time.monotonic() < until:
            some = self._to_list[-PAGE:]
            self._look_at(some, anew=some)
            del self._to_list[-len(some) :]

    def _follow(self) -> None:
        self._hear_orthanc()
        self._hear_ledger()
        changed = sorted(self._in_orthanc | self._in_ledger)
        for start in range(0, len(changed), PAGE):
            some = changed[start : start + PAGE]
            self._look_at(some, anew=self._in_orthanc.intersection(some))
            # Only now: if that failed, it is done again, and in another life if need be.
            self._in_orthanc.difference_update(some)
            self._in_ledger.difference_update(some)
        notes = {"change": self._change, "event": self._events.mark, "audit": self._audit.mark}
        known = self._index.notes()
        newer = {name: f"{value}" for name, value in notes.items() if known.get(name) != f"{value}"}
        if newer:
            self._index.note(**newer)

    def _hear_orthanc(self) -> None:
        """Note the studies that Orthanc's log tells of, and those that it says are gone."""
        while True:
            changes, last = self._archive.changes(since=self._change, limit=CHANGES_PER_PAGE)
            if not changes:
                break
            series = sorted({change.orthanc_id for change in changes if change.kind in OF_SERIES})
            for start in range(0, len(series), PAGE):
                found = self._archive.at_hand(series[start : start + PAGE], level="Study")
                self._in_orthanc |= {str(study["ID"]) for study in found}
            self._in_orthanc |= {change.orthanc_id for change in changes if change.kind in OF_STUDIES}
            self._change = last
        while self._deleted:
            self._in_orthanc.add(self._deleted.popleft())

    def _hear_ledger(self) -> None:
        """Note the studies whose jobs the ledger's new rows tell of, and those that wait for something else now."""
        told = self._ledger.told_since(Marks(event=self._events.mark, audit=self._audit.mark))
        now = self._clock()
        self._in_ledger |= {told.events[number] for number in self._events.new(told.events, at=now)}
        self._in_ledger |= {told.audit[number] for number in self._audit.new(told.audit, at=now)}
        arriving = {study.orthanc_id: study for study in self._ledger.arriving()}
        for study in arriving.keys() | self._arriving.keys():
            if _said(arriving.get(study)) != _said(self._arriving.get(study)):
                self._in_ledger.add(study)
        # Images that joined a series which was there: the log may never call the study stable.
        self._in_orthanc |= arriving.keys() ^ self._arriving.keys()
        self._arriving = arriving

    def _look_at(self, orthanc_ids: Sequence[str], *, anew: Collection[str]) -> None:
        """Write the rows of studies; ``anew``: those whose facts are asked for even if they are known."""
        known = self._index.rows(orthanc_ids)
        asked = [study for study in orthanc_ids if study in anew or study not in known]
        found = self._facts(asked)
        self._index.remove([study for study in asked if study not in found])
        facts = {study: row.facts for study, row in known.items() if study not in asked} | found
        there = [study for study in orthanc_ids if study in facts]
        progress = self._progress({study: facts[study].study_instance_uid for study in there})
        self._index.write([Row(facts=facts[study], progress=progress[study]) for study in there])

    def _facts(self, orthanc_ids: Sequence[str]) -> dict[str, Facts]:
        studies = self._archive.at_hand(orthanc_ids, level="Study")
        series: dict[str, list[dict[str, object]]] = {}
        for each in self._archive.at_hand(orthanc_ids, level="Series"):
            series.setdefault(str(each["ParentStudy"]), []).append(each)
        facts = [facts_of(study, series.get(str(study["ID"]), ())) for study in studies]
        return {each.orthanc_id: each for each in facts}

    def _progress(self, studies: Mapping[str, str]) -> dict[str, Progress]:
        """Orthanc id → progress; ``studies``: Orthanc id → StudyInstanceUID."""
        orthanc_ids = list(studies)
        standings = self._ledger.standing(orthanc_ids)
        done = {
            study: [each.record for each in standings.get(study, ()) if each.record.state is JobState.DONE]
            for study in orthanc_ids
        }
        raised = self._joined.raised(orthanc_ids)
        archive_runs = self._joined.archive_runs(studies)
        verdicts = self._joined.verdicts([record for records in done.values() for record in records])
        return {
            study: progress_of(
                standings.get(study, ()),
                self._arriving.get(study),
                key_findings=[self._key_finding(record) for record in records],
                raised=raised.get(study, ()),
                review=gravest(verdicts.get(record.job.job_id, "") for record in records),
                archive_run=archive_runs.get(study, ""),
            )
            for study, records in done.items()
        }

    def _key_finding(self, record: JobRecord) -> str:
        try:
            return self._joined.key_finding(record.result)
        except Exception as error:  # noqa: BLE001  # an odd result of one study must not hold up the others' rows
            logger().warning("key finding not told", job_id=record.job.job_id, kind=type(error).__name__)
            return ""


def _may_follow(notes: Mapping[str, str], marks: Marks) -> bool:
    """Whether the ledger is the one that was followed, as far as its numbers tell, and not too far ahead."""
    ahead = (marks.event - int(notes["event"]), marks.audit - int(notes["audit"]))
    return all(0 <= each <= MOST_AHEAD for each in ahead)


def _said(study: ArrivingStudy | None) -> object:
    """What of an arriving study the list shows."""
    return study and replace(study.wait, stated=None, instances=None)

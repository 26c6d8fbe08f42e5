"""Gathers what is known of a study that arrives, for the decision whether it is complete.

What is fetched from Orthanc is kept until the study changes: a study of 10,000 images is looked at once, not at every
step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from coread.archive import UID, Archive, ArchivedSeries, ArchivedStudy, Origin
from coread.errors import InputError, SourceGone
from coread.ledger import ArrivingStudy
from coread.plugin.completeness import SeriesEvidence, StudyEvidence
from coread.plugin.connections import Associations
from coread.plugin.stacks import Shape, shape_of
from coread.plugin.stated import Stated, StatedCounts

UNKNOWN_ORIGIN = Origin(by_dicom=True, aet=None, ip=None)


@dataclass(frozen=True, kw_only=True)
class _Series:
    uid: str
    here: int
    shape: Shape
    expected: int | None


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """What Orthanc has of a study, as of one change of its log."""

    last_change: int
    study_instance_uid: str
    series: tuple[_Series, ...]
    other_series: frozenset[str]
    """SeriesInstanceUIDs of those that no model may read."""
    last_series: str | None
    origin: Origin


class EvidenceGatherer:
    """Looks at studies on behalf of the intake, and remembers what it saw of each."""

    def __init__(
        self, *, archive: Archive, associations: Associations, stated: StatedCounts, watching_since: datetime
    ) -> None:
        """``watching_since``: when the plugin started. While it was not running, nothing could arrive: that was no
        quiet.
        """
        self._watching_since = watching_since
        self.associations = associations
        self._archive = archive
        self._stated = stated
        self._seen: dict[str, _Contents] = {}

    def forget_all_but(self, studies: set[str]) -> None:
        """Keep what was seen of these studies (Orthanc ids) alone."""
        self._seen = {study: contents for study, contents in self._seen.items() if study in studies}
        self.associations.forget_all_but(studies)
        self._stated.forget_all_but({contents.study_instance_uid for contents in self._seen.values()})

    def study_instance_uid(self, study: str) -> str:
        """The StudyInstanceUID of a study (Orthanc id) that was looked at."""
        return self._seen[study].study_instance_uid

    def forget(self, study: str) -> None:
        """Look anew at a study (Orthanc id)."""
        self._seen.pop(study, None)

    def of(self, study: ArrivingStudy) -> StudyEvidence:
        """What is known of a study. Raises SourceGone if it was deleted, ArchiveUnavailable if Orthanc fails."""
        contents = self._contents(study)
        answer, asking = self._answer(study, contents)
        # A count that was stated before a restart, or before the PACS went away, is still the least that there is.
        # A PACS that lists nothing of a study which it has sent has said nothing: what it said before counts.
        counts: Mapping[str, int] = (answer.counts if answer else None) or study.wait.stated or {}
        here = {series.uid for series in contents.series} | contents.other_series
        return StudyEvidence(
            series=tuple(
                SeriesEvidence(
                    series_instance_uid=series.uid,
                    here=series.here,
                    shape=series.shape,
                    expected=series.expected,
                    stated=counts.get(series.uid),
                )
                for series in contents.series
            ),
            last_arrival_at=max(study.last_arrival_at, self._watching_since),
            longest_pause=timedelta(seconds=study.longest_pause_s),
            last_series=contents.last_series,
            association=self.associations.of(study.orthanc_id),
            stated_at=answer.asked_at if answer and answer.counts is not None else None,
            asking=asking,
            not_begun=len(counts.keys() - here),
        )

    def _answer(self, study: ArrivingStudy, contents: _Contents) -> tuple[Stated | None, bool]:
        """What the source PACS says, and whether it is still to say it."""
        aet = contents.origin.aet
        if aet is None or not self._stated.knows(aet):
            return None, False
        answer = self._stated.of(contents.study_instance_uid, aet=aet, last_arrival_at=study.last_arrival_at)
        return answer, answer is None

    def _contents(self, study: ArrivingStudy) -> _Contents:
        seen = self._seen.get(study.orthanc_id)
        if seen is None or seen.last_change != study.last_change:
            seen = self._seen[study.orthanc_id] = self._look(study)
        return seen

    def _look(self, study: ArrivingStudy) -> _Contents:
        found = self._archive.study(study.orthanc_id)
        _check_uids(found)
        sources = found.sources
        source_ids = {series.orthanc_id for series in sources}
        return _Contents(
            last_change=study.last_change,
            study_instance_uid=found.study_instance_uid,
            series=tuple(map(_seen, sources)),
            other_series=frozenset(_uid(series) for series in found.series if series.orthanc_id not in source_ids),
            last_series=next((_uid(series) for series in sources if study.last_instance in series.instances), None),
            origin=origin_of(self._archive, study.last_instance),
        )


def _check_uids(study: ArchivedStudy) -> None:
    """Raises InputError unless study and series have UIDs (PS3.5 9.1): what else stands there may name the patient."""
    wrong = [uid for uid in (study.study_instance_uid, *map(_uid, study.sources)) if not UID.fullmatch(uid)]
    if wrong:
        raise InputError(
            f"expected UIDs of at most 64 digits and dots for the study and its series, found {len(wrong)} that are "
            "none; correct them at the sender and send the study again"
        )


def origin_of(archive: Archive, instance: str | None) -> Origin:
    """Where an instance (Orthanc id) came from; of one that is gone nothing is known."""
    try:
        return archive.origin(instance) if instance else UNKNOWN_ORIGIN
    except SourceGone:
        return UNKNOWN_ORIGIN


def _uid(series: ArchivedSeries) -> str:
    return series.tags["SeriesInstanceUID"]


def _seen(series: ArchivedSeries) -> _Series:
    return _Series(
        uid=_uid(series),
        here=len(series.instances),
        shape=shape_of(series.tags.get("Modality"), list(series.instance_tags.values())),
        expected=series.expected_instances,
    )

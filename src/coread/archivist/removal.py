"""Removing what a run has brought: only that, and only if nobody else has anything to do with it."""

import time
from collections.abc import Collection
from datetime import datetime

from coread.archive import HELD_S, Archive, ArchivedStudy
from coread.archive_run import Copy, RunStudy
from coread.copies import HALF, Bringer, contents_of, is_brought
from coread.errors import ArchiveUnavailable, CoreadError, SourceGone
from coread.ledger import Ledger
from coread.logs import logger

LOOK_S = HELD_S / 3
"""A look at a copy that takes longer is not relied on: the study may be held no more, and something may have come."""


def is_ours(
    study: ArchivedStudy, archive: Archive, *, brought: str | None, results: Collection[str], bringer: Bringer | None
) -> bool:
    """Whether nothing of a study is anybody else's. ``results``: SOP Instance UIDs of what the run's jobs have stored.

    Instances that no model reads, such as what a person said of a result, count as well.
    """
    if not is_brought(study, lambda: archive.arrivals(study.orthanc_id), brought=brought, bringer=bringer):
        return False
    if brought is not None:
        return contents_of(study, without=results)[HALF:] == brought[HALF:]
    ours = [each for each in archive.arrivals(study.orthanc_id) if each.sop_instance_uid not in results]
    return bringer is not None and all(map(bringer.has_sent, ours))


def remove_copy(
    archive: Archive, orthanc_id: str, *, brought: str | None, results: Collection[str], bringer: Bringer | None
) -> tuple[Copy, int]:
    """Remove a study that a run has brought, with its results. What has become of it, and how many instances it had.

    What is gone already counts as removed. The study must be held; raises ArchiveUnavailable if our Orthanc is so slow
    that it may be held no longer.
    """
    begun = time.monotonic()
    try:
        study = archive.study(orthanc_id)
        if not is_ours(study, archive, brought=brought, results=results, bringer=bringer):
            return Copy.SHARED, 0
    except SourceGone:
        return Copy.REMOVED, 0
    if (took := time.monotonic() - begun) > LOOK_S:
        raise ArchiveUnavailable(
            f"expected our Orthanc to list a study within {LOOK_S:g} s, it took {took:.0f} s; what came of the study "
            "meanwhile might be lost, so its copy is removed later"
        )
    archive.delete_study(orthanc_id)
    return Copy.REMOVED, sum(len(series.instances) for series in study.series)


def clear_away(
    study: RunStudy, copy: Copy, *, ledger: Ledger, archive: Archive, bringer: Bringer | None, at: datetime
) -> Copy:
    """Remove what came of a study that is not whole: nobody reads it, and it takes room. Whose what is left is.

    What somebody else has sent of, or may have, is kept, and the intake looks at it as ever. The study must count as
    being retrieved, so that no other run begins with it meanwhile.
    """
    if copy is not Copy.OURS:
        return copy if copy is Copy.SHARED else Copy.UNKNOWN
    found = archive.studies_with(study.study_instance_uid)
    if not found:
        return Copy.UNKNOWN
    with archive.held([study.study_instance_uid]):
        is_alone = archive.was_alone(study.study_instance_uid)
        now = ledger.run_study(study.run_id, study.position)
        if is_alone and (now is None or now.copy is not Copy.SHARED):
            left = {remove_copy(archive, each, brought=None, results=(), bringer=bringer)[0] for each in found}
            if left == {Copy.REMOVED}:
                return Copy.UNKNOWN
    ledger.leave_copies(study.study_instance_uid, found, at=at)
    return Copy.SHARED


def unwatch(study: RunStudy, archive: Archive) -> None:
    """Only once it is written down how it ended: an archivist that is killed before still has to be told."""
    try:
        archive.unwatch(study.study_instance_uid)
    except CoreadError as error:
        logger().warning("study is still watched", reason=str(error))

"""Removing what a run has brought: only that, and only if nobody else has anything to do with it."""

from collections.abc import Collection

from coread.archive import Archive, ArchivedStudy
from coread.archive_run import Copy
from coread.copies import HALF, Bringer, contents_of, is_brought
from coread.errors import SourceGone


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

    What is gone already counts as removed.
    """
    try:
        study = archive.study(orthanc_id)
        if not is_ours(study, archive, brought=brought, results=results, bringer=bringer):
            return Copy.SHARED, 0
    except SourceGone:
        return Copy.REMOVED, 0
    archive.delete_study(orthanc_id)
    return Copy.REMOVED, sum(len(series.instances) for series in study.series)

"""Copies: studies that an archive run has brought into our Orthanc. What they hold, and who has sent it.

Whether a copy may be removed, and whether anybody but the run reads it, is told by these. In doubt, it is somebody
else's: then it is read as ever, and kept.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from coread.archive import ArchivedStudy, Arrived
from coread.archive_run import HERE
from coread.errors import ConfigurationError
from coread.job import fingerprint_of
from coread.settings import Settings
from coread.settings_sources import DimseSource, find_source

HALF = 32
"""Characters of a digest that are kept of it."""


def contents_of(study: ArchivedStudy, *, without: Collection[str] = ()) -> str:
    """What a study holds, and which copies of it: of the instances that a model may read, and of the others but for
    those with the SOP Instance UIDs ``without``.
    """
    sources = {series.orthanc_id for series in study.sources}
    others = fingerprint_of(
        f"{uid} {series.copies.get(orthanc_id)}"
        for series in study.series
        if series.orthanc_id not in sources
        for orthanc_id, uid in series.instances.items()
        if uid not in without
    )
    return study.revision[:HALF] + others[:HALF]


def has_same_sources(study: ArchivedStudy, brought: str) -> bool:
    """Whether a study has the instances that a model may read which it had, in the same copies."""
    return study.revision[:HALF] == brought[:HALF]


@dataclass(frozen=True, kw_only=True)
class Bringer:
    """Who brings the studies of a source into our Orthanc."""

    aet: str | None = None
    """The source's title, if it sends by itself (C-MOVE); None: we store over HTTP."""
    called_aet: str | None = None
    """The title by which it then calls our Orthanc."""
    is_told_apart: bool = False
    """Whether nobody else calls it so: what comes by that title comes for a run."""
    user: str = ""
    """Whom Orthanc lets in as us."""

    def has_sent(self, arrived: Arrived) -> bool:
        """Whether an instance came as the source's do."""
        if arrived.by_dicom:
            return self.aet is not None and (arrived.aet, arrived.called_aet) == (self.aet, self.called_aet)
        return self.aet is None and arrived.by_rest and arrived.user == self.user


Bringers = Callable[[str], Bringer | None]
"""Name of a source → who brings its studies; None if there is no such source."""


def bringer_of(settings: Settings, name: str) -> Bringer | None:
    """Who brings the studies of a source of the settings; None if there is none of that name."""
    try:
        source = find_source(name, settings.source)
    except ConfigurationError:
        return None
    user = settings.orthanc_login[0] if settings.orthanc_login else ""
    if name == HERE:
        return None
    if isinstance(source, DimseSource) and source.retrieve == "move":
        called = source.move_to or settings.orthanc.aet
        return Bringer(aet=source.aet, called_aet=called, is_told_apart=called != settings.orthanc.aet)
    return Bringer(user=user)


def is_brought(
    study: ArchivedStudy, arrivals: Callable[[], Iterable[Arrived]], *, brought: str | None, bringer: Bringer | None
) -> bool:
    """Whether all that a model may read of a study was brought by a run. ``brought``: what it had when the run had
    brought it whole; None: the run is still at it, or never came so far. ``arrivals``: how its instances came.

    What came in the source's way, but after the study was whole, may have been sent to us by itself, as archives do.
    That is the run's only if the title that it came by is told to nobody else.
    """
    if brought is not None and has_same_sources(study, brought):
        return True
    if bringer is None or (brought is not None and not bringer.is_told_apart):
        return False
    sources = {uid for series in study.sources for uid in series.instances.values()}
    return all(bringer.has_sent(each) for each in arrivals() if each.sop_instance_uid in sources)

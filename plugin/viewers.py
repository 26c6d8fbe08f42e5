"""The links from a study to viewers: those of the settings, or else to the OHIF that is installed here."""

from collections.abc import Mapping

from coread.ohif import ROOT, installed
from coread.settings import Settings
from coread.viewer_links import ViewerLink

OHIF = ViewerLink(name="OHIF", url=f"{ROOT}viewer?StudyInstanceUIDs={{StudyInstanceUID}}")


def links_of(settings: Settings, study_facts: Mapping[str, str]) -> list[dict[str, str]]:
    """The name and URL of each viewer that the study can be opened in.

    ``study_facts``: by keyword, and the study's ``orthanc_id``; what a study lacks, it cannot be found by.
    """
    known = settings.viewer or ((OHIF,) if installed(settings.viewer_home) else ())
    links = ((viewer.name, viewer.of(study_facts)) for viewer in known)
    return [{"name": name, "url": url} for name, url in links if url is not None]

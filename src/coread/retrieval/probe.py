"""A sign of life of a source."""

from pynetdicom.presentation import build_context

from coread.retrieval.dicomweb import open_dicomweb
from coread.retrieval.dimse import FIND, GET, MOVE, Link, find
from coread.settings import Settings
from coread.settings_sources import DicomwebSource, DimseSource

TIMEOUT_S = 10.0
"""How long somebody waits who wants to know whether a source answers."""
NOBODYS = "2.25.0"
"""A StudyInstanceUID that no study has."""


def probe_source(source: DimseSource | DicomwebSource, settings: Settings) -> None:
    """Ask a source for a study that it does not have: more than a C-ECHO, it says whether we may query and, by DIMSE,
    whether we are offered what the studies are to come by.

    Raises SourceUnavailable, SourceBusy, SourceRefuses or ConfigurationError if not.
    """
    asked = {"StudyInstanceUID": NOBODYS}
    patient = source.model_copy(update={"timeout_s": min(TIMEOUT_S, source.timeout_s)})
    if isinstance(patient, DicomwebSource):
        with open_dicomweb(patient) as services:
            list(services.find("/studies", asked))
        return
    tls = settings.dicom_tls.client_context() if patient.tls else None
    link = Link(patient, calling_aet=settings.orthanc.aet, tls=tls)
    retrieval = MOVE if patient.retrieve == "move" else GET
    contexts = [build_context(FIND), build_context(retrieval)]
    try:
        link.association(contexts, wanted=[FIND, retrieval])
        list(find(link, "STUDY", asked, contexts=contexts))
    finally:
        link.close()

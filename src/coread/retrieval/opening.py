"""How a source is reached."""

from collections.abc import Iterator
from contextlib import contextmanager

from coread.archive import Archive
from coread.retrieval.dicomweb import DicomwebRetriever, open_dicomweb
from coread.retrieval.dimse import DimseRetriever
from coread.retrieval.here import HereRetriever
from coread.retrieval.retriever import Retriever
from coread.retrieval.shelf import Shelf
from coread.settings import Settings
from coread.settings_sources import DicomwebSource, DimseSource, Here


@contextmanager
def open_source(source: DimseSource | DicomwebSource | Here, settings: Settings) -> Iterator[Retriever]:
    """A way to a source, closed after the block. No connection is made before it is needed. ``find_source`` has the
    source of a name.
    """
    with Archive(settings.orthanc_url, auth=settings.orthanc_login) as archive:
        shelf = Shelf(archive)
        if isinstance(source, Here):
            yield HereRetriever(shelf)
        elif isinstance(source, DicomwebSource):
            with open_dicomweb(source) as services:
                yield DicomwebRetriever(services, shelf)
        else:
            tls = settings.dicom_tls.client_context() if source.tls else None
            retriever = DimseRetriever(source, shelf, our_aet=settings.orthanc.aet, tls=tls)
            try:
                yield retriever
            finally:
                retriever.close()

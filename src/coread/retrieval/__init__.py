"""Studies come from an archive of somebody else's into our Orthanc: C-MOVE, C-GET, WADO-RS; or are here already."""

from coread.retrieval.opening import open_source
from coread.retrieval.retriever import Retrieved, Retriever

__all__ = ["Retrieved", "Retriever", "open_source"]

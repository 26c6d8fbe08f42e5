"""Studies that are in our Orthanc already: there is nothing to retrieve."""

from coread.errors import NotInSource
from coread.retrieval.retriever import Retrieved
from coread.retrieval.shelf import Shelf


class HereRetriever:
    """See Retriever."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def stated(self, study_instance_uid: str) -> int | None:
        """See Retriever.stated."""
        return self.retrieve(study_instance_uid).instances

    def retrieve(self, study_instance_uid: str) -> Retrieved:
        """See Retriever.retrieve."""
        here = self._shelf.count(study_instance_uid)
        if here is None:
            raise NotInSource(f"our Orthanc has no study {study_instance_uid}")
        return here

    def abort(self) -> None:
        """See Retriever.abort. Nothing takes long enough to be broken off."""

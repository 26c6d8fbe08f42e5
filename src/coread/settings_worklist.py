"""``[[worklist]]``: the modality worklists that are asked what was ordered."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from coread.routes import OF_WORKLIST, Route


class WorklistSettings(BaseModel):
    """``[[worklist]]``: a server of the Modality Worklist service (PS3.4 annex K), such as the RIS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    """What Orthanc calls it."""
    aet: Annotated[str, Field(pattern=r"^[\x21-\x5b\x5d-\x7e ]{1,16}$")]
    """Its application entity title."""
    host: Annotated[str, Field(min_length=1)]
    """Its host name or IP address."""
    port: Annotated[int, Field(ge=1, le=65535)] = 104
    """The port of its DICOM server."""
    tls: bool = False
    """Whether it speaks TLS."""
    raises_priority: bool = True
    """Whether a Requested Procedure Priority of STAT or HIGH makes the study's jobs `stat`."""


def keywords_of_worklist(route: Route) -> AbstractSet[str]:
    """What a route asks of the modality worklist."""
    return set(route.match) & OF_WORKLIST


def check_worklists(worklists: Sequence[WorklistSettings], *, pacs: AbstractSet[str], routes: Sequence[Route]) -> None:
    """Raises ValueError if two servers have the same name, or a route asks for what no worklist could say."""
    names = [worklist.name for worklist in worklists]
    if len(set(names)) != len(names) or set(names) & pacs:
        raise ValueError("two worklists, or a worklist and a PACS, have the same name")
    for route in () if worklists else routes:
        asked = sorted(keywords_of_worklist(route))
        if asked:
            raise ValueError(
                f"route {route.name}: {', '.join(asked)} comes from a modality worklist; expected a [[worklist]] entry"
            )

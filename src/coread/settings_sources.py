"""``[[source]]``: archives that studies are retrieved from, for runs over many of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from coread.archive_run import HERE
from coread.errors import ConfigurationError
from coread.settings_section import ApplicationEntityTitle, DicomwebAddress, EntryName, Seconds, Section


class DimseSource(Section):
    """``[[source]]`` with ``protocol = "dimse"``: it is asked by C-FIND, and its studies come by C-MOVE or C-GET."""

    name: EntryName
    """The source's name, for plans and people."""
    protocol: Literal["dimse"]
    """`dimse`."""
    aet: ApplicationEntityTitle
    """Its application entity title."""
    host: Annotated[str, Field(min_length=1)]
    """Its host name or IP address."""
    port: Annotated[int, Field(ge=1, le=65535)] = 104
    """The port of its DICOM server."""
    tls: bool = False
    """Whether it speaks TLS, with the certificates of `[dicom_tls]`."""
    calling_aet: ApplicationEntityTitle | None = None
    """The title by which we call it; by default `orthanc.aet`."""
    retrieve: Literal["move", "get"] = "move"
    """`move`: it sends to our Orthanc by itself (C-MOVE), and must know that; `get`: it answers in our association."""
    move_to: ApplicationEntityTitle | None = None
    """The title by which it knows our Orthanc as a destination of C-MOVE; by default `orthanc.aet`."""
    timeout_s: Seconds = 300.0
    """How long it may say nothing while it answers; old studies may have to be fetched from tape first."""


class DicomwebSource(DicomwebAddress):
    """``[[source]]`` with ``protocol = "dicomweb"``: it is asked by QIDO-RS, and its studies come by WADO-RS."""

    name: EntryName
    """The source's name, for plans and people."""
    protocol: Literal["dicomweb"]
    """`dicomweb`."""
    transfer_syntax: Annotated[str, Field(pattern=r"^(\*|[0-9.]{1,64})?$")] = "*"
    """What instances are asked for in: `*`: as they are stored; or a UID; empty: the server's choice."""
    timeout_s: Seconds = 300.0
    """How long it may say nothing while it answers."""


Source = Annotated[DimseSource | DicomwebSource, Field(discriminator="protocol")]


@dataclass(frozen=True)
class Here:
    """Our own Orthanc: what is in it needs no retrieval."""

    name: str = HERE


def find_source(name: str, sources: Sequence[DimseSource | DicomwebSource]) -> DimseSource | DicomwebSource | Here:
    """The source of a name, ``here`` included. Raises ConfigurationError, which says which there are."""
    known: dict[str, DimseSource | DicomwebSource | Here] = {HERE: Here(), **{each.name: each for each in sources}}
    if name not in known:
        raise ConfigurationError(
            f"there is no source {name}; there are: {', '.join(known)}; describe one under [[source]] in the settings"
        )
    return known[name]


def check_sources(sources: Sequence[DimseSource | DicomwebSource], *, as_one: Callable[[str], str]) -> None:
    """Raises ValueError if two sources cannot be told apart. ``as_one``: a name as it stands in the environment, where
    names that look alike would share a password.
    """
    names = [as_one(source.name) for source in sources]
    if len(set(names)) != len(names):
        raise ValueError("two sources have the same name, or differ only in case, - and _")
    if HERE in names:
        raise ValueError(f"a source is called {HERE}, which is our own Orthanc; give it another name")

"""``[dicom_tls]`` and ``[[sender]]``: who may speak DICOM with us, and how it is kept from others on the way."""

import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from coread.errors import ConfigurationError
from coread.settings_section import ApplicationEntityTitle, EntryName, Section

TLS_FILES = ("certificate_file", "key_file", "ca_file")


class DicomTlsSettings(Section):
    """``[dicom_tls]``: our certificate for DICOM over TLS, and whose certificates we trust (PS3.15 B.9 to B.11)."""

    incoming: bool = False
    """Whether the DICOM server takes associations over TLS, and no others."""
    certificate_file: Path | None = None
    """Our certificate, PEM, with those between it and its authority."""
    key_file: Path | None = None
    """Its key, PEM, without a passphrase."""
    ca_file: Path | None = None
    """The certificates of the authorities that sign the other side's, PEM."""
    require_client_certificate: bool = True
    """Whether a sender must show a certificate of one of these authorities."""

    @model_validator(mode="after")
    def _has_what_it_takes(self) -> Self:
        named = [name for name in TLS_FILES if getattr(self, name) is not None]
        if (named or self.incoming) and len(named) != len(TLS_FILES):
            missing = [name for name in TLS_FILES if name not in named]
            raise ValueError(f"expected {', '.join(TLS_FILES)} together, found no {', '.join(missing)}")
        return self

    @property
    def is_set(self) -> bool:
        """Whether there is a certificate to speak TLS with."""
        return self.certificate_file is not None

    def based_on(self, base: Path) -> Self:
        """The same, with relative files taken from a folder."""
        named = {name: getattr(self, name) for name in TLS_FILES}
        return self.model_copy(update={name: file and base / file.expanduser() for name, file in named.items()})

    def client_context(self) -> ssl.SSLContext:
        """How we open a connection. The other side's certificate must be signed by one of the authorities, and be for
        the name or address by which we call it. Raises ConfigurationError if a file cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate_file is None:
            raise ConfigurationError("dicom_tls has no certificate_file; set it, with key_file and ca_file")
        try:
            context.load_verify_locations(self.ca_file)
            context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"dicom_tls: expected PEM files, and the key of the certificate, found: {error}; check "
                f"{', '.join(str(getattr(self, name)) for name in TLS_FILES)}"
            ) from error
        return context


class SenderSettings(Section):
    """``[[sender]]``: who may send studies here; with one of these, nobody else may but the ``[[pacs]]``."""

    name: EntryName
    """What Orthanc calls it."""
    aet: ApplicationEntityTitle
    """Its application entity title, under which it calls."""
    host: Annotated[str, Field(min_length=1)]
    """Its host name or IP address."""
    port: Annotated[int, Field(ge=1, le=65535)] = 104
    """The port of its own DICOM server, if it has one."""
    tls: bool = False
    """Whether that speaks TLS."""
    may: tuple[Literal["store", "find", "get", "move"], ...] = ("store",)
    """What it may ask for, besides C-ECHO."""


def check_senders(entries: Sequence[tuple[str, str, str]], *, check_host: bool, has_senders: bool) -> None:
    """Raises ValueError if two of the others (name, AE title, host) have the same name, or a host that can be compared
    with where a connection comes from is wanted and one is none, or a title has two.
    """
    names = [name for name, _, _ in entries]
    if len(set(names)) != len(names):
        raise ValueError("two of sender, pacs and worklist have the same name")
    if not check_host:
        return
    if not has_senders:
        raise ValueError("orthanc.check_sender_host needs a [[sender]]; without one, anybody may send")
    hosts = {aet: host for _, aet, host in entries}
    if other := [name for name, aet, host in entries if hosts[aet] != host]:
        raise ValueError(f"orthanc.check_sender_host: expected one host for the aet of {other[0]}, found two")
    for name, _, host in entries:
        try:
            ip_address(host)
        except ValueError as error:
            raise ValueError(
                f"orthanc.check_sender_host compares with the address that a connection comes from: expected an IP "
                f"address as host of {name}, found a name"
            ) from error

"""Whether a destination answers at all, for `coread doctor`."""

from coread.courier.dimse import echo
from coread.courier.stow import reach
from coread.settings import DeliverySettings, Destination, DimseDestination
from coread.settings_dicom import DicomTlsSettings

TIMEOUT_S = 10.0
"""A person waits for the answer."""


def probe(destination: Destination, settings: DeliverySettings, *, tls: DicomTlsSettings) -> None:
    """Ask a destination for a sign of life: a C-ECHO, or a QIDO-RS query that finds nothing.

    Raises DestinationUnavailable if there is none.
    """
    patient = settings.model_copy(update={"timeout_s": min(TIMEOUT_S, settings.timeout_s)})
    if isinstance(destination, DimseDestination):
        echo(destination, patient, tls=tls.client_context() if destination.tls else None)
    else:
        reach(destination, patient)

"""A destination that takes results by C-STORE (PS3.4 Annex B), with storage commitment (PS3.4 Annex J) or without."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ssl import SSLContext
from typing import Any

from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from coread.association import associate, entity_of, rejection, release
from coread.courier.commitments import Commitments
from coread.courier.transport import Parcel, Reference, Verdict, verdict_on
from coread.delivery import ObjectState
from coread.errors import DeliveryRefused, DestinationBusy, DestinationSilent, DestinationUnavailable
from coread.settings import DeliverySettings, DimseDestination

# A file is sent as it lies on the disk, byte for byte, and not decoded and encoded again.
_config.STORE_SEND_CHUNKED_DATASET = True

SAME_ASSOCIATION_S = 1.0
"""How long we wait in the association for an answer that may come to our port as well."""
CONVERTIBLE = {ExplicitVRLittleEndian: ImplicitVRLittleEndian, ImplicitVRLittleEndian: ExplicitVRLittleEndian}
"""Transfer syntaxes that hold the same values: old PACS know the default one only (PS3.5 10.1)."""


class DimseTransport:
    """An association with a destination."""

    def __init__(
        self,
        association: Association,
        destination: DimseDestination,
        *,
        commitments: Commitments,
        delivery_id: int,
        timeout_s: float,
    ) -> None:
        self._association = association
        self._destination = destination
        self._commitments = commitments
        self._delivery_id = delivery_id
        self._wait_s = SAME_ASSOCIATION_S if commitments.is_listening else timeout_s

    def send(self, parcel: Parcel) -> ObjectState:
        """See Transport.send."""
        uid = parcel.reference.sop_instance_uid
        what = self._what_to_send(parcel)
        try:
            answer = self._association.send_c_store(what)
        except RuntimeError as error:
            raise DestinationBusy(f"{self._name} ended the association before {uid} was sent") from error
        if "Status" not in answer:
            raise DestinationSilent(f"{self._name} does not answer for {uid}; it will be asked whether it has it")
        verdict = verdict_on(answer.Status)
        if verdict is Verdict.REFUSED:
            raise DeliveryRefused(f"{self._name} refuses {uid} with status {answer.Status:04X}H")
        if verdict is Verdict.BUSY:
            raise DestinationBusy(f"{self._name} does not take {uid} now: status {answer.Status:04X}H")
        return ObjectState.SENT if self._destination.storage_commitment else ObjectState.CONFIRMED

    def ask(self, objects: Mapping[Reference, ObjectState]) -> Mapping[str, ObjectState]:
        """See Transport.ask. Without storage commitment nobody can say whether an object that was begun is there."""
        if self._destination.storage_commitment:
            self._commitments.ask(self._association, self._delivery_id, list(objects), wait_s=self._wait_s)
            return {}
        return _by_its_word(objects)

    def _what_to_send(self, parcel: Parcel) -> Any:
        """The file, or its dataset if the destination takes it in another transfer syntax only."""
        sop_class = UID(parcel.reference.sop_class_uid)
        accepted = {
            UID(context.transfer_syntax[0])
            for context in self._association.accepted_contexts
            if context.abstract_syntax == sop_class
        }
        own = UID(parcel.transfer_syntax_uid)
        if own in accepted:
            return parcel.file
        if CONVERTIBLE.get(own) in accepted:
            return dcmread(parcel.file)
        raise DeliveryRefused(
            f"{self._name} takes no {sop_class.name} in {own.name}; have it allowed there, or choose other objects for "
            "this destination (results.profiles)"
        )

    @property
    def _name(self) -> str:
        return self._destination.name


class NoAssociation:
    """A way to a destination to which nothing is to be sent, and whose answers to C-STOREs were its word."""

    def send(self, parcel: Parcel) -> ObjectState:
        """See Transport.send. Nothing of the kind was announced."""
        raise DestinationBusy(f"no association was opened for {parcel.reference.sop_instance_uid}")

    def ask(self, objects: Mapping[Reference, ObjectState]) -> Mapping[str, ObjectState]:
        """See Transport.ask."""
        return _by_its_word(objects)


def _by_its_word(objects: Mapping[Reference, ObjectState]) -> Mapping[str, ObjectState]:
    return {
        reference.sop_instance_uid: ObjectState.CONFIRMED if state is ObjectState.SENT else ObjectState.WAITING
        for reference, state in objects.items()
    }


@contextmanager
def open_dimse(
    destination: DimseDestination,
    settings: DeliverySettings,
    *,
    parcels: Sequence[Parcel],
    commitments: Commitments,
    delivery_id: int,
    tls: SSLContext | None = None,
) -> Iterator[DimseTransport | NoAssociation]:
    """An association for these objects, released afterwards; none is made if there is nothing to send or to ask.
    ``tls``: how it is secured; None for a destination that is spoken with in the clear.

    Raises DestinationUnavailable if there is none to be had, DeliveryRefused if none of the objects is of a kind that
    the destination takes.
    """
    entity = _entity(destination, settings)
    for sop_class, syntax in sorted({(each.reference.sop_class_uid, each.transfer_syntax_uid) for each in parcels}):
        for each in (syntax, CONVERTIBLE.get(UID(syntax))):
            if each is not None:
                entity.add_requested_context(sop_class, each)
    if destination.storage_commitment:
        entity.add_requested_context(StorageCommitmentPushModel)
    if not entity.requested_contexts:
        yield NoAssociation()
        return
    handlers = commitments.handlers if destination.storage_commitment else []
    association = _associate(entity, destination, settings, handlers=handlers, tls=tls)
    try:
        yield DimseTransport(
            association,
            destination,
            commitments=commitments,
            delivery_id=delivery_id,
            timeout_s=settings.timeout_s,
        )
    finally:
        release(association, timeout_s=settings.timeout_s)


def echo(destination: DimseDestination, settings: DeliverySettings, *, tls: SSLContext | None = None) -> None:
    """Ask whether the destination is there (C-ECHO, PS3.4 Annex A). Raises DestinationUnavailable if not."""
    entity = _entity(destination, settings)
    entity.add_requested_context(Verification)
    association = _associate(entity, destination, settings, handlers=[], tls=tls)
    try:
        answer = association.send_c_echo()
    finally:
        association.release()
    if "Status" not in answer or answer.Status != 0x0000:
        raise DestinationUnavailable(f"{destination.name} does not answer a C-ECHO with status 0000H")


def _entity(destination: DimseDestination, settings: DeliverySettings) -> AE:
    return entity_of(destination.calling_aet or settings.aet, timeout_s=settings.timeout_s)


def _associate(
    entity: AE,
    destination: DimseDestination,
    settings: DeliverySettings,
    *,
    handlers: list[Any],
    tls: SSLContext | None,
) -> Association:
    where = f"{destination.aet} at {destination.host}:{destination.port}"
    try:
        association = associate(
            entity,
            host=destination.host,
            port=destination.port,
            aet=destination.aet,
            timeout_s=settings.timeout_s,
            handlers=handlers,
            tls=tls,
        )
    except OSError as error:
        raise DestinationUnavailable(f"{where} cannot be reached: {error.strerror}") from error
    if association.is_established:
        return association
    if association.is_rejected:
        raise DestinationUnavailable(
            f"{where} rejects associations: {rejection(association)}; is it told of {entity.ae_title}?"
        )
    if association.rejected_contexts:
        kinds = {UID(str(context.abstract_syntax)).name for context in association.rejected_contexts}
        raise DeliveryRefused(f"{where} takes none of: {', '.join(sorted(kinds))}; have them allowed there")
    also = ", does it speak TLS there, and do both sides trust each other's certificate" if tls else ""
    raise DestinationUnavailable(f"{where} does not accept an association; is it running, and is that its port{also}?")

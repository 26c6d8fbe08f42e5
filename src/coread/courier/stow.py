"""A destination that takes results by STOW-RS (PS3.18 10.5), and says by QIDO-RS (PS3.18 10.6) what it has.

Each object is a request of its own: so the answer is about it alone, and what it says is known as early as can be.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from coread.courier.transport import Parcel, Reference, Verdict, verdict_on
from coread.delivery import ObjectState
from coread.errors import DeliveryRefused, DestinationBusy, DestinationSilent, DestinationUnavailable
from coread.settings import DeliverySettings, StowDestination

SOP_INSTANCE_UID, REFERENCED_SOP_INSTANCE_UID = "00080018", "00081155"
REFERENCED_SOP_SEQUENCE = "00081199"
FAILED_SOP_SEQUENCE, FAILURE_REASON = "00081198", "00081197"
JSON = "application/dicom+json"

CLOSED = frozenset({401, 403, 404, 407, 408, 425, 429})
"""HTTP statuses of a destination that lets nobody in at the moment, or nobody with this URL, user or token. Nothing
has been stored."""
NO_SEARCH = frozenset({400, 404, 405, 406, 501})
"""HTTP statuses by which a destination says that it has no QIDO-RS, or not for instances by their UID."""
CONFLICT = 409
"""No object was stored; the body says why (PS3.18 Table 10.5.3-1)."""


class StowTransport:
    """The DICOMweb services of a destination."""

    def __init__(self, http: httpx.Client, destination: StowDestination) -> None:
        self._http = http
        self._name = destination.name

    def send(self, parcel: Parcel) -> ObjectState:
        """See Transport.send. What the answer names as stored is stored (PS3.18 10.5.3.2): a status alone may be that
        of a page to log in at, or of something that is yet to be done.
        """
        uid = parcel.reference.sop_instance_uid
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join((head, parcel.file.read_bytes(), f"\r\n--{boundary}--\r\n".encode()))
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        answer = self._request("POST", "/studies", uid, content=body, headers={"Content-Type": kind, "Accept": JSON})
        self._require_open(answer, uid)
        if answer.status_code == CONFLICT or answer.is_success:
            reason = _failure_reason(answer, uid)
            if reason is not None:
                self._judge(uid, reason)
                return ObjectState.CONFIRMED
            if answer.is_success:
                if uid in _stored(answer):
                    return ObjectState.CONFIRMED
                raise DestinationSilent(
                    f"{self._name} answers {answer.status_code} and does not say in {JSON} that it has stored {uid}; "
                    "it will be asked whether it has it"
                )
        raise DeliveryRefused(f"{self._name} answers {answer.status_code} to the STOW-RS of {uid}, expected 200")

    def ask(self, objects: Mapping[Reference, ObjectState]) -> Mapping[str, ObjectState]:
        """See Transport.ask. A destination without QIDO-RS cannot be asked: the object is sent again."""
        return {
            reference.sop_instance_uid: ObjectState.CONFIRMED
            if self._has(reference.sop_instance_uid)
            else ObjectState.WAITING
            for reference in objects
        }

    def _has(self, uid: str) -> bool:
        answer = self._request("GET", "/instances", uid, params={"SOPInstanceUID": uid}, headers={"Accept": JSON})
        if answer.status_code in NO_SEARCH:
            return False
        self._require_open(answer, uid)
        # A server that does not know the filter answers with everything.
        return uid in {_value(each, SOP_INSTANCE_UID) for each in _items(answer)}

    def _judge(self, uid: str, reason: int) -> None:
        verdict = verdict_on(reason)
        if verdict is Verdict.REFUSED:
            raise DeliveryRefused(f"{self._name} refuses {uid}: Failure Reason {reason:04X}H")
        if verdict is Verdict.BUSY:
            raise DestinationBusy(f"{self._name} does not take {uid} now: Failure Reason {reason:04X}H")

    def _request(self, method: str, path: str, uid: str, **more: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **more)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise DestinationUnavailable(f"{self._name} cannot be reached: {type(error).__name__}") from error
        except httpx.RequestError as error:  # also an answer that cannot be decoded
            raise DestinationSilent(
                f"{self._name} does not answer for {uid}: {type(error).__name__}; it will be asked whether it has it"
            ) from error
        return answer

    def _require_open(self, answer: httpx.Response, uid: str) -> None:
        if answer.status_code in CLOSED or answer.is_redirect:
            raise DestinationUnavailable(
                f"{self._name} answers {answer.status_code}, expected 200; are its url, user, password or token right?"
            )
        if answer.is_server_error:
            raise DestinationSilent(f"{self._name} answers {answer.status_code} for {uid}, expected 200")


@contextmanager
def open_stow(destination: StowDestination, settings: DeliverySettings) -> Iterator[StowTransport]:
    """The destination's services; nothing is sent yet."""
    with _client(destination, settings) as http:
        yield StowTransport(http, destination)


def reach(destination: StowDestination, settings: DeliverySettings) -> None:
    """Ask whether the destination's DICOMweb answers. Raises DestinationUnavailable if not."""
    with _client(destination, settings) as http:
        try:
            answer = http.get("/studies", params={"limit": "1"}, headers={"Accept": JSON})
        except httpx.RequestError as error:
            raise DestinationUnavailable(f"{destination.name} cannot be reached: {type(error).__name__}") from error
    if not answer.is_success:
        raise DestinationUnavailable(
            f"{destination.name} answers {answer.status_code} to a QIDO-RS query, expected 200; are its url, user, "
            "password or token right?"
        )


def _client(destination: StowDestination, settings: DeliverySettings) -> httpx.Client:
    return httpx.Client(
        base_url=destination.url.rstrip("/"),
        headers=destination.headers,
        auth=destination.login,
        timeout=settings.timeout_s,
        trust_env=False,
    )


def _stored(answer: httpx.Response) -> set[str]:
    """SOP Instance UIDs of the answer's Referenced SOP Sequence."""
    sequences = [response.get(REFERENCED_SOP_SEQUENCE, {}).get("Value", []) for response in _items(answer)]
    return {_value(item, REFERENCED_SOP_INSTANCE_UID) for sequence in sequences for item in sequence}


def _failure_reason(answer: httpx.Response, uid: str) -> int | None:
    """The Failure Reason of an object in the answer's Failed SOP Sequence; None if it is not in it."""
    for response in _items(answer):
        for item in response.get(FAILED_SOP_SEQUENCE, {}).get("Value", []):
            if _value(item, REFERENCED_SOP_INSTANCE_UID) in (uid, None):
                reason = _value(item, FAILURE_REASON)
                return 0x0110 if reason is None else int(reason)
    return None


def _items(answer: httpx.Response) -> list[dict[str, Any]]:
    """The datasets in an answer in the DICOM JSON model (PS3.18 Annex F); none if it is something else."""
    try:
        found = json.loads(answer.content or b"[]")
    except ValueError:
        return []
    return [each for each in (found if isinstance(found, list) else [found]) if isinstance(each, dict)]


def _value(item: Mapping[str, Any], tag: str) -> Any:
    values = item.get(tag, {}).get("Value", [])
    return values[0] if values else None

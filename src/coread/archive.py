"""Orthanc over HTTP: the few calls that the plugin, the worker and the command need.

``orthanc_id`` is always Orthanc's own identifier (a hash), ``…_uid`` always a DICOM UID.
"""

import base64
import io
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTP_PORT, HTTPS_PORT, HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from coread import MANUFACTURER
from coread.audit.event import Sender
from coread.errors import ArchiveUnavailable, ConfigurationError, NotDicom, SourceGone
from coread.job import fingerprint_of

TIMEOUT_S = 60.0
"""Orthanc answers in milliseconds; only storing a large object under load takes seconds."""

KEPT_OPEN = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=0.5)
"""Seconds that an idle connection is used again. Orthanc closes it after one: whoever asks each second would again and
again write into a connection that is being closed, and hear that Orthanc does not answer.
"""

UID = re.compile(r"[0-9.]{1,64}")
"""What a UID may hold; a header that has something else there is not quoted."""

MANY = 8
"""Instances of one series, from which on it pays to ask for all of the series at once."""

SERIES_KEPT = 10_000
"""How many series are remembered, so that it is asked once which study each is of."""

IDENTITY_PROPERTY = 4711
"""The number of the property in Orthanc's database that holds the name that the plugin gives it; numbers from 1024 are
left to plugins."""

LABELS_METADATA = 4721
"""The number of a study's metadata that holds its labels; numbers from 1024 are left to users."""

CONNECTIONS = 4
"""Through so many at once, files are fetched: Orthanc's own work on one overlaps with the way of another."""

HELD_S = 60.0
"""For so long at most a study is held, if whoever holds it dies."""
TAKEN_S = 0.25
"""What was let in before a study was held is stored by then: it takes milliseconds."""

Read = TypeVar("Read")

TAKEN = frozenset({"Success", "AlreadyStored"})
"""What Orthanc says of an instance that it has now."""

NOT_SOURCES = frozenset({"SR", "SEG", "KO", "PR", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "RWV", "DOC", "PLAN", "ANN"})
"""Modalities of objects that speak about images: no model reads them, so their arrival starts no job."""


SPEAKING = frozenset({"SR", "SEG", "KO"})
"""Modalities of objects by which a person may say something of a result."""


def is_source(*, modality: str | None, manufacturer: str | None) -> bool:
    """Whether a model may read a series: it is not a result of ours, nor one of objects that speak about images."""
    return manufacturer != MANUFACTURER and str(modality) not in NOT_SOURCES


@dataclass(frozen=True, kw_only=True)
class Change:
    """One line of Orthanc's change log."""

    number: int
    kind: str
    orthanc_id: str


@dataclass(frozen=True, kw_only=True)
class ArchivedSeries:
    """A series in the archive: its main DICOM tags by keyword, and its instances as Orthanc id → SOP Instance UID."""

    orthanc_id: str
    tags: Mapping[str, str]
    instances: Mapping[str, str]
    copies: Mapping[str, str] = field(default_factory=dict)
    """Orthanc id → name of the file that Orthanc keeps it in: another one when the instance was sent again."""
    instance_tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Orthanc id → the main DICOM tags of an instance by keyword."""
    expected_instances: int | None = None
    """How many instances the headers promise, as Orthanc understands them."""


@dataclass(frozen=True, kw_only=True)
class ArchivedStudy:
    """A study in the archive."""

    orthanc_id: str
    study_instance_uid: str
    tags: Mapping[str, str]
    series: Sequence[ArchivedSeries]

    @property
    def sources(self) -> list[ArchivedSeries]:
        """The series that a model may read."""
        return [
            series
            for series in self.series
            if is_source(modality=series.tags.get("Modality"), manufacturer=series.tags.get("Manufacturer"))
        ]

    @property
    def others(self) -> dict[str, str]:
        """The instances that no model reads: Orthanc id → SOP Instance UID."""
        read = {series.orthanc_id for series in self.sources}
        return {
            instance: uid
            for series in self.series
            if series.orthanc_id not in read
            for instance, uid in series.instances.items()
        }

    @property
    def revision(self) -> str:
        """Which copies of which source instances are there: changes with each one that comes, or comes again."""
        return fingerprint_of(
            f"{uid} {series.copies.get(orthanc_id)}"
            for series in self.sources
            for orthanc_id, uid in series.instances.items()
        )


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An instance, as other objects refer to it."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    is_source: bool
    """Whether a model may read it."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How an instance came into the archive. What is not known is None."""

    by_dicom: bool
    """By C-STORE, and so through an association; otherwise over HTTP."""
    aet: str | None
    """Application entity title of the sender."""
    ip: str | None
    """Its IP address."""


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """How an instance of a study came into the archive; empty texts for what is not known."""

    sop_instance_uid: str
    by_dicom: bool
    """By C-STORE."""
    by_rest: bool
    """By Orthanc's own interface over HTTP."""
    aet: str = ""
    """The sender's application entity title."""
    called_aet: str = ""
    """The title by which the sender called Orthanc."""
    user: str = ""
    """The user of Orthanc's HTTP interface."""


class Body:
    """The file in an answer of Orthanc's, read from its beginning to its end. Raises ArchiveUnavailable where the
    answer ends before the file does.
    """

    def __init__(self, path: str, response: HTTPResponse) -> None:
        """``path``: what was asked for."""
        self._path = path
        self._stream: HTTPResponse | io.BytesIO = response
        if response.length is None:  # a proxy in between has sent it in pieces
            self._stream = io.BytesIO(response.read())
            self.size = len(self._stream.getbuffer())
        else:
            self.size = response.length
        self._left = self.size

    def read(self, count: int = -1) -> bytes:
        """The next ``count`` bytes, or as many as there are; by default all."""
        count = self._left if count < 0 else min(count, self._left)
        found = self._stream.read(count) if count else b""
        self._check(len(found) == count)
        self._left -= count
        return found

    def fill(self, room: memoryview) -> None:
        """Put the next bytes into ``room``."""
        while room:
            count = self._stream.readinto(room)
            self._check(count > 0)
            self._left -= count
            room = room[count:]

    def _check(self, is_whole: bool) -> None:  # noqa: FBT001  # what it is, is said by its name
        if not is_whole:
            raise ArchiveUnavailable(
                f"Orthanc does not answer GET {self._path}: expected {self.size} bytes, found fewer; is it running?"
            )


class Archive:
    """Orthanc's REST interface. Raises ArchiveUnavailable where trying again may help, SourceGone where it cannot."""

    def __init__(self, url: str, *, token: str | None = None, auth: tuple[str, str] | None = None) -> None:
        """``token``: the Authorization header that Orthanc's plugin may use for itself; ``auth``: user and password."""
        headers = {"Authorization": token} if token else {}
        self._http = httpx.Client(
            base_url=url, headers=headers, auth=auth, timeout=TIMEOUT_S, limits=KEPT_OPEN, trust_env=False
        )
        self._headers = {**headers, **_basic(auth or _said_in(self._http.base_url))}
        self._studies: dict[str, str | None] = {}
        self._others: dict[str, tuple[str, str]] = {}
        """Series of objects that no model reads → study and modality."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def version(self) -> str:
        """Orthanc's version."""
        return str(self._get("/system").json()["Version"])

    def last_change(self) -> int:
        """The number of the newest line of the change log."""
        return int(self._get("/changes?last").json()["Last"])

    def changes(self, *, since: int, limit: int) -> tuple[list[Change], int]:
        """Lines of the change log after ``since``, and the number up to which they go."""
        answer = self._get(f"/changes?since={since}&limit={limit}").json()
        changes = [
            Change(number=line["Seq"], kind=line["ChangeType"], orthanc_id=line["ID"]) for line in answer["Changes"]
        ]
        return changes, int(answer["Last"])

    def all_studies(self) -> list[str]:
        """Orthanc ids of all studies."""
        return [str(study) for study in self._get("/studies").json()]

    def at_hand(self, orthanc_ids: Sequence[str], *, level: str) -> list[dict[str, Any]]:
        """What Orthanc's database has of the studies or series (``level``: Study, Series) that are these resources,
        contain them or belong to them; what is gone is left out.
        """
        wanted = {"Resources": list(orthanc_ids), "Level": level, "Short": False, "Metadata": False}
        found: list[dict[str, Any]] = []
        if orthanc_ids:
            found = self._request("POST", "/tools/bulk-content", json=wanted).json()
        return found

    def studies_of_sources(self, orthanc_ids: Sequence[str]) -> dict[str, str]:
        """Instance → study, as Orthanc ids, of the instances that are there and that a model may read.

        Images come series by series. So one is asked for, then its series for all that it has, as long as that tells of
        many; the rest is asked for one by one. Looking each up would hold up the sender.
        """
        found: dict[str, str] = {}
        left = list(orthanc_ids)
        while len(left) >= MANY:
            series = next((each["ParentSeries"] for each in self._instances(left[-1:])), None)
            study, members = self._look_up(series) if series else (None, frozenset())
            of_series = [each for each in left if each in members]
            if study:
                found |= dict.fromkeys(of_series, study)
            left = [each for each in left[:-1] if each not in members]
            if len(of_series) < MANY:
                break
        for instance in self._instances(left):
            if study := self._study_of_series(instance["ParentSeries"]):
                found[str(instance["ID"])] = study
        return found

    def _instances(self, orthanc_ids: Sequence[str], *, metadata: bool = False) -> list[dict[str, Any]]:
        """What Orthanc says of each instance that is there; of a study's id, of each of its instances."""
        wanted = {"Resources": list(orthanc_ids), "Level": "Instance", "Short": False, "Metadata": metadata}
        found: list[dict[str, Any]] = []
        if orthanc_ids:
            found = self._request("POST", "/tools/bulk-content", json=wanted).json()
        return found

    def _look_up(self, orthanc_id: str) -> tuple[str | None, frozenset[str]]:
        """The study of a series, if a model may read it, and the instances that the series has; none if it is gone."""
        try:
            series = self._get(f"/series/{orthanc_id}").json()
        except SourceGone:
            return None, frozenset()
        if len(self._studies) >= SERIES_KEPT:
            self._studies.clear()
            self._others.clear()
        tags = series["MainDicomTags"]
        is_read = is_source(modality=tags.get("Modality"), manufacturer=tags.get("Manufacturer"))
        study = self._studies[orthanc_id] = str(series["ParentStudy"]) if is_read else None
        if not is_read:
            self._others[orthanc_id] = str(series["ParentStudy"]), str(tags.get("Modality"))
        return study, frozenset(series["Instances"])

    def _study_of_series(self, orthanc_id: str) -> str | None:
        return self._studies[orthanc_id] if orthanc_id in self._studies else self._look_up(orthanc_id)[0]

    def speaking_objects(self, orthanc_ids: Sequence[str]) -> list[tuple[str, str, str]]:
        """Of these instances those that are there and may say something of a result: their id, their study's, both
        Orthanc's, and their SOP Instance UID. What they are is told by the modality of their series.
        """
        found = []
        for instance in self._instances(orthanc_ids):
            series = instance["ParentSeries"]
            if series not in self._studies:
                self._look_up(series)
            study, modality = self._others.get(series, ("", ""))
            if modality in SPEAKING:
                found.append((str(instance["ID"]), study, str(instance["MainDicomTags"].get("SOPInstanceUID", ""))))
        return found

    def digests(self, orthanc_ids: Iterable[str]) -> dict[str, str]:
        """Instance → MD5 of its file, which Orthanc keeps: whether the content is the same, not whether it is safe."""
        return {each: self._get(f"/instances/{each}/attachments/dicom/md5").text for each in orthanc_ids}

    def senders(self, study: ArchivedStudy) -> list[Sender]:
        """Who sent the source instances of a study, by Orthanc's metadata. Raises SourceGone if it was deleted."""
        sources = {orthanc_id for series in study.sources for orthanc_id in series.instances}
        senders: dict[tuple[str, ...], Counter[str]] = {}
        for instance in self._instances([study.orthanc_id], metadata=True):
            if instance["ID"] in sources:
                said = instance["Metadata"]
                sender = tuple(said.get(name, "") for name in ("Origin", "RemoteAET", "RemoteIP", "HttpUsername"))
                sop_class_uid = said.get("SopClassUid", "")
                senders.setdefault(sender, Counter())[sop_class_uid if UID.fullmatch(sop_class_uid) else ""] += 1
        return [
            Sender(protocol=protocol, aet=aet, address=address, user=user, sop_classes=classes)
            for (protocol, aet, address, user), classes in sorted(senders.items())
        ]

    def arrivals(self, orthanc_id: str) -> list[Arrived]:
        """How each instance of a study came, by Orthanc's metadata; nothing if it is gone."""
        found = []
        for instance in self._instances([orthanc_id], metadata=True):
            said = instance["Metadata"]
            found.append(
                Arrived(
                    sop_instance_uid=str(instance["MainDicomTags"].get("SOPInstanceUID", "")),
                    by_dicom=said.get("Origin") == "DicomProtocol",
                    by_rest=said.get("Origin") == "RestApi",
                    aet=said.get("RemoteAET", "").strip(),
                    called_aet=said.get("CalledAET", "").strip(),
                    user=said.get("HttpUsername", ""),
                )
            )
        return found

    def studies_with(self, study_instance_uid: str) -> list[str]:
        """Orthanc ids of the studies with a StudyInstanceUID: more than one, if it is of several patients."""
        found = self._request("POST", "/tools/lookup", content=study_instance_uid.encode()).json()
        return sorted(str(one["ID"]) for one in found if one["Type"] == "Study")

    def study(self, orthanc_id: str) -> ArchivedStudy:
        """A study with its series. Raises SourceGone if it was deleted."""
        study = self._get(f"/studies/{orthanc_id}").json()
        series = self._get(f"/studies/{orthanc_id}/series").json()
        instances: dict[str, dict[str, dict[str, Any]]] = {}
        for instance in self._get(f"/studies/{orthanc_id}/instances").json():
            instances.setdefault(instance["ParentSeries"], {})[instance["ID"]] = instance
        return ArchivedStudy(
            orthanc_id=orthanc_id,
            study_instance_uid=study["MainDicomTags"]["StudyInstanceUID"],
            tags=study["MainDicomTags"],
            series=[
                _series(one, instances.get(one["ID"], {})) for one in sorted(series, key=lambda one: str(one["ID"]))
            ],
        )

    def patient_and_study(self, orthanc_id: str) -> dict[str, str]:
        """What Orthanc keeps at hand of a study and its patient, by keyword. Raises SourceGone if it was deleted."""
        study = self._get(f"/studies/{orthanc_id}").json()
        return {**study["PatientMainDicomTags"], **study["MainDicomTags"]}

    def references(self, orthanc_id: str) -> list[Reference]:
        """Every instance of a study."""
        series = {each["ID"]: each["MainDicomTags"] for each in self._get(f"/studies/{orthanc_id}/series").json()}
        return [
            Reference(
                series_instance_uid=tags["SeriesInstanceUID"],
                sop_class_uid=instance["Metadata"].get("SopClassUid", ""),
                sop_instance_uid=instance["MainDicomTags"]["SOPInstanceUID"],
                is_source=is_source(modality=tags.get("Modality"), manufacturer=tags.get("Manufacturer")),
            )
            for instance in self._instances([orthanc_id], metadata=True)
            if (tags := series.get(instance["ParentSeries"])) is not None
        ]

    def find_studies(self, query: Mapping[str, str], *, limit: int) -> list[str]:
        """StudyInstanceUIDs of the studies that fit (C-FIND's matching, case ignored)."""
        asked = {"Level": "Study", "Query": dict(query), "Expand": True, "CaseSensitive": False, "Limit": limit}
        found = self._request("POST", "/tools/find", json=asked).json()
        return [str(each["MainDicomTags"]["StudyInstanceUID"]) for each in found]

    def list_studies(self, query: Mapping[str, str], *, since: int, limit: int) -> list[str]:
        """Orthanc ids of the studies that fit (C-FIND, case ignored), ``limit`` of them from ``since`` on."""
        asked = {"Level": "Study", "Query": dict(query), "CaseSensitive": False, "Since": since, "Limit": limit}
        return [str(each) for each in self._request("POST", "/tools/find", json=asked).json()]

    def origin(self, orthanc_id: str) -> Origin:
        """How an instance came into the archive. Raises SourceGone if it was deleted."""
        metadata = self.metadata(orthanc_id)
        return Origin(
            by_dicom=metadata.get("Origin") == "DicomProtocol",
            aet=metadata.get("RemoteAET", "").strip() or None,
            ip=metadata.get("RemoteIP") or None,
        )

    def find_series(self, modality: str, study_instance_uid: str, *, timeout_s: int) -> list[dict[str, str]]:
        """The series of a study that another DICOM server lists (C-FIND, PS3.4 C.3.4), each as keyword → value.

        ``modality``: what Orthanc calls the server. Raises ArchiveUnavailable if it does not answer within
        ``timeout_s``, SourceGone if Orthanc does not know it.
        """
        keys = ("SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances")
        query = {"StudyInstanceUID": study_instance_uid, **dict.fromkeys(keys, "")}
        asked = {"Level": "Series", "Query": query, "Timeout": timeout_s}
        path = self._request("POST", f"/modalities/{modality}/query", json=asked).json()["Path"]
        try:
            answers: list[dict[str, str]] = self._get(f"{path}/answers?expand&simplify").json()
        finally:
            self._request("DELETE", path)
        return answers

    def find_worklist(self, modality: str, query: Mapping[str, Any], *, timeout_s: int) -> list[dict[str, Any]]:
        """The entries of a modality worklist that fit (C-FIND, PS3.4 annex K): keyword → text, or items of a sequence.

        ``modality``: what Orthanc calls the server. Raises ArchiveUnavailable if it does not answer within
        ``timeout_s``, SourceGone if Orthanc does not know it.
        """
        asked = {"Query": dict(query), "Short": False, "Timeout": timeout_s}
        found: list[dict[str, Any]] = self._request("POST", f"/modalities/{modality}/find-worklist", json=asked).json()
        return found

    def files(self, orthanc_ids: Sequence[str]) -> Iterator[bytes]:
        """The DICOM files of instances, in the order asked for."""
        for orthanc_id in orthanc_ids:
            yield self._get(f"/instances/{orthanc_id}/file").content

    def read_files(self, orthanc_ids: Sequence[str], read: Callable[[int, Body], Read]) -> list[Read]:
        """What ``read`` makes of the DICOM files of instances, in the order asked for; several are read at once.

        ``read`` is given which of the instances it is, and its file, and runs in threads. Raises what it raises.
        """
        connections = _Connections(self._http.base_url, self._headers)
        threads = ThreadPoolExecutor(max_workers=CONNECTIONS)
        try:
            reading = [
                threads.submit(connections.get, f"/instances/{each}/file", lambda body, index=index: read(index, body))
                for index, each in enumerate(orthanc_ids)
            ]
            return [each.result() for each in reading]
        finally:
            threads.shutdown(cancel_futures=True)
            connections.close()

    def header(self, orthanc_id: str, *, whole: Sequence[str] = ()) -> dict[str, object]:
        """The header of an instance: keyword → text, several values with a backslash between them; None for bulk data
        and for texts of more than 256 characters, but for those of the keywords in ``whole``.
        """
        query = f"?ignore-length={','.join(whole)}" if whole else ""
        header: dict[str, object] = self._get(f"/instances/{orthanc_id}/simplified-tags{query}").json()
        return header

    def metadata(self, orthanc_id: str) -> dict[str, str]:
        """What Orthanc wrote down when an instance arrived, such as the AE title that sent it."""
        metadata: dict[str, str] = self._get(f"/instances/{orthanc_id}/metadata?expand").json()
        return metadata

    def find_study(self, study_instance_uid: str) -> str | None:
        """Orthanc's id of the study with a StudyInstanceUID; None if there is none."""
        return next(iter(self.studies_with(study_instance_uid)), None)

    def find_instance(self, sop_instance_uid: str) -> str | None:
        """Orthanc's id of the instance with a SOP Instance UID; None if there is none."""
        found = self._request("POST", "/tools/lookup", content=sop_instance_uid.encode()).json()
        return next((str(one["ID"]) for one in found if one["Type"] == "Instance"), None)

    def store(self, file: bytes) -> str:
        """Store a DICOM file; returns Orthanc's id of the instance. It takes the place of one with the same UIDs."""
        answer = self._request("POST", "/instances", content=file).json()
        return str(answer["ID"])

    def take_in(self, file: bytes) -> None:
        """Store a DICOM file of somebody else's, in the place of one with the same UIDs. Raises NotDicom if Orthanc
        cannot read it.
        """
        try:
            response = self._http.post("/instances", content=file)
        except httpx.TransportError as error:
            raise _unanswered("POST", "/instances", error) from error
        if response.status_code == httpx.codes.BAD_REQUEST:
            raise NotDicom("expected a DICOM file, found one that Orthanc cannot read")
        _check(response.status_code, "POST", "/instances")
        status = response.json().get("Status")
        if status not in TAKEN:
            raise ArchiveUnavailable(f"Orthanc answered {status} to POST /instances, expected Success")

    def size_of(self, orthanc_id: str) -> tuple[int, int]:
        """How many instances a study has, and how many bytes. Raises SourceGone if it was deleted."""
        said = self._get(f"/studies/{orthanc_id}/statistics").json()
        return int(said["CountInstances"]), int(said["UncompressedSize"])

    def attach(self, orthanc_id: str, content_type: int, content: bytes) -> None:
        """Keep a file with an instance, until that is deleted, in the place of one of the same type.

        ``content_type``: a number of ours; those from 1024 on are left to users (and mean nothing to Orthanc).
        """
        self._request("PUT", f"/instances/{orthanc_id}/attachments/{content_type}", content=content)

    def attachment(self, orthanc_id: str, content_type: int) -> bytes:
        """A file that is kept with an instance. Raises SourceGone if there is none."""
        return self._get(f"/instances/{orthanc_id}/attachments/{content_type}/data").content

    def delete_instance(self, orthanc_id: str) -> None:
        """Delete an instance, and its series if it is the last one; nothing happens if it is gone already."""
        try:
            self._request("DELETE", f"/instances/{orthanc_id}")
        except SourceGone:
            return

    def delete_study(self, orthanc_id: str) -> None:
        """Delete a study with all that is in it; nothing happens if it is gone already."""
        try:
            self._request("DELETE", f"/studies/{orthanc_id}")
        except SourceGone:
            return

    @contextmanager
    def held(self, study_instance_uids: Sequence[str]) -> Iterator[None]:
        """Inside the block, nothing of these studies is taken by C-STORE: the sender is asked to send it again.

        Raises ConfigurationError if Orthanc's plugin is not of this version.
        """
        path = "/coread/archive/held"
        self._tell(path, {"studies": list(study_instance_uids), "seconds": HELD_S})
        time.sleep(TAKEN_S)
        try:
            yield
        finally:
            self._tell(path, {"studies": list(study_instance_uids), "seconds": 0})

    def watch(self, study_instance_uid: str, *, aet: str) -> None:
        """Have it noted from now on whether anybody but the sender with that title sends of a study by C-STORE.

        Raises ConfigurationError if Orthanc's plugin is not of this version.
        """
        self._tell("/coread/archive/watched", {"study": study_instance_uid, "aet": aet})

    def was_alone(self, study_instance_uid: str) -> bool:
        """Whether nobody else did since; False if that is not known."""
        return bool(self._tell("/coread/archive/alone", {"study": study_instance_uid})["alone"])

    def unwatch(self, study_instance_uid: str) -> None:
        """Have it noted no more."""
        self._tell("/coread/archive/unwatched", {"study": study_instance_uid})

    def _tell(self, path: str, said: Mapping[str, object]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._request("POST", path, json=said).json()
        except SourceGone as error:
            raise ConfigurationError(
                f"Orthanc's plugin knows no {path}, which archive runs need; bring it to this version of Coread"
            ) from error
        return answer

    def set_label(self, orthanc_id: str, label: str, *, is_on: bool) -> None:
        """Give a study a label such as ``coread:urgent``, or take it away; nothing happens if the study is gone.

        Orthanc has labels from 1.12.0 on, of letters, digits, ``-`` and ``_``: the colon becomes a ``-``. Of an older
        one, they are the study's metadata number ``LABELS_METADATA``, with commas in between.
        """
        try:
            if self._get("/system").json().get("HasLabels", False):
                name = label.replace(":", "-")
                self._request("PUT" if is_on else "DELETE", f"/studies/{orthanc_id}/labels/{name}", content=b"")
                return
            path = f"/studies/{orthanc_id}/metadata/{LABELS_METADATA}"
            others = [each for each in self._text_or_nothing(path).split(",") if each not in ("", label)]
            labels = [*others, *([label] if is_on else [])]
            if labels:
                self._request("PUT", path, content=",".join(labels).encode())
            else:
                self._request("DELETE", path)
        except SourceGone:
            return

    def _text_or_nothing(self, path: str) -> str:
        try:
            return self._get(path).text
        except SourceGone:
            return ""

    def _get(self, path: str) -> httpx.Response:
        return self._request("GET", path)

    def _request(
        self, method: str, path: str, *, content: bytes | None = None, json: Mapping[str, object] | None = None
    ) -> httpx.Response:
        try:
            response = self._http.request(method, path, content=content, json=json)
        except httpx.TransportError as error:
            raise _unanswered(method, path, error) from error
        _check(response.status_code, method, path)
        return response


class _Connections:
    """A connection for each thread that asks, kept open between its requests."""

    def __init__(self, url: httpx.URL, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = headers
        self._own = threading.local()
        self._opened: list[HTTPConnection] = []

    def get(self, path: str, read: Callable[[Body], Read]) -> Read:
        """What ``read`` makes of the answer."""
        connection = self._of_thread()
        try:
            response = self._response(connection, path)
            _check(response.status, "GET", path)
            result = read(Body(path, response))
            response.read()  # what is left, so that the connection can be used again
        except (OSError, HTTPException) as error:
            connection.close()
            raise _unanswered("GET", path, error) from error
        except BaseException:
            connection.close()
            raise
        return result

    def _response(self, connection: HTTPConnection, path: str) -> HTTPResponse:
        """The answer; if Orthanc has closed the connection meanwhile, as it does after a pause, through a new one."""
        is_used = connection.sock is not None
        try:
            return self._ask(connection, path)
        except (ConnectionError, HTTPException):
            if not is_used:
                raise
            connection.close()
        return self._ask(connection, path)

    def _ask(self, connection: HTTPConnection, path: str) -> HTTPResponse:
        connection.request("GET", f"{self._url.path.rstrip('/')}{path}", headers=self._headers)
        return connection.getresponse()

    def close(self) -> None:
        for connection in self._opened:
            connection.close()

    def _of_thread(self) -> HTTPConnection:
        connection: HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is None:
            is_secure = self._url.scheme == "https"
            # Without a port, the last group of an IPv6 address would be taken for it.
            host, port = self._url.host, self._url.port or (HTTPS_PORT if is_secure else HTTP_PORT)
            if is_secure:
                context = httpx.create_ssl_context(trust_env=False)
                connection = HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
            else:
                connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
            self._own.connection = connection
            self._opened.append(connection)
        return connection


def _said_in(url: httpx.URL) -> tuple[str, str] | None:
    """User and password that a URL says, as httpx says them to a server."""
    return (url.username, url.password) if url.userinfo else None


def _basic(auth: tuple[str, str] | None) -> dict[str, str]:
    """The header that says user and password (RFC 7617)."""
    return {"Authorization": f"Basic {base64.b64encode(':'.join(auth).encode()).decode()}"} if auth else {}


def _unanswered(method: str, path: str, error: Exception) -> ArchiveUnavailable:
    return ArchiveUnavailable(f"Orthanc does not answer {method} {path}: {error}; is it running?")


def _check(status: int, method: str, path: str) -> None:
    """Raises the error that an answer's status stands for, if it stands for one."""
    if status == httpx.codes.NOT_FOUND:
        raise SourceGone(f"Orthanc has no {path}: it was deleted; send the study again to have it read")
    if not httpx.codes.is_success(status):
        raise ArchiveUnavailable(f"Orthanc answered {status} to {method} {path}, expected 200; see Orthanc's log")


def _series(series: Mapping[str, Any], instances: Mapping[str, Mapping[str, Any]]) -> ArchivedSeries:
    tags = {orthanc_id: instance["MainDicomTags"] for orthanc_id, instance in instances.items()}
    return ArchivedSeries(
        orthanc_id=series["ID"],
        tags=series["MainDicomTags"],
        instances={orthanc_id: each["SOPInstanceUID"] for orthanc_id, each in tags.items()},
        copies={orthanc_id: instance["FileUuid"] for orthanc_id, instance in instances.items()},
        instance_tags=tags,
        expected_instances=series["ExpectedNumberOfInstances"],
    )


def instances_with(archive: Archive, orthanc_id: str, uids: AbstractSet[str]) -> dict[str, str]:
    """The instances of a study that have one of these SOP Instance UIDs, as Orthanc id → UID; none if it is gone."""
    try:
        study = archive.study(orthanc_id)
    except SourceGone:
        return {}
    return {instance: uid for series in study.series for instance, uid in series.instances.items() if uid in uids}


def withdraw(archive: Archive, orthanc_id: str, uids: AbstractSet[str]) -> None:
    """Delete the instances with these SOP Instance UIDs from a study, as far as they are there, and nothing else."""
    if uids:
        for instance in instances_with(archive, orthanc_id, uids):
            archive.delete_instance(instance)

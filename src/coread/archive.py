"""Orthanc over HTTP: the few calls that the plugin, the worker and the command need.

``orthanc_id`` is always Orthanc's own identifier (a hash), ``…_uid`` always a DICOM UID.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

from coread import MANUFACTURER
from coread.errors import ArchiveUnavailable, SourceGone

TIMEOUT_S = 60.0
"""Orthanc answers in milliseconds; only storing a large object under load takes seconds."""

NOT_SOURCES = frozenset({"SR", "SEG", "KO", "PR", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "RWV", "DOC", "PLAN", "ANN"})
"""Modalities of objects that speak about images: no model reads them, so their arrival starts no job."""


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


class Archive:
    """Orthanc's REST interface. Raises ArchiveUnavailable where trying again may help, SourceGone where it cannot."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        """``token``: the Authorization header that Orthanc's plugin may use for itself."""
        headers = {"Authorization": token} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

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

    def study_of_source(self, orthanc_id: str) -> str | None:
        """The Orthanc id of the study of a source instance; None if the instance is gone, or no model may read it."""
        try:
            series = self._get(f"/instances/{orthanc_id}/series").json()
        except SourceGone:
            return None
        tags = series["MainDicomTags"]
        if not is_source(modality=tags.get("Modality"), manufacturer=tags.get("Manufacturer")):
            return None
        return str(series["ParentStudy"])

    def study(self, orthanc_id: str) -> ArchivedStudy:
        """A study with its series. Raises SourceGone if it was deleted."""
        study = self._get(f"/studies/{orthanc_id}").json()
        series = self._get(f"/studies/{orthanc_id}/series").json()
        instances: dict[str, dict[str, str]] = {}
        for instance in self._get(f"/studies/{orthanc_id}/instances").json():
            uid = instance["MainDicomTags"]["SOPInstanceUID"]
            instances.setdefault(instance["ParentSeries"], {})[instance["ID"]] = uid
        return ArchivedStudy(
            orthanc_id=orthanc_id,
            study_instance_uid=study["MainDicomTags"]["StudyInstanceUID"],
            tags=study["MainDicomTags"],
            series=[
                ArchivedSeries(orthanc_id=one["ID"], tags=one["MainDicomTags"], instances=instances.get(one["ID"], {}))
                for one in sorted(series, key=lambda one: str(one["ID"]))
            ],
        )

    def files(self, orthanc_ids: Sequence[str]) -> Iterator[bytes]:
        """The DICOM files of instances, in the order asked for."""
        for orthanc_id in orthanc_ids:
            yield self._get(f"/instances/{orthanc_id}/file").content

    def find_instance(self, sop_instance_uid: str) -> str | None:
        """Orthanc's id of the instance with a SOP Instance UID; None if there is none."""
        found = self._request("POST", "/tools/lookup", content=sop_instance_uid.encode()).json()
        return next((str(one["ID"]) for one in found if one["Type"] == "Instance"), None)

    def store(self, file: bytes) -> str:
        """Store a DICOM file; returns Orthanc's id of the instance.

        Nothing happens if there is an instance with its UIDs, be its content the same or not.
        """
        answer = self._request("POST", "/instances", content=file).json()
        return str(answer["ID"])

    def delete_instance(self, orthanc_id: str) -> None:
        """Delete an instance, and its series if it is the last one; nothing happens if it is gone already."""
        try:
            self._request("DELETE", f"/instances/{orthanc_id}")
        except SourceGone:
            return

    def _get(self, path: str) -> httpx.Response:
        return self._request("GET", path)

    def _request(self, method: str, path: str, *, content: bytes | None = None) -> httpx.Response:
        try:
            response = self._http.request(method, path, content=content)
        except httpx.TransportError as error:
            raise ArchiveUnavailable(f"Orthanc does not answer {method} {path}: {error}; is it running?") from error
        if response.status_code == httpx.codes.NOT_FOUND:
            raise SourceGone(f"Orthanc has no {path}: it was deleted; send the study again to have it read")
        if not response.is_success:
            raise ArchiveUnavailable(
                f"Orthanc answered {response.status_code} to {method} {path}, expected 200; see Orthanc's log"
            )
        return response


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

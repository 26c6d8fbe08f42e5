"""A source that is asked by QIDO-RS (PS3.18 10.6), and whose studies come by WADO-RS (PS3.18 10.4)."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import httpx
from pydicom.datadict import keyword_for_tag

from coread.errors import (
    ConfigurationError,
    CoreadError,
    NotInSource,
    SourceBusy,
    SourceRefuses,
    SourceUnavailable,
)
from coread.retrieval.answers import Answer, number_in
from coread.retrieval.multipart import MultipartError, boundary_of, parts_in
from coread.retrieval.retriever import Retrieved
from coread.retrieval.shelf import Shelf, Stated, check_whole
from coread.settings_sources import DicomwebSource

JSON = "application/dicom+json"
PAGE = 500
"""How many answers are asked for at a time."""
PIECE = 1 << 16
CONNECT_TIMEOUT_S = 10.0
NOT_LET_IN = frozenset({401, 403, 407})
NOT_NOW = frozenset({408, 409, 425, 429})
AWAY = frozenset({502, 503, 504})
"""What a proxy says of a server that is away, or a server of itself: it concerns all studies alike."""
NOT_SO = frozenset({406, 415})
"""The server has no such media type, or no such transfer syntax."""
MISSING = frozenset({204, 404, 410})
"""How a server says that it has nothing of what was asked for."""


class Services:
    """A source's DICOMweb services. Answers of other kinds than were asked for are an error, never an empty list."""

    def __init__(self, http: httpx.Client, source: DicomwebSource) -> None:
        self.source = source
        self._http = http
        self._stop = threading.Event()

    def stop(self) -> None:
        """Break off what is under way, from another thread, for good."""
        self._stop.set()

    def find(self, path: str, keys: Mapping[str, str], *, fields: Sequence[str] = ()) -> Iterator[Answer]:
        """What the source lists (``/studies``, ``/studies/{uid}/series``), page by page. ``fields``: keywords of
        attributes that are asked for besides.
        """
        asked = {**{key: value.replace("\\", ",") for key, value in keys.items()}, "limit": str(PAGE)}
        if fields:
            asked["includefield"] = ",".join(fields)
        offset, first = 0, ""
        while True:
            page = self._page(path, {**asked, "offset": str(offset)})
            if not page:
                return
            same = json.dumps(page[0], sort_keys=True)
            if offset and same == first:
                raise ConfigurationError(
                    f"{self.source.name} gives the same answers again when it is asked for further ones (offset): it "
                    f"has more than the {offset} that it can be asked for; narrow the query"
                )
            first = same
            yield from page
            offset += len(page)

    def _page(self, path: str, asked: Mapping[str, str]) -> list[Answer]:
        what = "a query (QIDO-RS)"
        try:
            # Some servers look for lists and wildcards before they decode: these must stand there as they are.
            query = urlencode(asked, quote_via=quote, safe=",*?:")
            answer = self._http.get(f"{path}?{query}", headers={"Accept": JSON})
        except httpx.RequestError as error:
            raise self._unanswered(what, error) from error
        if answer.status_code == httpx.codes.NO_CONTENT:
            return []
        self._judge(answer.status_code, what)
        try:
            found = json.loads(answer.content or b"[]")
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self._other_kind(what, JSON, answer)
        return [_answer(each) for each in found]

    def instances(self, study_instance_uid: str) -> Iterator[bytes]:
        """The files of a study, one after the other, while they come."""
        syntax = self.source.transfer_syntax
        kind = 'multipart/related; type="application/dicom"' + (f"; transfer-syntax={syntax}" if syntax else "")
        what = f"the WADO-RS of the study {study_instance_uid}"
        try:
            with self._http.stream("GET", f"/studies/{study_instance_uid}", headers={"Accept": kind}) as answer:
                if answer.status_code in MISSING:
                    raise NotInSource(
                        f"{self.source.name} answers {answer.status_code} to {what}: it has nothing of it"
                    )
                if answer.status_code in NOT_SO and syntax == "*":
                    raise ConfigurationError(
                        f"{self.source.name} answers {answer.status_code} to {what}: it gives no instances as they are "
                        'stored; set transfer_syntax = "" for this source'
                    )
                self._judge(answer.status_code, what)
                boundary = boundary_of(answer.headers.get("Content-Type", ""))
                if boundary is None:
                    raise self._other_kind(what, "multipart/related", answer)
                yield from parts_in(self._pieces(answer, what), boundary=boundary)
        except MultipartError as error:
            raise SourceBusy(f"{self.source.name} breaks off {what}: {error}") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._unanswered(what, error) from error
        except (httpx.RequestError, httpx.StreamError) as error:
            raise SourceBusy(f"{self.source.name} breaks off {what}: {type(error).__name__}") from error

    def _pieces(self, answer: httpx.Response, what: str) -> Iterator[bytes]:
        for piece in answer.iter_bytes(PIECE):
            if self._stop.is_set():
                raise SourceUnavailable(f"{what} at {self.source.name} was broken off: we are being stopped")
            yield piece

    def _judge(self, status: int, what: str) -> None:
        """Raises the error that a status stands for, if it stands for one."""
        said = f"{self.source.name} answers {status} to {what}, expected 200"
        if status == httpx.codes.OK or status == httpx.codes.PARTIAL_CONTENT:
            return
        if status in NOT_LET_IN:
            raise ConfigurationError(f"{said}: it does not let us in; correct user, password or token of this source")
        if status in NOT_NOW:
            raise SourceBusy(said)
        if status in AWAY:
            raise SourceUnavailable(said)
        if httpx.codes.is_server_error(status) and status != httpx.codes.NOT_IMPLEMENTED:
            raise SourceBusy(said)
        if httpx.codes.is_redirect(status) or status in (404, 405, 501) or status in NOT_SO:
            raise ConfigurationError(f"{said}; is its url the root of its DICOMweb services?")
        raise SourceRefuses(said)

    def _other_kind(self, what: str, expected: str, answer: httpx.Response) -> CoreadError:
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        found = kind if kind.isascii() and kind.replace("/", "").replace("+", "").replace("-", "").isalnum() else "no"
        return ConfigurationError(
            f"{self.source.name} answers {what} with {found} content, expected {expected}; is its url the root of its "
            "DICOMweb services, and are we let in there?"
        )

    def _unanswered(self, what: str, error: Exception) -> SourceUnavailable:
        return SourceUnavailable(f"{self.source.name} does not answer {what}: {type(error).__name__}")


class DicomwebRetriever:
    """The studies of a source, by WADO-RS. See Retriever."""

    def __init__(self, services: Services, shelf: Shelf) -> None:
        self._services, self._shelf = services, shelf
        self._name = services.source.name
        self._stated = Stated(self._ask)

    def stated(self, study_instance_uid: str) -> int | None:
        """See Retriever.stated."""
        return self._stated.of(study_instance_uid)

    def retrieve(self, study_instance_uid: str) -> Retrieved:
        """See Retriever.retrieve. An instance is in our Orthanc before the next one is read from the connection."""
        stated = self._stated.last_of(study_instance_uid)
        came = 0
        for file in self._services.instances(study_instance_uid):
            self._shelf.store(file, study_instance_uid=study_instance_uid, source=self._name)
            came += 1
        here = check_whole(self._shelf, study_instance_uid, stated=stated, came=came, source=self._name)
        if here is None:
            raise SourceBusy(f"{self._name} lists the study {study_instance_uid}, and sends nothing of it")
        return here

    def abort(self) -> None:
        """See Retriever.abort."""
        self._services.stop()

    def _ask(self, uid: str) -> int | None:
        found = self._services.find("/studies", {"StudyInstanceUID": uid}, fields=["NumberOfStudyRelatedInstances"])
        # A server that does not know the filter answers with everything.
        study = next((each for each in found if each.get("StudyInstanceUID") == uid), None)
        if study is None:
            raise NotInSource(f"{self._name} has no study {uid}")
        count = number_in(study, "NumberOfStudyRelatedInstances")
        if count is not None:
            return count
        series = list(self._services.find(f"/studies/{uid}/series", {}, fields=["NumberOfSeriesRelatedInstances"]))
        counts = [number_in(each, "NumberOfSeriesRelatedInstances") for each in series]
        if counts and None not in counts:
            return sum(each or 0 for each in counts)
        return sum(1 for _ in self._services.find(f"/studies/{uid}/instances", {})) or None


@contextmanager
def open_dicomweb(source: DicomwebSource) -> Iterator[Services]:
    """A source's services; nothing is asked yet."""
    timeout = httpx.Timeout(source.timeout_s, connect=min(CONNECT_TIMEOUT_S, source.timeout_s))
    with httpx.Client(
        base_url=source.url.rstrip("/"),
        headers={"Accept-Encoding": "identity", **source.headers},  # images do not shrink, and the wait would be ours
        auth=source.login,
        timeout=timeout,
        trust_env=False,
    ) as http:
        yield Services(http, source)


def _answer(found: Mapping[str, Any]) -> Answer:
    """A dataset of the DICOM JSON model (PS3.18 Annex F) as texts; sequences and bulk data are left out."""
    answer = {}
    for tag, element in found.items():
        keyword = keyword_for_tag(tag) if len(tag) == len("00080018") and isinstance(element, dict) else ""
        if keyword and element.get("vr") != "SQ":
            values = element.get("Value", [])
            answer[keyword] = "\\".join(map(_text, values)) if isinstance(values, list) else ""
    return answer


def _text(value: Any) -> str:
    """A value; a person's name is an object of its groups (PS3.18 F.2.2)."""
    if isinstance(value, dict):
        return str(value.get("Alphabetic", ""))
    return "" if value is None else str(value)

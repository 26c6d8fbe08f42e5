"""A source that is asked by C-FIND (PS3.4 C.4.1), and whose studies come by C-MOVE (C.4.2) or C-GET (C.4.3)."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from ssl import SSLContext
from typing import Any

from pydicom import config
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import TEXT_VR_DELIMS
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from coread.association import associate, entity_of, rejection, release
from coread.errors import (
    ConfigurationError,
    CoreadError,
    NotInSource,
    SourceBusy,
    SourceRefuses,
    SourceUnavailable,
    TransientError,
)
from coread.retrieval.answers import Answer, AnswersLimited, number_in, values_in
from coread.retrieval.contexts import LIMIT, sop_classes_of, storage_contexts
from coread.retrieval.retriever import Retrieved
from coread.retrieval.shelf import Shelf, Stated, check_whole
from coread.settings_sources import DimseSource

SUCCESS, CANCELLED, OUT_OF_RESOURCES, NOT_ALLOWED_NOW = 0x0000, 0xFE00, 0xA700, 0xA702
PENDING = frozenset({0xFF00, 0xFF01})
PARTLY = 0xB000
"""Sub-operations are over, and one or more have failed, or were stored with a warning."""
UNKNOWN_DESTINATION = 0xA801
DOES_NOT_FIT = 0xA900
"""The identifier does not match the SOP class: we have asked in a way that it does not understand."""
NOT_ASKED_FOR = 0x0122
"""What a C-STORE is answered that nobody has asked for: SOP class not supported."""
NOT_OFFERED = frozenset({0x0122, 0x0124, 0x0211})
"""SOP class not supported, not authorized, unrecognized operation (PS3.7 Annex C)."""
WRONG_TITLES = frozenset({(1, 3), (1, 7)})
"""Source and reason by which an association is rejected that has a calling or called AE title which the other side
does not know (PS3.8 table 9-21).
"""
PERMANENT = 1
THREAD_END_S = 5.0
"""How long the DICOM library's thread may take to see that its association is over."""
NAMED = 3
"""How many instances that did not come are named in a message."""

FIND = str(StudyRootQueryRetrieveInformationModelFind)
MOVE = str(StudyRootQueryRetrieveInformationModelMove)
GET = str(StudyRootQueryRetrieveInformationModelGet)
SERVICES: Mapping[str, str] = {FIND: "queries (C-FIND)", MOVE: "C-MOVE", GET: "C-GET"}

STUDY_KEYS = ("NumberOfStudyRelatedInstances", "SOPClassesInStudy", "ModalitiesInStudy")
SERIES_KEYS = ("SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances")


class Link:
    """The association with a source. It is made when it is needed, kept for what follows, and made anew if it is gone
    or must be another one.
    """

    def __init__(
        self,
        source: DimseSource,
        *,
        calling_aet: str,
        tls: SSLContext | None = None,
        take: Callable[[Any], int] = lambda _event: NOT_ASKED_FOR,
    ) -> None:
        """``tls``: how it is secured; None for a source that is spoken with in the clear. ``take``: answers a C-STORE
        that comes through it, with a status.
        """
        self.source, self._tls = source, tls
        self._handlers = [(evt.EVT_C_STORE, take)]
        self.title = source.calling_aet or calling_aet
        self._association: Association | None = None
        self._contexts: frozenset[tuple[str, str]] = frozenset()
        self._stop = threading.Event()

    @property
    def is_stopped(self) -> bool:
        """Whether somebody has called ``abort``."""
        return self._stop.is_set()

    def close(self) -> None:
        """Release the association, if there is one."""
        if self._association is not None:
            release(self._association, timeout_s=self.source.timeout_s)
            self._association = None

    def break_off(self) -> None:
        """End the association without waiting for what it still has to say."""
        association, self._association = self._association, None
        if association is not None and association.is_established:
            association.abort()

    def abort(self) -> None:
        """Break off from another thread, for good."""
        self._stop.set()
        association = self._association
        if association is not None and association.is_established:
            _cut(association)

    def association(self, contexts: Sequence[PresentationContext], *, wanted: Sequence[str]) -> Association:
        """An association with these contexts. ``wanted``: the services that it must have.

        Raises SourceUnavailable if there is none to be had now, ConfigurationError if a person must see to it.
        """
        self._require_going_on()
        named = _named(contexts)
        kept = self._association
        if kept is None or not kept.is_established or not named <= self._contexts:
            self.close()
            kept = self._association = self._associate(contexts)
            self._contexts = named
            self._require_going_on()  # who stopped us meanwhile has found no association to end
        accepted = _syntaxes(kept.accepted_contexts)
        for service in wanted:
            if service not in accepted:
                raise ConfigurationError(
                    f"{self._where} offers us no {SERVICES[service]}; have it allowed there for {self.title}"
                    + (", or set retrieve of this source otherwise" if service != FIND else "")
                )
        return kept

    def _require_going_on(self) -> None:
        if self.is_stopped:
            self.break_off()
            raise SourceUnavailable(f"what was asked of {self.source.name} was broken off: we are being stopped")

    @property
    def _where(self) -> str:
        source = self.source
        return f"{source.name} ({source.aet} at {source.host}:{source.port})"

    def _associate(self, contexts: Sequence[PresentationContext]) -> Association:
        source = self.source
        entity = entity_of(self.title, timeout_s=source.timeout_s)
        entity.requested_contexts = list(contexts)
        roles = [
            build_role(each, scp_role=True)
            for each in dict.fromkeys(str(context.abstract_syntax) for context in contexts)
            if each not in SERVICES
        ]
        try:
            association = associate(
                entity,
                host=source.host,
                port=source.port,
                aet=source.aet,
                timeout_s=source.timeout_s,
                handlers=self._handlers,
                roles=roles,
                tls=self._tls,
            )
        except OSError as error:
            raise SourceUnavailable(f"{self._where} cannot be reached: {error.strerror}") from error
        if association.is_established:
            return association
        if association.is_rejected:
            why = rejection(association)
            answer = association.acceptor.primitive
            if (
                answer is not None
                and answer.result == PERMANENT
                and (answer.result_source, answer.diagnostic) in WRONG_TITLES
            ):
                raise ConfigurationError(
                    f"{self._where} rejects associations: {why}; have {self.title} allowed to query and retrieve "
                    "there, or correct aet or calling_aet of this source"
                )
            raise SourceUnavailable(f"{self._where} rejects associations: {why}")
        if association.rejected_contexts:
            names = sorted(SERVICES[each] for each in _syntaxes(association.rejected_contexts) & set(SERVICES))
            raise ConfigurationError(
                f"{self._where} offers us none of: {', '.join(names)}; have them allowed there for {self.title}"
            )
        also = ", does it speak TLS there, and do both sides trust each other's certificate" if self._tls else ""
        raise SourceUnavailable(
            f"{self._where} does not accept an association; is it running, and is that its port{also}?"
        )


def find(
    link: Link, level: str, keys: Mapping[str, str], *, contexts: Sequence[PresentationContext]
) -> Iterator[Answer]:
    """What a source lists at a level (``STUDY``, ``SERIES``, ``IMAGE``) that matches keyword → value; an empty value
    asks for the attribute.

    Raises AnswersLimited, after the answers that there were, if the source says that there are more; SourceUnavailable,
    SourceBusy, SourceRefuses or ConfigurationError as ``Link.association`` and by the status.
    """
    association = link.association(contexts, wanted=[FIND])
    name = link.source.name
    responses = _sent(link, lambda: association.send_c_find(identifier_of(level, keys), FIND))
    count, is_over = 0, False
    try:
        for status, found in responses:
            if "Status" not in status:
                raise _silent(link, "a query", SourceUnavailable)
            if status.Status in PENDING:
                count += 1
                if found is not None:
                    yield answer_of(found)
                continue
            is_over = True
            if status.Status in (OUT_OF_RESOURCES, CANCELLED) and count:
                raise AnswersLimited(f"{name} gives {count} answers and says that there are more", answers=count)
            _require_success(name, "a query", status.Status)
    finally:
        if not is_over:  # whoever asked has heard enough; what follows must not be taken for other answers
            link.break_off()


def _cut(association: Association) -> None:
    """End an association at once, and wake whoever waits for a message of it. The library wakes them as well, but its
    own thread may be the one that wakes: so we call once that is at its end.
    """
    association.abort(block=True)
    association.join(THREAD_END_S)
    association.dimse.msg_queue.put((None, None))


class DimseRetriever:
    """The studies of a source, by C-MOVE or C-GET. See Retriever."""

    def __init__(self, source: DimseSource, shelf: Shelf, *, our_aet: str, tls: SSLContext | None = None) -> None:
        """``our_aet``: our Orthanc's title. ``tls``: see Link."""
        self._shelf, self._name = shelf, source.name
        self._link = Link(source, calling_aet=our_aet, tls=tls)
        self._getting = Link(source, calling_aet=our_aet, tls=tls, take=self._take)
        self._move_to = source.move_to or our_aet
        self._by_move = source.retrieve == "move"
        self._stated = Stated(self._ask)
        self._sop_classes: Sequence[str] = ()
        self._taken = Taken(shelf, study_instance_uid="", source=source.name)

    def stated(self, study_instance_uid: str) -> int | None:
        """See Retriever.stated."""
        return self._stated.of(study_instance_uid)

    def retrieve(self, study_instance_uid: str) -> Retrieved:
        """See Retriever.retrieve."""
        stated = self._stated.last_of(study_instance_uid)
        came = self._move(study_instance_uid) if self._by_move else self._get(study_instance_uid)
        here = check_whole(self._shelf, study_instance_uid, stated=stated, came=came, source=self._name)
        if here is not None:
            return here
        if came and self._by_move:
            raise ConfigurationError(
                f"{self._name} says that it has sent {came} instances to {self._move_to}, and our Orthanc has none of "
                "them; have it given our Orthanc's address for that title, or correct move_to of this source"
            )
        raise SourceBusy(f"{self._name} lists the study {study_instance_uid}, and sends nothing of it")

    def abort(self) -> None:
        """See Retriever.abort."""
        self._link.abort()
        self._getting.abort()

    def close(self) -> None:
        """Release the associations."""
        self._link.close()
        self._getting.close()

    def _contexts(self) -> list[PresentationContext]:
        return [build_context(FIND), *([build_context(MOVE)] if self._by_move else [])]

    def _ask(self, uid: str) -> int | None:
        asked = {"StudyInstanceUID": uid, **dict.fromkeys(STUDY_KEYS, "")}
        studies = [each for each in self._find("STUDY", asked) if each.get("StudyInstanceUID") == uid]
        if not studies:
            raise NotInSource(f"{self._name} has no study {uid}")
        count = number_in(studies[0], "NumberOfStudyRelatedInstances")
        classes = list(values_in(studies[0], "SOPClassesInStudy"))
        if count is None or not (classes or self._by_move):
            series = list(self._find("SERIES", {**dict.fromkeys(SERIES_KEYS, ""), "StudyInstanceUID": uid}))
            classes = classes or sop_classes_of(each.get("Modality", "") for each in series)
            count = self._count(uid, series) if count is None else count
        self._sop_classes = classes
        return count

    def _count(self, uid: str, series: Sequence[Answer]) -> int | None:
        """How many instances series have, by what the source says of each, or by its list of them."""
        counts = [number_in(each, "NumberOfSeriesRelatedInstances") for each in series]
        if None not in counts and counts:
            return sum(each or 0 for each in counts)
        instances = 0
        for each in series:
            of_series = {"StudyInstanceUID": uid, "SeriesInstanceUID": each.get("SeriesInstanceUID", "")}
            instances += sum(1 for _ in self._find("IMAGE", {**of_series, "SOPInstanceUID": ""}))
        return instances or None

    def _find(self, level: str, keys: Mapping[str, str]) -> Iterator[Answer]:
        return find(self._link, level, keys, contexts=self._contexts())

    def _move(self, uid: str) -> int | None:
        association = self._link.association(self._contexts(), wanted=[MOVE])
        identifier = identifier_of("STUDY", {"StudyInstanceUID": uid})
        responses = _sent(self._link, lambda: association.send_c_move(identifier, self._move_to, MOVE))
        return self._follow(uid, responses, link=self._link, what="C-MOVE")

    def _get(self, uid: str) -> int:
        self._taken = taken = Taken(self._shelf, study_instance_uid=uid, source=self._name)
        contexts = [build_context(GET), *storage_contexts(self._sop_classes, room=LIMIT - 1)]
        association = self._getting.association(contexts, wanted=[GET])
        if not _syntaxes(association.accepted_contexts) - set(SERVICES):
            self._getting.break_off()
            raise SourceRefuses(
                f"{self._name} will send no instance of the kinds that the study {uid} is of in our association; set "
                'retrieve = "move" for this source'
            )
        identifier = identifier_of("STUDY", {"StudyInstanceUID": uid})
        responses = _sent(self._getting, lambda: association.send_c_get(identifier, GET))
        try:
            self._follow(uid, responses, link=self._getting, what="C-GET")
        except CoreadError as error:
            raise taken.trouble or error from error
        if taken.trouble is not None:
            raise taken.trouble
        return taken.instances

    def _take(self, event: Any) -> int:
        """Answer a C-STORE (PS3.4 B.2.3). After the first one that went wrong the rest is of no use."""
        if not self._getting.is_stopped and self._taken.take(event.encoded_dataset()):
            return SUCCESS
        _cut(event.assoc)
        return OUT_OF_RESOURCES

    def _follow(self, uid: str, responses: Iterator[tuple[Any, Any]], *, link: Link, what: str) -> int | None:
        """What a source says until it is over; how many instances it says that it has sent, if it says so."""
        for status, found in responses:
            if "Status" not in status:
                raise _silent(link, f"the {what} of the study {uid}", SourceBusy)
            if status.Status in PENDING:
                continue
            if status.Status == UNKNOWN_DESTINATION:
                raise ConfigurationError(
                    f"{self._name} knows no destination {self._move_to} for C-MOVE (status A801H); have it added there "
                    "with our Orthanc's address and port, or correct move_to of this source"
                )
            _require_offered(self._name, f"the {what} of the study {uid}", status.Status)
            if status.get("NumberOfFailedSuboperations") or status.Status == NOT_ALLOWED_NOW:
                raise SourceBusy(self._failures(uid, status, found, what=what))
            if status.Status != PARTLY:  # all stored, some with a warning
                _require_success(self._name, f"the {what} of the study {uid}", status.Status)
            completed = status.get("NumberOfCompletedSuboperations")
            warned = status.get("NumberOfWarningSuboperations") or 0
            return None if completed is None else int(completed) + int(warned)
        raise _silent(link, f"the {what} of the study {uid}", SourceBusy)

    def _failures(self, uid: str, status: Dataset, found: Dataset | None, *, what: str) -> str:
        failed = list(values_in(answer_of(found), "FailedSOPInstanceUIDList")) if found is not None else []
        count = status.get("NumberOfFailedSuboperations") or len(failed) or "some"
        completed = status.get("NumberOfCompletedSuboperations")
        named = f": {', '.join(failed[:NAMED])}{' …' if len(failed) > NAMED else ''}" if failed else ""
        return (
            f"{self._name} could not send {count} instances of the study {uid} by {what} (status "
            f"{status.Status:04X}H, {completed if completed is not None else 'an unknown number'} were sent){named}"
        )


class Taken:
    """The instances of a study that a source sends during a C-GET. Each is in our Orthanc before the source is
    answered: so it sends no faster than they are stored, and one of them at a time is in memory.
    """

    def __init__(self, shelf: Shelf, *, study_instance_uid: str, source: str) -> None:
        self._shelf, self._uid, self._source = shelf, study_instance_uid, source
        self.instances = 0
        self.trouble: CoreadError | None = None

    def take(self, file: bytes) -> bool:
        """Store an instance; False if that went wrong."""
        try:
            self._shelf.store(file, study_instance_uid=self._uid, source=self._source)
        except CoreadError as error:
            self.trouble = error
            return False
        self.instances += 1
        return True


def identifier_of(level: str, keys: Mapping[str, str]) -> Dataset:
    """The identifier of a query: the level and the keys (PS3.4 C.4.1.1.3). Values with ``*``, ``-`` or a list are
    legal in a query and not elsewhere, so they are not checked. Raises ConfigurationError for what is no keyword.
    """
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise ConfigurationError(f"{keyword} is no DICOM keyword; correct it")
        values = value.split("\\") if "\\" in value else value
        element = DataElement(tag, dictionary_VR(tag), values, validation_mode=config.IGNORE)
        identifier.add(element)
    if not all(value.isascii() for value in keys.values()):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    return identifier


def answer_of(found: Dataset) -> Answer:
    """The attributes of an answer as texts, as they stand there: what they hold may be illegal, and must not be quoted
    by a library that warns of it.
    """
    said = found.get_item("SpecificCharacterSet")
    charsets = _plain(said.value).split("\\") if said is not None and said.value else []
    answer = {}
    for element in found.elements():
        keyword = keyword_for_tag(element.tag)
        if keyword and element.VR != "SQ":
            answer[keyword] = _text(element.value, element.VR or dictionary_VR(element.tag), charsets)
    return answer


def _text(value: Any, vr: str, charsets: Sequence[str]) -> str:
    if not isinstance(value, bytes) or vr not in ("SH", "LO", "ST", "LT", "UC", "UT", "PN"):
        return _plain(value)
    try:
        return decode_bytes(value, convert_encodings(list(charsets) or None), TEXT_VR_DELIMS).strip("\0 ")
    except (LookupError, UnicodeError, AttributeError):
        return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii", errors="replace").strip("\0 ")
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return "" if value is None else str(value).strip("\0 ")
    return "\\".join(str(each).strip() for each in value)


def _sent(link: Link, send: Callable[[], Iterator[tuple[Any, Any]]]) -> Iterator[tuple[Any, Any]]:
    try:
        return send()
    except (RuntimeError, ValueError) as error:
        link.break_off()
        raise SourceUnavailable(f"{link.source.name} ended the association before it was asked") from error


def _silent(link: Link, what: str, kind: type[TransientError]) -> TransientError:
    link.break_off()
    if link.is_stopped:
        return SourceUnavailable(f"{what} at {link.source.name} was broken off: we are being stopped")
    return kind(
        f"{link.source.name} ended the association during {what}, or has said nothing for {link.source.timeout_s:g} s; "
        f"may {link.title} do that there?"
    )


def _require_success(name: str, what: str, status: int) -> None:
    _require_offered(name, what, status)
    if status != SUCCESS:
        raise SourceBusy(f"{name} answers {what} with status {status:04X}H")


def _require_offered(name: str, what: str, status: int) -> None:
    """Raises the error that a status stands for which another attempt would meet again."""
    said = f"{name} answers {what} with status {status:04X}H"
    if status in NOT_OFFERED:
        raise ConfigurationError(f"{said}: it does not offer that, or not to us; have it allowed there")
    if status == DOES_NOT_FIT:
        raise SourceRefuses(f"{said}: it does not understand the keys")


def _named(contexts: Sequence[PresentationContext]) -> frozenset[tuple[str, str]]:
    return frozenset((str(each.abstract_syntax), str(syntax)) for each in contexts for syntax in each.transfer_syntax)


def _syntaxes(contexts: Sequence[PresentationContext]) -> set[str]:
    return {str(context.abstract_syntax) for context in contexts}

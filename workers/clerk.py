"""The clerk: writes what persons say of results as DICOM, and looks at what comes back from viewers and PACS.

A thread of the worker's process beside the jobs. Everything here may stop anywhere and happen twice: a review always
gives the same bytes under the same UIDs, only one clerk holds it at a time, and what is not finished is taken up again
when the lease runs out.
"""

import io
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import structlog
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage

from coread.archive import UID, Archive, instances_with, withdraw
from coread.audit.event import printable
from coread.dicom_sr.feedback import LABEL_MAP, REJECTIONS, Feedback, FeedbackKind, observer_of, recognise, tracked
from coread.dicom_sr.identity import possible_instances
from coread.dicom_sr.review_objects import (
    NOBODY,
    ResultReference,
    Signature,
    is_report,
    rejection_note,
    verified_successor,
)
from coread.errors import (
    ConfigurationError,
    CoreadError,
    InputError,
    LedgerUnavailable,
    ResultError,
    SourceGone,
    TransientError,
)
from coread.job import ENDED, STANDING
from coread.lease import Lease
from coread.ledger.desk import JobDesk
from coread.ledger.jobs import JobRecord
from coread.ledger.reviews import ReturnedObject, ReviewTask
from coread.logs import logger
from coread.review import LONGEST_NAME, REASONS, Review, ReviewSource, ReviewState, Verdict, digest_of
from coread.settings import ReviewSettings
from coread.workers.feedback import known_results
from coread.workers.hold import utc_now
from coread.workers.retry import RetryPolicy
from coread.workers.revised import dice_by_structure, measurement_changes
from coread.workers.scan import parsed

POLL_S = 1.0
"""How often the ledger is asked for something to write or to look at."""
BACK_OFF_S = 5.0
"""The wait after a step that failed because the ledger was away."""
LEASE = timedelta(seconds=60)
LOOKING = timedelta(minutes=10)
"""Longer than it takes to compare two segmentations: this lease is not renewed."""
STOP_TIMEOUT_S = 10.0

SEGMENTATIONS = frozenset({SegmentationStorage, LABEL_MAP})
SHORT = re.compile(r"[A-Za-z0-9.:_-]{1,16}")
"""What a code and its scheme look like (SH); anything else is not quoted."""
_NAMESPACE = uuid.UUID("0f4f3c0b-3f0e-5f53-8d2b-6f8a9b6d2e11")

STALE = (
    "the result that was reviewed is not what stands in the archive now: it was read anew, or the study has changed; "
    "review what is there now"
)
RUNS_AGAIN = "the job runs again; what it gives is compared with what was reviewed"
NOT_YET = timedelta(seconds=10)
NO_REPORT = (
    "expected a report among the result's objects, found none, so that nothing can be verified; the review counts all "
    "the same. Let the model write reports (results.profiles)"
)


class _NotOursError(Exception):
    """The review is no longer this clerk's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Written:
    """An object that says what a person said."""

    sop_class_uid: str
    sop_instance_uid: str
    file: bytes


class Clerk:
    """Writes reviews and looks at what came back, one after the other. Runs inside the block."""

    def __init__(
        self,
        *,
        archive: Archive,
        ledger: JobDesk,
        settings: ReviewSettings,
        worker: str,
        retries: RetryPolicy,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._archive = archive
        self._ledger = ledger
        self._settings = settings
        self._worker = worker
        self._retries = retries
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="coread-clerk", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)

    def step(self) -> bool:
        """Write one review, and look at one object that came back; whether there was anything. Raises
        LedgerUnavailable; what was in hand is then taken up when its lease has ended.
        """
        wrote = self._write_one()
        return self._look_at_one() or wrote

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                wait_s = 0.0 if self.step() else POLL_S
            except (TransientError, ConfigurationError) as error:  # the latter: an upgrade has left it behind
                logger().warning("the clerk waits", reason=str(error))
                wait_s = BACK_OFF_S
            except Exception:  # noqa: BLE001  # the thread must outlive every surprise: reviews wait for it
                logger().exception("the clerk's step failed")
                wait_s = BACK_OFF_S
            self._stop.wait(wait_s)

    # Writing -----------------------------------------------------------------------------------------------------

    def _write_one(self) -> bool:
        task = self._ledger.claim_review(clerk=self._worker, at=self._clock(), lease=LEASE)
        if task is None:
            return False
        review = task.review
        with (
            structlog.contextvars.bound_contextvars(review_id=review.review_id, job_id=review.job_id),
            Lease(lambda: self._renew(review.review_id), length=LEASE),
        ):
            try:
                self._write(review)
            except _NotOursError:
                logger().info("review was given away while it was written, or its result has changed")
            except LedgerUnavailable:
                raise
            except TransientError as error:
                self._try_again(task, error, str(error))
            except CoreadError as error:
                self._end(review, ReviewState.FAILED, str(error))
            except Exception as error:  # noqa: BLE001  # whatever it was, the clerk goes on with the next
                logger().exception("review broke")
                self._try_again(task, error, f"unexpected {type(error).__name__}; the worker's log says where")
        return True

    def _renew(self, review_id: str) -> bool:
        return self._ledger.renew_review(review_id, clerk=self._worker, at=self._clock(), lease=LEASE)

    def _write(self, review: Review) -> None:
        record = self._ledger.job(review.job_id)
        if record is not None and record.state not in ENDED:
            self._put_off(review, RUNS_AGAIN, wait=NOT_YET)
            return
        if not review.of_this_result:
            uids = {uid for _, uid in review.objects}
            # It may have been stored by a clerk that died of it, before the result ceased to stand.
            is_there = bool(uids) and len(instances_with(self._archive, review.orthanc_id, uids)) == len(uids)
            self._end(review, *((ReviewState.WRITTEN, "") if is_there else (ReviewState.FAILED, STALE)))
            return
        objects = list(self._objects(review))
        if not objects:
            self._end(review, ReviewState.FAILED, NO_REPORT)
            return
        pairs = [(each.sop_class_uid, each.sop_instance_uid) for each in objects]
        if not self._ledger.begin_review(review.review_id, clerk=self._worker, objects=pairs):
            raise _NotOursError
        self._store(review, objects)
        self._end(review, ReviewState.WRITTEN, "")

    def _store(self, review: Review, objects: Sequence[_Written]) -> None:
        there = instances_with(self._archive, review.orthanc_id, {each.sop_instance_uid for each in objects})
        kept = {uid: next(self._archive.files([orthanc_id])) for orthanc_id, uid in there.items()}
        for each in objects:
            if kept.get(each.sop_instance_uid) == each.file:
                continue
            if not self._renew(review.review_id):
                raise _NotOursError
            self._archive.store(each.file)
        # What is said of a study would make it anew, were it deleted meanwhile.
        if not self._archive.study(review.orthanc_id).sources:
            withdraw(self._archive, review.orthanc_id, {each.sop_instance_uid for each in objects})
            raise SourceGone("the study was deleted while the review was written; nothing is left to speak of")

    def _objects(self, review: Review) -> Iterator[_Written]:
        """What says it in DICOM."""
        signature = Signature(
            review_id=review.review_id,
            name=review.reader or _as_name(review.who) or NOBODY,
            organization=self._settings.organization,
            at=review.at,
        )
        if review.verdict is Verdict.ACCEPTED:
            for sop_class_uid, uid in review.results:
                if is_report(sop_class_uid):
                    yield _written(verified_successor(self._result(review, uid), signature))
            return
        places = self._series_of(review)
        reports = [uid for sop_class_uid, uid in review.results if is_report(sop_class_uid)]
        header = self._result(review, (reports or [uid for _, uid in review.results])[0])
        references = [
            ResultReference(sop_class_uid=sop_class_uid, sop_instance_uid=uid, series_instance_uid=places[uid])
            for sop_class_uid, uid in review.results
            if uid in places
        ]
        reason = Code(*(review.reason or ("", "", "")))
        yield _written(rejection_note(references, header, reason, signature, comment=review.comment))

    def _result(self, review: Review, uid: str) -> Dataset:
        """An object of the result. Raises SourceGone if it is no longer there."""
        found = next(iter(instances_with(self._archive, review.orthanc_id, {uid})), None)
        if found is None:
            raise SourceGone(f"expected the result's object {uid} in the archive, found none; {STALE}")
        return parsed(next(self._archive.files([found])), uid)

    def _series_of(self, review: Review) -> dict[str, str]:
        """SOP Instance UID of each object of the result that is there → SeriesInstanceUID."""
        study = self._archive.study(review.orthanc_id)
        return {uid: series.tags["SeriesInstanceUID"] for series in study.series for uid in series.instances.values()}

    def _try_again(self, task: ReviewTask, error: Exception, reason: str) -> None:
        if task.attempts >= self._retries.attempts(error):
            self._end(task.review, ReviewState.FAILED, f"{reason} (tried {task.attempts} times)")
            return
        self._put_off(task.review, reason, wait=timedelta(seconds=self._retries.delay_s(task.attempts)))

    def _put_off(self, review: Review, reason: str, *, wait: timedelta) -> None:
        now = self._clock()
        self._ledger.put_off_review(review.review_id, clerk=self._worker, reason=reason, at=now, not_before=now + wait)
        logger().warning("review will be written later", reason=reason)

    def _end(self, review: Review, state: ReviewState, reason: str) -> None:
        ended = self._ledger.finish_review(review.review_id, state, clerk=self._worker, reason=reason, at=self._clock())
        logger().info("review ended", state=state, reason=reason, was_ours=ended, verdict=review.verdict)

    # What came back ----------------------------------------------------------------------------------------------

    def _look_at_one(self) -> bool:
        found = self._ledger.claim_returned(clerk=self._worker, at=self._clock(), lease=LOOKING)
        if found is None:
            return False
        with structlog.contextvars.bound_contextvars(instance=found.instance):
            try:
                reviews = self._said_in(found)
            except LedgerUnavailable:
                raise
            except InputError as error:
                logger().info("object that came back cannot be looked at", reason=str(error))
                reviews = []
            except Exception as error:  # noqa: BLE001  # one object, whatever is the matter, must not hold up the others
                if found.attempts < self._retries.attempts(error):
                    now = self._clock()
                    not_before = now + timedelta(seconds=self._retries.delay_s(found.attempts))
                    self._ledger.put_off_returned(found.instance, clerk=self._worker, at=now, not_before=not_before)
                    logger().warning("object that came back is looked at later", exc_info=error)
                    return True
                logger().exception("object that came back was given up")
                reviews = []
            self._ledger.settle_returned(found.instance, reviews, clerk=self._worker, at=self._clock())
            for review in reviews:
                logger().info("review came back", job_id=review.job_id, verdict=review.verdict, basis=review.basis)
        return True

    def _said_in(self, found: ReturnedObject) -> list[Review]:
        dataset = parsed(next(self._archive.files([found.instance])), found.instance)
        if not UID.fullmatch(str(dataset.SOPInstanceUID)):
            return []  # what stands there may name the patient
        known = known_results(self._ledger, str(dataset.StudyInstanceUID))
        said = recognise(dataset, known)
        who = self._sender(found) if said else ""
        reviews = []
        for each in said:
            record = self._ledger.job(each.job_id)
            # Two patients' studies may share a StudyInstanceUID by mistake.
            is_of_study = record is not None and record.job.orthanc_id == found.orthanc_id
            if record is not None and is_of_study and each.sop_instance_uid not in possible_instances(each.job_id):
                reviews.append(self._review(record, each, dataset, who=who))
        return reviews

    def _sender(self, found: ReturnedObject) -> str:
        metadata = self._archive.metadata(found.instance)
        return printable(metadata.get("RemoteAET", "").strip() or metadata.get("HttpUsername", ""))

    def _review(self, record: JobRecord, said: Feedback, dataset: Dataset, *, who: str) -> Review:
        comparison = self._comparison(record, said, dataset)
        verdict = {
            FeedbackKind.REJECTED: Verdict.REJECTED,
            FeedbackKind.EDITED: Verdict.EDITED,
            FeedbackKind.VERIFIED: Verdict.EDITED if comparison.get("changes") else Verdict.ACCEPTED,
        }[said.kind]
        job, result = record.job, record.result
        uids = result.get("sop_instance_uids", ())
        classes = result.get("sop_class_uids") or [""] * len(uids)
        return Review(
            # The same object says the same of the same job, however often it comes.
            review_id=uuid.uuid5(_NAMESPACE, f"{job.job_id} {said.sop_instance_uid}").hex,
            job_id=job.job_id,
            study_instance_uid=job.study_instance_uid,
            orthanc_id=job.orthanc_id,
            model=job.model,
            model_version=job.model_version,
            verdict=verdict,
            source=ReviewSource.OBJECT,
            at=self._clock(),
            who=who,
            reader=_as_name(observer_of(dataset)),
            reason=None if said.reason is None else _known_reason(said.reason),
            result_digest=digest_of(result),
            results=tuple(zip(classes, uids, strict=True)),
            stops_delivery=verdict is Verdict.REJECTED and self._settings.stop_delivery_on_reject,
            object_uid=said.sop_instance_uid,
            basis=said.basis,
            comparison=comparison,
        )

    def _comparison(self, record: JobRecord, said: Feedback, dataset: Dataset) -> dict[str, Any]:
        """What differs between their object and ours; empty if ours are no longer there."""
        if said.kind is FeedbackKind.REJECTED or record.state not in STANDING:
            return {}
        try:
            if said.kind is FeedbackKind.EDITED:
                each = [dice_by_structure(ours, dataset) for ours in self._ours(record, SEGMENTATIONS.__contains__)]
                # Of a cine, each phase has a segmentation: theirs is of the one that it can be compared with.
                best = max(each, key=lambda dice: sum(value is not None for value in dice.values()), default=None)
                return {} if best is None else {"dice": best}
            return self._changes(record, said, dataset)
        except (AttributeError, KeyError, ValueError, TypeError, IndexError, NotImplementedError, ResultError) as error:
            # An object that lacks what is compared was made by a person all the same.
            logger().info("object that came back cannot be compared with ours", reason=type(error).__name__)
            return {}

    def _changes(self, record: JobRecord, said: Feedback, dataset: Dataset) -> dict[str, Any]:
        """Of a verified report: beside the report that it names, or else the one whose Tracking UIDs it keeps."""
        reports = list(self._ours(record, is_report))
        named = [each for each in reports if str(each.SOPInstanceUID) in said.results]
        alike = [each for each in reports if tracked(each) & tracked(dataset)]
        chosen = (named or alike)[:1]
        return {"changes": measurement_changes(chosen[0], dataset)} if chosen else {}

    def _ours(self, record: JobRecord, is_wanted: Callable[[str], bool]) -> Iterator[Dataset]:
        """The objects of a job's result that are of wanted classes and in the archive."""
        uids = record.result.get("sop_instance_uids", ())
        wanted = {
            uid
            for sop_class, uid in zip(record.result.get("sop_class_uids", ()), uids, strict=False)
            if is_wanted(sop_class)
        }
        there = {
            uid: orthanc_id for orthanc_id, uid in instances_with(self._archive, record.job.orthanc_id, wanted).items()
        }
        for uid in uids:
            if uid in there:
                yield parsed(next(self._archive.files([there[uid]])), uid)


def _known_reason(code: Code) -> tuple[str, str, str]:
    """A reason as the standard words it: what somebody else's object has for its meaning may be any text."""
    known = REASONS.get(code.value) or REJECTIONS.get(code.value)
    if known is not None and code.scheme_designator == "DCM":
        return code.value, "DCM", known.meaning
    is_code = SHORT.fullmatch(code.value) and SHORT.fullmatch(code.scheme_designator)
    return (code.value, code.scheme_designator, code.value) if is_code else ("", "", "another reason")


def _as_name(text: str) -> str:
    """The first component group of a name that says anything, as PN may hold it; no backslash, which would divide it.
    A name in another script may have no alphabetic group (PS3.5 6.2.1).
    """
    group = next((each for each in text.split("=") if each.strip(" ^")), "")
    return printable(group).replace("\\", " ")[:LONGEST_NAME].strip(" ^")


def _written(dataset: Dataset) -> _Written:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return _Written(
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        file=buffer.getvalue(),
    )

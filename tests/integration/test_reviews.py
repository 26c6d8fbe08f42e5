"""What a person says of a result gets into the study as DICOM, once, and what comes back is recognised."""

import copy
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, generate_uid

from coread import codes
from coread.archive import Archive
from coread.audit.event import AuditKind
from coread.delivery import DeliveryState, ObjectState
from coread.dicom_sr.encode import ResultObject, encode_findings
from coread.dicom_sr.feedback import FeedbackKind, recognise, tracked
from coread.dicom_sr.identity import possible_instances
from coread.dicom_sr.validation.run import validate_files
from coread.errors import ArchiveUnavailable
from coread.job import Job, JobState
from coread.ledger import ArrivingStudy, Ledger
from coread.objects import ObjectKind
from coread.review import Basis, Review, ReviewState, Verdict
from coread.settings import ReviewSettings
from coread.workers.clerk import Clerk
from coread.workers.feedback import known_results
from coread.workers.retry import RetryPolicy
from coread.workers.volume import build_volume
from tests.integration.test_result_objects import findings_in
from tests.integration.test_retries import file_of
from tests.orthanc_alone import plain_orthanc
from tests.support import NOW, a_job, identity, images_of, uid_of, volume_in_plane

MINUTE = timedelta(minutes=1)
REASON = ("111210", "DCM", "Motion blur")
READER = "Reader^Rita"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An Orthanc without plugins."""
    with plain_orthanc(tmp_path_factory.mktemp("orthanc")) as url:
        yield url


class Scene:
    """A study in Orthanc whose job is done, its ledger, and a clerk."""

    def __init__(self, url: str, folder: Path, *, name: str) -> None:
        self.archive = Archive(url)
        self.folder = folder
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
        self.ledger.migrate()
        self.now = NOW
        self.images = images_of(volume_in_plane("oblique"), name=name)
        ids = [self.archive.store(file_of(image)) for image in self.images]
        self.orthanc_id = self.archive.studies_of_sources(ids)[ids[0]]
        self.job = a_job(
            uid_of(name)[-32:].zfill(32),
            study_instance_uid=str(self.images[0].StudyInstanceUID),
            orthanc_id=self.orthanc_id,
            destinations=("pacs",),
            created_at=NOW,
        )
        self.objects = self.encode()
        self.changes = 0
        self.settle(self.job)
        self.read()

    def encode(self, *labels: int) -> tuple[ResultObject, ...]:
        source = build_volume(self.images)
        of_job = replace(identity(self.job.job_id), created_at=NOW)
        findings = findings_in(source, *(labels or (1, 2)))
        return encode_findings(findings, source=source.as_source, identity=of_job)

    def settle(self, *jobs: Job) -> None:
        self.changes += 1
        study = ArrivingStudy(orthanc_id=self.orthanc_id, last_change=self.changes, last_arrival_at=NOW)
        self.ledger.settle(study, jobs, present_uids=self.present, at=self.now)

    def read(self) -> None:
        """Do the job, as a worker does."""
        self.ledger.queue_due(at=self.now)
        assert self.ledger.claim(worker="w", at=self.now, lease=MINUTE) is not None
        structures = findings_in(build_volume(self.images), 1, 2).structures
        result = {
            "series_instance_uid": str(self.images[0].SeriesInstanceUID),
            "sop_instance_uids": [str(each.dataset.SOPInstanceUID) for each in self.objects],
            "sop_class_uids": [str(each.dataset.SOPClassUID) for each in self.objects],
            "tracking_uids": sorted(tracked(self.of(ObjectKind.SR))),
            "findings": [
                {"structure": each.name, "code": list(each.type), "present": True, "measurements": []}
                for each in structures
            ],
        }
        assert self.ledger.start_storing(self.job.job_id, worker="w", result=result, at=self.now)
        for each in self.objects:
            self.archive.store(each.file())
        assert self.ledger.finish(self.job.job_id, JobState.DONE, worker="w", result=result, at=self.now)

    def of(self, kind: ObjectKind) -> Dataset:
        return next(each.dataset for each in self.objects if each.kind is kind)

    @property
    def present(self) -> set[str]:
        study = self.archive.study(self.orthanc_id)
        return {uid for series in study.series for uid in series.instances.values()}

    @property
    def beside_the_result(self) -> set[str]:
        """SOP Instance UIDs of what is in the study beside images and results."""
        ours = {str(each.dataset.SOPInstanceUID) for each in self.objects}
        return self.present - ours - {str(image.SOPInstanceUID) for image in self.images}

    def fetch(self, uid: str) -> Dataset:
        return pydicom.dcmread(io.BytesIO(self.bytes_of(uid)))

    def bytes_of(self, uid: str) -> bytes:
        orthanc_id = self.archive.find_instance(uid)
        assert orthanc_id is not None
        return next(self.archive.files([orthanc_id]))

    def clerk(self, name: str = "w:1") -> Clerk:
        return Clerk(
            archive=self.archive,
            ledger=self.ledger,
            settings=ReviewSettings(organization="St. Elsewhere"),
            worker=name,
            retries=RetryPolicy(first_delay_s=1),
            clock=lambda: self.now,
        )

    def work(self) -> None:
        """Let a clerk do all that there is to do."""
        clerk = self.clerk()
        while clerk.step():
            self.now += timedelta(seconds=1)

    def say(self, verdict: Verdict, **more: Any) -> Review:
        said: dict[str, Any] = {"reader": READER, "who": "rita"}
        if verdict is Verdict.REJECTED:
            said["reason"] = REASON
        found = self.ledger.review(self.job.job_id, verdict=verdict, at=self.now, **said, **more)
        assert found is not None
        return found

    def arrives(self, dataset: Dataset) -> str:
        """An object comes in, and the intake notes it as it does; its SOP Instance UID."""
        instance = self.archive.store(file_of(dataset))
        self.ledger.note_returned(self.archive.speaking_objects([instance]), at=self.now)
        return str(dataset.SOPInstanceUID)

    @property
    def reviews(self) -> list[Review]:
        return self.ledger.reviews(job_ids=[self.job.job_id])

    def problems(self, *uids: str) -> dict[str, list[Any]]:
        """What our rules and the validators that are installed say of objects, beside their source."""
        source, files = self.folder / "source", []
        source.mkdir(exist_ok=True)
        for number, image in enumerate(self.images):
            image.save_as(source / f"{number}.dcm", enforce_file_format=True)
        for uid in (*uids, *(str(each.dataset.SOPInstanceUID) for each in self.objects)):
            files.append(self.folder / f"{uid}.dcm")
            files[-1].write_bytes(self.bytes_of(uid))
        return {each.file.stem: list(each.problems) for each in validate_files(files, source=source)}


@pytest.fixture
def scene(url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(url, tmp_path, name=request.node.name)
    with scene.archive:
        yield scene
    scene.ledger.close()


# What is written ------------------------------------------------------------------------------------------------------


def test_an_accepted_result_gets_verified_successors_of_its_reports(scene: Scene) -> None:
    asked = scene.say(Verdict.ACCEPTED)
    assert (asked.state, asked.sop_instance_uid) == (ReviewState.ASKED, None)
    scene.work()
    (review,) = scene.reviews
    assert (review.state, review.failure, len(review.objects)) == (ReviewState.WRITTEN, "", 2)
    assert {uid for _, uid in review.objects} == scene.beside_the_result
    ours = scene.of(ObjectKind.SR)
    signed = scene.fetch(str(review.sop_instance_uid))
    assert (signed.CompletionFlag, signed.PreliminaryFlag, signed.VerificationFlag) == ("COMPLETE", "FINAL", "VERIFIED")
    (observer,) = signed.VerifyingObserverSequence
    assert (observer.VerifyingObserverName, observer.VerifyingOrganization) == (READER, "St. Elsewhere")
    (predecessor,) = signed.PredecessorDocumentsSequence
    (series,) = predecessor.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == ours.SeriesInstanceUID != signed.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == ours.SOPInstanceUID
    assert tracked(signed) == tracked(ours)
    assert signed.SeriesDescription.endswith("verified (RESEARCH)")
    judged = scene.problems(*(uid for _, uid in review.objects))
    assert judged == {uid: [] for uid in judged}


def test_a_rejected_result_gets_a_note_that_refers_to_all_its_objects(scene: Scene) -> None:
    scene.say(Verdict.REJECTED, comment="the apex is missing")
    scene.work()
    (review,) = scene.reviews
    assert review.state is ReviewState.WRITTEN, review.failure
    note = scene.fetch(str(review.sop_instance_uid))
    assert note.ConceptNameCodeSequence[0].CodeValue == codes.REJECTED_FOR_QUALITY.value
    assert [
        item.TextValue
        for item in note.ContentSequence
        if item.RelationshipType == "CONTAINS" and item.ValueType == "TEXT"
    ] == ["the apex is missing"]
    referenced = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in note.ContentSequence
        if item.ValueType in ("IMAGE", "COMPOSITE")
    }
    assert referenced == {each.dataset.SOPInstanceUID for each in scene.objects}
    assert scene.problems(str(note.SOPInstanceUID))[str(note.SOPInstanceUID)] == []


def test_others_would_recognise_what_we_write(scene: Scene) -> None:
    scene.say(Verdict.ACCEPTED)
    scene.work()
    scene.say(Verdict.REJECTED)
    scene.work()
    rejected, accepted = scene.reviews
    known = known_results(scene.ledger, scene.job.study_instance_uid)
    of_others = replace(
        known, by_instance={uid: job for uid, job in known.by_instance.items() if uid not in scene.beside_the_result}
    )
    (said,) = recognise(scene.fetch(str(accepted.sop_instance_uid)), of_others)
    assert (said.kind, said.job_id) == (FeedbackKind.VERIFIED, scene.job.job_id)
    (said,) = recognise(scene.fetch(str(rejected.sop_instance_uid)), of_others)
    assert (said.kind, said.job_id) == (FeedbackKind.REJECTED, scene.job.job_id)
    assert said.reason == Code(*REASON)


DIES = """
import os, signal, sys
from datetime import datetime
from coread.archive import Archive
from coread.ledger import Ledger
from coread.settings import ReviewSettings
from coread.workers.clerk import Clerk
from coread.workers.retry import RetryPolicy

url, ledger, at = sys.argv[1:]

class Dying(Archive):
    def store(self, file):
        super().store(file)
        os.kill(os.getpid(), signal.SIGKILL)

Clerk(
    archive=Dying(url),
    ledger=Ledger(ledger),
    settings=ReviewSettings(organization="St. Elsewhere"),
    worker="dies",
    retries=RetryPolicy(first_delay_s=1),
    clock=lambda: datetime.fromisoformat(at),
).step()
"""
"""A worker that is killed after it has stored, before it has written that down."""


def test_a_worker_that_is_killed_after_storing_leaves_one_object(scene: Scene, url: str) -> None:
    scene.say(Verdict.REJECTED)
    ledger = f"sqlite:///{scene.folder / 'ledger.sqlite'}"
    died = subprocess.run([sys.executable, "-c", DIES, url, ledger, scene.now.isoformat()], check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL
    (stored,) = scene.beside_the_result
    before = scene.bytes_of(stored)
    assert [each.state for each in scene.reviews] == [ReviewState.ASKED]
    assert not scene.clerk("too early").step()
    scene.now += 2 * MINUTE
    scene.work()
    assert scene.beside_the_result == {stored}
    assert scene.bytes_of(stored) == before
    assert [(each.state, each.sop_instance_uid) for each in scene.reviews] == [(ReviewState.WRITTEN, stored)]
    kinds = [event.kind for event in scene.ledger.audit()]
    assert kinds.count(AuditKind.REVIEW_WRITTEN) == 1
    assert [len(each.objects) for each in scene.ledger.deliveries() if each.review_id] == [1]


def test_a_review_is_written_when_orthanc_is_back(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.say(Verdict.REJECTED)

    def away(*_arguments: object) -> str:
        raise ArchiveUnavailable("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(scene.archive, "store", away)
        assert scene.clerk().step()
    assert [(each.state, each.failure) for each in scene.reviews] == [(ReviewState.ASKED, "no answer")]
    scene.now += MINUTE
    scene.work()
    assert [(each.state, each.failure) for each in scene.reviews] == [(ReviewState.WRITTEN, "")]


def test_reviews_outlive_a_new_reading_and_a_late_slice(scene: Scene) -> None:
    scene.say(Verdict.ACCEPTED)
    scene.work()
    written = scene.beside_the_result
    before = scene.archive.study(scene.orthanc_id).revision
    scene.archive.delete_instance(str(scene.archive.find_instance(str(scene.of(ObjectKind.SEG).SOPInstanceUID))))
    scene.settle(scene.job)  # its results are no longer in the archive
    scene.read()
    (review,) = scene.reviews
    assert review.of_this_result
    assert scene.archive.study(scene.orthanc_id).revision == before
    scene.settle(replace(scene.job, job_id="b" * 32, fingerprint="late"))
    (review,) = scene.reviews
    assert (review.state, review.of_this_result) == (ReviewState.WRITTEN, False)
    assert not written & scene.ledger.outdated_uids(scene.job)
    assert not written & possible_instances(scene.job.job_id)
    assert scene.ledger.review(scene.job.job_id, verdict=Verdict.ACCEPTED, at=NOW) is None


def test_while_the_job_runs_again_its_review_waits(scene: Scene) -> None:
    scene.say(Verdict.ACCEPTED)
    scene.archive.delete_instance(str(scene.archive.find_instance(str(scene.of(ObjectKind.SEG).SOPInstanceUID))))
    scene.settle(scene.job)  # its results are no longer in the archive
    assert scene.clerk().step()
    (review,) = scene.reviews
    assert review.state is ReviewState.ASKED
    assert "the job runs again" in review.failure
    scene.read()
    scene.now += MINUTE
    scene.work()
    assert [each.state for each in scene.reviews] == [ReviewState.WRITTEN]


def test_what_was_reviewed_and_has_changed_since_is_not_signed(scene: Scene) -> None:
    scene.say(Verdict.ACCEPTED)
    scene.settle(replace(scene.job, job_id="b" * 32, fingerprint="late"))
    scene.work()
    (review,) = scene.reviews
    assert review.state is ReviewState.FAILED
    assert "review what is there now" in review.failure
    assert not scene.beside_the_result


def test_nothing_is_written_into_a_study_that_was_deleted(scene: Scene) -> None:
    scene.say(Verdict.REJECTED)
    for series in scene.archive.study(scene.orthanc_id).series:
        for instance in series.instances:
            scene.archive.delete_instance(instance)
    scene.work()
    assert [each.state for each in scene.reviews] == [ReviewState.FAILED]
    assert scene.archive.studies_with(scene.job.study_instance_uid) == []


# Where it goes --------------------------------------------------------------------------------------------------------


def test_a_review_goes_where_the_result_went_and_after_it(scene: Scene) -> None:
    scene.say(Verdict.ACCEPTED)
    scene.work()
    deliveries = scene.ledger.deliveries(job_id=scene.job.job_id)[::-1]
    assert [bool(each.review_id) for each in deliveries] == [False, True]
    assert {each.sop_instance_uid for each in deliveries[1].objects} == scene.beside_the_result
    first = scene.ledger.claim_delivery("pacs", courier="c", at=scene.now, lease=MINUTE)
    assert first is not None
    assert first.review_id == ""
    assert scene.ledger.claim_delivery("pacs", courier="c", at=scene.now, lease=MINUTE) is None


def test_a_rejection_is_told_to_whom_something_was_sent(scene: Scene) -> None:
    first = scene.ledger.claim_delivery("pacs", courier="c", at=scene.now, lease=MINUTE)
    assert first is not None
    uid = first.objects[0].sop_instance_uid
    assert scene.ledger.begin_object(first.delivery_id, uid, courier="c")
    scene.ledger.note_object(first.delivery_id, uid, ObjectState.CONFIRMED)
    scene.say(Verdict.REJECTED, stops_delivery=True)
    stopped = scene.ledger.delivery(first.delivery_id)
    assert stopped is not None
    assert stopped.state is DeliveryState.CANCELLED
    scene.work()
    note = scene.ledger.claim_delivery("pacs", courier="c", at=scene.now, lease=MINUTE)
    assert note is not None
    assert [each.sop_instance_uid for each in note.objects] == sorted(scene.beside_the_result)


# What comes back ------------------------------------------------------------------------------------------------------


def edited(scene: Scene, *, keeps_tracking: bool, keeps_codes: bool = True) -> Dataset:
    """Our segmentation as a viewer writes it when a person has wiped the upper half of the first segment's frames. OHIF
    3.13 keeps neither Tracking UIDs nor codes.
    """
    theirs = copy.deepcopy(scene.of(ObjectKind.SEG))
    theirs.SOPInstanceUID = theirs.file_meta.MediaStorageSOPInstanceUID = UID(generate_uid())
    theirs.SeriesInstanceUID = UID(generate_uid())
    theirs.Manufacturer = "Viewer"
    theirs.ContentCreatorName = READER
    pixels = theirs.pixel_array.copy()
    for number, groups in enumerate(theirs.PerFrameFunctionalGroupsSequence):
        if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 1:
            pixels[number, : pixels.shape[1] // 2] = 0
    theirs.PixelData = pydicom.pixels.pack_bits(pixels)
    if not keeps_tracking:
        for segment in theirs.SegmentSequence:
            del segment.TrackingUID, segment.TrackingID
    if not keeps_codes:
        for segment in theirs.SegmentSequence:
            for keyword in ("SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"):
                code = segment[keyword].value[0]
                code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-D0050", "SRT", "Tissue"
    return theirs


def voxels_of_first_segment(segmentation: Dataset) -> int:
    numbers = [
        groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for groups in segmentation.PerFrameFunctionalGroupsSequence
    ]
    return sum(int(frame.sum()) for frame, number in zip(segmentation.pixel_array, numbers, strict=True) if number == 1)


@pytest.mark.parametrize(
    ("keeps_tracking", "keeps_codes", "basis"),
    [(True, True, Basis.TRACKING), (False, True, Basis.SOURCE), (False, False, Basis.SOURCE)],
)
def test_an_edited_segmentation_is_recognised_with_what_was_changed(
    scene: Scene,
    keeps_tracking: bool,
    keeps_codes: bool,
    basis: Basis,
) -> None:
    ours = str(scene.of(ObjectKind.SEG).SOPInstanceUID)
    uid = scene.arrives(edited(scene, keeps_tracking=keeps_tracking, keeps_codes=keeps_codes))
    scene.work()
    (review,) = scene.reviews
    assert (review.verdict, review.state, review.basis) == (Verdict.EDITED, ReviewState.WRITTEN, basis)
    assert (review.sop_instance_uid, review.reader) == (uid, READER)
    before, after = (voxels_of_first_segment(scene.fetch(each)) for each in (ours, uid))
    assert 0 < after < before
    assert list(review.comparison["dice"].values()) == [pytest.approx(2 * after / (before + after)), 1.0]
    scene.arrives(scene.fetch(uid))
    scene.work()
    assert len(scene.reviews) == 1


def test_a_segmentation_of_something_else_is_not_taken_for_an_edited_one(scene: Scene) -> None:
    other = edited(scene, keeps_tracking=False)
    for segment in other.SegmentSequence:
        segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "10200004"
        segment.SegmentLabel = "liver"
    scene.arrives(other)
    scene.work()
    assert scene.reviews == []


def signed(scene: Scene) -> Dataset:
    """What a workstation makes of our report: the same, verified by somebody."""
    scene.say(Verdict.ACCEPTED)
    scene.work()
    report = scene.fetch(str(scene.reviews[0].sop_instance_uid))
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = UID(generate_uid())
    report.SeriesInstanceUID = UID(generate_uid())
    return report


def test_a_verified_report_that_comes_back_counts_as_accepted_or_edited_by_what_it_says(scene: Scene) -> None:
    report = signed(scene)
    uid = scene.arrives(report)
    scene.work()
    assert [(each.verdict, each.object_uid) for each in scene.reviews] == [
        (Verdict.ACCEPTED, uid),
        (Verdict.ACCEPTED, None),
    ]
    assert scene.reviews[0].reader == READER
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = UID(generate_uid())
    volumes = (item for item in _all(report) if item.get("ValueType") == "NUM")
    item = next(each for each in volumes if each.ConceptNameCodeSequence[0].CodeValue == codes.VOLUME.value)
    before = float(item.MeasuredValueSequence[0].NumericValue)
    item.MeasuredValueSequence[0].NumericValue = "12.5"
    scene.arrives(report)
    scene.work()
    latest = scene.reviews[0]
    assert latest.verdict is Verdict.EDITED
    (change,) = latest.comparison["changes"]
    assert (change["ours"], change["theirs"]) == (before, 12.5)


def test_results_that_a_restored_ledger_does_not_know_are_not_taken_for_what_a_person_said(scene: Scene) -> None:
    late = replace(scene.job, job_id="f" * 32, model="another that looks for the same")
    of_late = replace(identity(late.job_id), created_at=NOW)
    source = build_volume(scene.images)
    stored = encode_findings(findings_in(source, 1, 2), source=source.as_source, identity=of_late)
    arrived: dict[str, Any] = {"archive_identity": "orthanc", "last_change": 9, "at": scene.now}
    scene.ledger.note_arrivals({scene.orthanc_id: 9}, **arrived)
    for each in stored:
        scene.arrives(each.dataset)
    scene.work()
    assert scene.ledger.reviews() == [], "whose they are is known when the study is complete"
    (study,) = scene.ledger.arriving()
    scene.ledger.settle(study, [scene.job, late], present_uids=scene.present, at=scene.now)
    scene.work()
    assert scene.ledger.reviews() == []
    assert scene.ledger.claim_returned(clerk="c", at=scene.now + 60 * MINUTE, lease=MINUTE) is None, (
        "they were looked at"
    )


def test_a_rejection_by_others_is_recognised_and_ours_is_not_counted_twice(scene: Scene) -> None:
    scene.say(Verdict.REJECTED)
    scene.work()
    ours = scene.fetch(str(scene.reviews[0].sop_instance_uid))
    scene.arrives(ours)
    for each in scene.objects:
        scene.arrives(each.dataset)
    assert scene.ledger.claim_returned(clerk="c", at=scene.now, lease=MINUTE) is None
    ours.SOPInstanceUID = ours.file_meta.MediaStorageSOPInstanceUID = UID(generate_uid())
    scene.arrives(ours)
    scene.work()
    latest = scene.reviews[0]
    assert (len(scene.reviews), latest.verdict, latest.reason) == (2, Verdict.REJECTED, REASON)
    assert scene.ledger.deliveries(job_id=scene.job.job_id)[-1].state is DeliveryState.CANCELLED


def test_what_others_typed_into_their_objects_is_not_kept(scene: Scene) -> None:
    scene.say(Verdict.REJECTED)
    scene.work()
    theirs = scene.fetch(str(scene.reviews[0].sop_instance_uid))
    theirs.SOPInstanceUID = theirs.file_meta.MediaStorageSOPInstanceUID = UID(generate_uid())
    code = theirs.ContentSequence[0].ConceptCodeSequence[0]
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "Mrs. Doe", "99X", "Doe moved"
    scene.arrives(theirs)
    scene.work()
    assert scene.reviews[0].reason == ("", "", "another reason")
    assert "Doe" not in json.dumps([event.as_json() for event in scene.ledger.audit()])


def _all(dataset: Dataset) -> Iterator[Dataset]:
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from _all(item)

"""What a PACS or viewer sends back is recognised, and matched to the job."""

import copy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import highdicom as hd
import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.sr.coding import Code
from pydicom.uid import UID

from coread import codes
from coread.cli import coread
from coread.dicom_sr.encode import encode_findings
from coread.dicom_sr.feedback import FeedbackKind, Known, changes, outlines_changed, recognise, tracked
from coread.job import Job, JobState
from coread.ledger import ArrivingStudy, Ledger
from coread.objects import ObjectKind
from coread.workers.volume import build_volume
from tests.integration.test_result_objects import findings_in
from tests.support import NOW, a_job, identity, images_of, volume_in_plane

JOB = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def results() -> dict[ObjectKind, Dataset]:
    source = build_volume(images_of(volume_in_plane("oblique")))
    objects = encode_findings(findings_in(source, 1, 2), source=source.as_source, identity=identity(JOB))
    return {each.kind: each.dataset for each in objects}


@pytest.fixture(scope="module")
def known(results: dict[ObjectKind, Dataset]) -> Known:
    return Known(
        by_instance={str(each.SOPInstanceUID): JOB for each in results.values()},
        by_tracking=dict.fromkeys(tracked(results[ObjectKind.SR]), JOB),
    )


def person() -> hd.sr.ObserverContext:
    return hd.sr.ObserverContext(
        observer_type=hd.sr.CodedConcept.from_code(dictionary.DCM.Person),
        observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(name="Reader^Rita"),
    )


def rejection(objects: list[Dataset], title: Code, reason: Code | None = None) -> Dataset:
    content = hd.ko.KeyObjectSelection(
        document_title=title, referenced_objects=objects, observer_person_context=person()
    )
    if reason:
        modifier = hd.sr.CodeContentItem(
            name=Code("113011", "DCM", "Document Title Modifier"), value=reason, relationship_type="HAS CONCEPT MOD"
        )
        content[0].ContentSequence.append(modifier)
    return hd.ko.KeyObjectSelectionDocument(
        evidence=objects,
        content=content,
        series_instance_uid="1.2.3",
        series_number=1,
        sop_instance_uid="1.2.3.4",
        instance_number=1,
    )


def successor(report: Dataset) -> Dataset:
    """What a workstation makes of a report that somebody signs."""
    signed = copy.deepcopy(report)
    signed.SOPInstanceUID = signed.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.5")
    signed.VerificationFlag = "VERIFIED"
    reference, series, study = Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = report.SOPClassUID, report.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = report.SeriesInstanceUID, [reference]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = report.StudyInstanceUID, [series]
    signed.PredecessorDocumentsSequence = [study]
    return signed


@pytest.mark.parametrize("title", [codes.REJECTED_FOR_QUALITY, codes.REJECTED_FOR_PATIENT_SAFETY])
def test_a_rejection_is_recognised_with_its_reason(
    results: dict[ObjectKind, Dataset], known: Known, title: Code
) -> None:
    segmentation = results[ObjectKind.SEG]
    reason = Code("111207", "DCM", "Image artifact(s)")
    (with_reason,) = recognise(rejection([segmentation], title, reason), known)
    assert (with_reason.kind, with_reason.job_id, with_reason.reason) == (FeedbackKind.REJECTED, JOB, reason)
    assert with_reason.results == {segmentation.SOPInstanceUID}
    (without,) = recognise(rejection([segmentation], title), known)
    assert without.reason == title


def test_key_objects_that_reject_nothing_are_no_feedback(results: dict[ObjectKind, Dataset], known: Known) -> None:
    assert recognise(rejection([results[ObjectKind.SEG]], codes.OF_INTEREST), known) == []
    other = rejection([results[ObjectKind.SEG]], codes.REJECTED_FOR_QUALITY)
    assert recognise(other, replace(known, by_instance={})) == []


def test_a_verified_successor_is_recognised_by_its_predecessor(
    results: dict[ObjectKind, Dataset], known: Known
) -> None:
    report = results[ObjectKind.SR]
    (said,) = recognise(successor(report), known)
    assert (said.kind, said.job_id) == (FeedbackKind.VERIFIED, JOB)
    assert said.results == {report.SOPInstanceUID}
    assert said.tracking_uids == tracked(report)


def test_a_verified_report_without_predecessor_is_recognised_by_its_tracking_uids(
    results: dict[ObjectKind, Dataset], known: Known
) -> None:
    signed = successor(results[ObjectKind.SR])
    del signed.PredecessorDocumentsSequence
    (said,) = recognise(signed, known)
    assert (said.kind, said.job_id, said.results) == (FeedbackKind.VERIFIED, JOB, frozenset())
    signed.VerificationFlag = "UNVERIFIED"
    assert recognise(signed, known) == []


def test_an_edited_segmentation_is_recognised_and_our_own_is_not(
    results: dict[ObjectKind, Dataset], known: Known
) -> None:
    edited = copy.deepcopy(results[ObjectKind.SEG])
    edited.SOPInstanceUID = "1.2.3.6"
    del edited.SegmentSequence[1]
    (said,) = recognise(edited, known)
    assert (said.kind, said.job_id) == (FeedbackKind.EDITED, JOB)
    assert said.tracking_uids == {edited.SegmentSequence[0].TrackingUID}
    for ours in results.values():
        assert recognise(ours, known) == []


def test_what_a_person_has_corrected_is_said(results: dict[ObjectKind, Dataset]) -> None:
    report = results[ObjectKind.SR]
    corrected = successor(report)
    assert changes(report, corrected) == []
    (value,) = (
        item.MeasuredValueSequence[0]
        for item in corrected.ContentSequence[-1].ContentSequence[0].ContentSequence
        if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeValue == codes.VOLUME.value
    )
    before = float(value.NumericValue)
    value.NumericValue = "12.5"
    del corrected.ContentSequence[-1].ContentSequence[1]
    altered, left_out = sorted(changes(report, corrected), key=lambda change: change.theirs is None)
    assert (altered.concept, altered.ours, altered.theirs) == (codes.VOLUME, before, 12.5)
    assert (left_out.concept, left_out.theirs) == (codes.VOLUME, None)
    assert altered.tracking_uid != left_out.tracking_uid


def test_a_number_in_another_unit_is_another_measurement(results: dict[ObjectKind, Dataset]) -> None:
    report = results[ObjectKind.SR]
    corrected = successor(report)
    (value,) = (
        item.MeasuredValueSequence[0]
        for item in corrected.ContentSequence[-1].ContentSequence[0].ContentSequence
        if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeValue == codes.VOLUME.value
    )
    value.MeasurementUnitsCodeSequence[0].CodeValue = "l"
    before, after = changes(report, corrected)
    assert {before.concept, after.concept} == {codes.VOLUME}


def test_an_outline_that_was_moved_or_left_out_is_a_change(results: dict[ObjectKind, Dataset]) -> None:
    report = results[ObjectKind.SR_KEY_FINDINGS]
    corrected = successor(report)
    assert outlines_changed(report, corrected) == []
    first, second = corrected.ContentSequence[-1].ContentSequence[:2]
    (outline,) = (item for item in first.ContentSequence if "GraphicData" in item)
    outline.GraphicData = [each + 3.0 for each in outline.GraphicData]
    assert outlines_changed(report, corrected) == list(tracked(first))
    del corrected.ContentSequence[-1].ContentSequence[1]
    assert outlines_changed(report, corrected) == sorted({*tracked(first), *tracked(second)})


def test_the_command_matches_it_to_the_job_in_the_ledger(results: dict[ObjectKind, Dataset], tmp_path: Path) -> None:
    report = results[ObjectKind.SR]
    (tmp_path / "coread.toml").write_text('data_folder = "data"\n')
    (tmp_path / "data").mkdir()
    ledger = Ledger(f"sqlite:///{tmp_path / 'data' / 'ledger.sqlite'}")
    ledger.migrate()
    study = str(report.StudyInstanceUID)
    job = a_job(JOB, study_instance_uid=study, orthanc_id="o", model="test_model", model_version="1.2.3")
    done(ledger, job, sorted(str(each.SOPInstanceUID) for each in results.values()))
    successor(report).save_as(tmp_path / "signed.dcm", enforce_file_format=True)
    report.save_as(tmp_path / "ours.dcm", enforce_file_format=True)
    arguments = ["--config", str(tmp_path / "coread.toml"), "feedback"]
    said = CliRunner().invoke(coread, [*arguments, str(tmp_path / "signed.dcm"), str(tmp_path / "ours.dcm")])
    assert said.exit_code == 0, said.output
    assert f"verified job {JOB}" in said.output
    assert "ours.dcm: says nothing of our results" in said.output


def done(ledger: Ledger, job: Job, uids: list[str]) -> None:
    """Let the ledger know a job that is done."""
    ledger.settle(ArrivingStudy(orthanc_id="o", last_change=1, last_arrival_at=NOW), [job], present_uids=(), at=NOW)
    ledger.queue_due(at=NOW)
    ledger.claim(worker="w", at=NOW, lease=timedelta(minutes=1))
    assert ledger.start_storing(job.job_id, worker="w", result={"sop_instance_uids": uids}, at=NOW)
    assert ledger.finish(job.job_id, JobState.DONE, worker="w", at=NOW)

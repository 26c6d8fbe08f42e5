"""An ECG, from the file to the report in the study: read by a bundle whose answer is known, and read back by others."""

import copy
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
import yaml
from pydicom.dataset import Dataset

from coread.alerts import holds
from coread.dicom_sr.encode import ResultObject
from coread.dicom_sr.validation.run import validate_files
from coread.errors import ConfigurationError, InputError, NoSuitableSeries, WaveformError
from coread.leads import TWELVE_LEADS
from coread.models.bundle.reader import BundleReader
from coread.models.draft import draft_manifest
from coread.models.manifest import load_manifest
from coread.models.runner import BundleRunner
from coread.objects import ObjectKind
from coread.settings_alerts import AlertSettings
from coread.waveform import Waveform
from coread.workers.folder import analyze_studies
from coread.workers.pipeline import Reading, explain_refusal, read_study
from coread.workers.rehearsal import rehearse
from coread.workers.study import studies_in_folder
from coread.workers.verify_model import verify_model
from coread.workers.waveform import SourceWaveform
from tests import ecg
from tests.integration.test_result_objects import complaints
from tests.support import NOW, installed, output_of, settings_with, texts

OLD_NAME = "Retired Person Name form"
"""Of a patient in the public data, whose name is not ours to change."""
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> BundleRunner:
    folder = tmp_path_factory.mktemp("models")
    ecg.write_bundle(folder / "bundle")
    return BundleRunner(installed(folder, "test_ecg"), device=CPU)


def read(runner: BundleRunner, *instances: Dataset) -> Reading:
    return read_study(ecg.study(list(instances)), runner, job_id="job", created_at=NOW)


def written(results: tuple[ResultObject, ...], folder: Path) -> Path:
    """The only object, as a file that every validator has looked at."""
    (result,) = results
    path = folder / f"{result.kind}.dcm"
    path.write_bytes(result.file())
    status, said = output_of("dciodvfy", "-new", path)
    assert (status, [line for line in complaints(said) if OLD_NAME not in line]) == (0, [])
    assert output_of("dsrdump", path)[0] == 0
    return path


def waveform_item(report: Dataset) -> Dataset:
    (measurements,) = (each for each in report.ContentSequence if each.ValueType == "CONTAINER")
    (group,) = measurements.ContentSequence
    items: list[Dataset] = [each for each in group.ContentSequence if each.ValueType == "WAVEFORM"]
    (item,) = items
    return item


def test_the_answer_is_the_bundles_and_stands_in_a_report_that_names_the_ecg(
    runner: BundleRunner, tmp_path: Path
) -> None:
    source = ecg.ecg()
    source.save_as(tmp_path / "ecg.dcm", enforce_file_format=True)
    reading = read(runner, pydicom.dcmread(tmp_path / "ecg.dcm"))
    expected = ecg.expected_probability(ecg.waveform())
    (answer,) = reading.findings.classifications
    assert (answer.name, answer.value.value) == ("Abnormal ECG", "52101004")
    assert answer.probability == pytest.approx(expected, abs=1e-3)
    path = written(reading.objects, tmp_path)
    report = pydicom.dcmread(path)
    assert report.StudyInstanceUID == source.StudyInstanceUID
    reference = waveform_item(report).ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == source.SOPClassUID
    assert "ReferencedWaveformChannels" not in reference, "all channels were read"
    _, said = output_of("dsrdump", path)
    assert "12-Lead ECG" in said
    assert 'WAVEFORM:(,,"Source of Measurement")' in said or "Source of Measurement" in said
    assert "Image Library" not in said
    _, said = output_of("dcentvfy", tmp_path / "ecg.dcm", path)
    assert complaints(said) == []
    (judgement,) = validate_files([path], source=tmp_path)
    assert judgement.problems == []
    assert reading.summary["classes"][0]["probability"] == answer.probability
    assert reading.summary["adapted"] == ["sampling_rate: 500 Hz brought to 100 Hz"]


def test_the_order_in_which_leads_are_stored_does_not_matter(runner: BundleRunner) -> None:
    shuffled = [*TWELVE_LEADS[::2], *TWELVE_LEADS[1::2]]
    one, other = (read(runner, ecg.ecg(each)) for each in (ecg.waveform(), ecg.waveform().of(shuffled)))
    assert one.findings.classifications == other.findings.classifications


def test_a_bundle_in_a_process_of_its_own_gives_the_same(runner: BundleRunner, tmp_path: Path) -> None:
    ecg.write_bundle(tmp_path / "bundle", scripts=True)
    isolated = BundleRunner(installed(tmp_path, "test_ecg"), device=CPU)
    try:
        assert type(isolated._reader).__name__ == "IsolatedReader"
        found = read(isolated, ecg.ecg()).findings.classifications
    finally:
        isolated.close()
    assert found == read(runner, ecg.ecg()).findings.classifications


def test_a_recording_that_cannot_be_read_gets_a_report_that_says_why(runner: BundleRunner, tmp_path: Path) -> None:
    short = ecg.study([ecg.ecg(ecg.waveform(duration_s=8))])
    with pytest.raises(WaveformError, match=r"expected a recording of 10 s, found 8 s") as refused:
        read_study(short, runner, job_id="job", created_at=NOW)
    refusal = explain_refusal(short, runner, refused.value, job_id="job", created_at=NOW)
    report = pydicom.dcmread(written(refusal.objects, tmp_path))
    assert str(refused.value) in texts(report)
    assert waveform_item(report).ReferencedSOPSequence[0].ReferencedSOPInstanceUID in short.sop_instance_uids
    (judgement,) = validate_files([tmp_path / "SR-NOT-EVALUATED.dcm"], source=None)
    assert judgement.problems == []


def test_a_study_without_an_ecg_gets_no_report(runner: BundleRunner) -> None:
    audio = ecg.study([ecg.ecg(SOPClassUID="1.2.840.10008.5.1.4.1.1.9.4.1")])
    with pytest.raises(NoSuitableSeries, match="it holds no 12-lead or general ECG") as refused:
        read_study(audio, runner, job_id="job", created_at=NOW)
    assert explain_refusal(audio, runner, refused.value, job_id="job", created_at=NOW).objects == ()


def test_what_was_not_read_is_said_in_the_report(tmp_path: Path) -> None:
    longer = copy.deepcopy(ecg.MANIFEST)
    longer["series"]["waveform"]["longer"] = "centre"
    ecg.write_bundle(tmp_path / "bundle", manifest=longer)
    reading = read(BundleRunner(installed(tmp_path, "test_ecg"), device=CPU), ecg.ecg(ecg.waveform(duration_s=12.5)))
    report = pydicom.dcmread(written(reading.objects, tmp_path))
    assert "Read: 10 s from 1.25 s on, of a recording of 12.5 s; not the rest." in texts(report)


def test_a_model_of_an_ecg_can_be_rehearsed_and_verified(runner: BundleRunner, tmp_path: Path) -> None:
    assert [each.kind for each in rehearse(runner).reading.objects] == [ObjectKind.SR_CLASSIFICATION]
    ecg.write_bundle(tmp_path / "bundle")
    checks = verify_model("test_ecg", settings_with(tmp_path))
    assert [check for check in checks if check.verdict == "failed"] == []


def test_a_bundle_of_another_number_of_channels_than_leads_is_refused(tmp_path: Path) -> None:
    series = ecg.MANIFEST["series"]
    fewer = {**series, "waveform": {**series["waveform"], "leads": ["I", "II"]}}
    folder = ecg.write_bundle(tmp_path / "bundle", manifest={**ecg.MANIFEST, "series": fewer})
    with pytest.raises(ConfigurationError, match=r"a lead in coread.yaml for each of the 12 channels .*, found 2"):
        BundleReader(folder, load_manifest(folder), device=CPU)


def test_a_bundle_that_opens_files_by_means_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = ecg.write_bundle(tmp_path / "bundle")
    (path,) = (folder / "configs").glob("inference.json")
    content = json.loads(path.read_text())
    content["preprocessing"]["transforms"][0] = {"_target_": "Identityd", "keys": "image"}
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match="expected the bundle to load the waveform by LoadImaged"):
        BundleReader(folder, load_manifest(folder), device=CPU)


def test_a_draft_asks_for_what_metadata_cannot_say_of_an_ecg(tmp_path: Path) -> None:
    text = draft_manifest(ecg.write_bundle(tmp_path / "bundle"))
    series = yaml.safe_load(text)["series"]
    assert series["must"] == {"Modality": ["ECG"]}
    assert series["waveform"] == {"leads": list(TWELVE_LEADS), "sampling_rate_hz": "TODO", "duration_s": "TODO"}
    assert "orientation" not in yaml.safe_load(text)
    assert "its input has 1000 samples" in text


def test_a_folder_gives_a_report_and_a_picture(runner: BundleRunner, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    ecg.ecg().save_as(tmp_path / "in/ecg.dcm", enforce_file_format=True)
    (outcome,) = analyze_studies(
        studies_in_folder(tmp_path / "in"), ["test_ecg"], warm=lambda _: runner, output=tmp_path / "out"
    )
    assert outcome.error is None
    assert {path.name for path in outcome.files} == {"SR-CLASS.dcm", "summary.json", "ecg.png"}
    (summary,) = (json.loads(path.read_text()) for path in outcome.files if path.name == "summary.json")
    (found,) = summary["classes"]
    when = {"class": found["value"][2], "at_least": found["probability"] - 0.01}
    said = {"name": "a", "model": "test_ecg", "priority": "stat", "when": when}
    assert holds(AlertSettings.model_validate(said), summary), "an alert reads what is written here"


# Real recordings


def test_a_real_ecg_is_read_by_its_rhythm_and_not_by_its_median_beat(
    runner: BundleRunner, real_data: Path, tmp_path: Path
) -> None:
    instance = pydicom.dcmread(real_data / "zoo/ecg/waveform_ecg.dcm")
    reading = read(runner, instance)
    assert isinstance(reading.source, SourceWaveform)
    rhythm = instance.waveform_array(0).T / 1000  # pydicom: µV
    assert reading.source.recorded.leads == TWELVE_LEADS
    assert np.allclose(reading.source.recorded.samples, rhythm, atol=1e-5)
    report = pydicom.dcmread(written(reading.objects, tmp_path))
    channels = waveform_item(report).ReferencedSOPSequence[0].ReferencedWaveformChannels
    assert list(channels) == [number for channel in range(1, 13) for number in (1, channel)]
    (judgement,) = validate_files([tmp_path / "SR-CLASS.dcm"], source=None)
    assert [problem for problem in judgement.problems if OLD_NAME not in problem.found] == []


def test_a_record_of_ptb_xl_goes_through_a_dicom_file(runner: BundleRunner, real_data: Path, tmp_path: Path) -> None:
    record = ptb_xl(real_data / "ecg_ptbxl/records100/00000/00001_lr.dat")
    ecg.ecg(record.at(500)).save_as(tmp_path / "ecg.dcm", enforce_file_format=True)
    status, said = output_of("dciodvfy", "-new", tmp_path / "ecg.dcm")
    assert (status, complaints(said)) == (0, [])
    reading = read(runner, pydicom.dcmread(tmp_path / "ecg.dcm"))
    assert isinstance(reading.source, SourceWaveform)
    assert np.sqrt(np.mean((reading.source.waveform.samples - record.samples) ** 2)) < 0.005
    written(reading.objects, tmp_path)


def ptb_xl(path: Path) -> Waveform:
    """A record at 100 Hz: 16-bit samples of 1 µV, the leads in the order of printing."""
    samples = np.fromfile(path, "<i2").reshape(-1, 12).T / 1000
    return Waveform(samples=samples.astype(np.float32), leads=TWELVE_LEADS, sampling_rate_hz=100.0)


def test_no_error_quotes_the_patient(runner: BundleRunner) -> None:
    with pytest.raises(InputError) as refused:
        read(runner, ecg.ecg(PatientName="SECRET^NAME", WaveformSequence=[]))
    assert "SECRET" not in str(refused.value)

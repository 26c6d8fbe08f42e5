"""From DICOM ECGs to the leads that a model reads: every way in which they are written, and every refusal."""

import copy
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.uid import ExplicitVRBigEndian, GeneralECGWaveformStorage

from coread.errors import InputError, NoSuitableSeries, NotDicom, WaveformError
from coread.leads import CHANNEL_SOURCES, LEAD_OF_CODE, TWELVE_LEADS
from coread.models.manifest import Manifest, WaveformRequirement
from coread.models.prediction import Prediction
from coread.waveform import Waveform
from coread.workers.ecg_picture import answer_of, ecg_picture
from coread.workers.measure import answers_of
from coread.workers.series import fitting_series
from coread.workers.study import Study
from coread.workers.waveform import LIMB_LEADS, SourceWaveform, build_waveform
from coread.workers.waveform_choice import WaveformChoice, choose_waveform
from tests import ecg
from tests.support import images_of, volume_in_plane

RATE_HZ = 500
HALF_STEP_MV = 0.0005 + 1e-6
"""Rounding to steps of 1 µV."""


def wanted(**more: Any) -> WaveformRequirement:
    asked = {"leads": TWELVE_LEADS, "sampling_rate_hz": RATE_HZ, "duration_s": 10, **more}
    return WaveformRequirement.model_validate(asked)


def built(instance: Dataset, **more: Any) -> SourceWaveform:
    return build_waveform(instance, wanted(**more))


def group_of(instance: Dataset) -> Dataset:
    group: Dataset = instance.WaveformSequence[0]
    return group


def changed(change: Callable[[Dataset, list[Dataset]], object], recording: Waveform | None = None) -> Dataset:
    """An ECG whose multiplex group and channels were changed."""
    instance = ecg.ecg(recording)
    group = group_of(instance)
    change(group, list(group.ChannelDefinitionSequence))
    return instance


def steps_of(group: Dataset, dtype: str = "<i2") -> NDArray[Any]:
    """(sample, channel)."""
    return np.frombuffer(group.WaveformData, dtype).reshape(-1, group.NumberOfWaveformChannels)


# How leads are written


def test_an_ecg_is_read_as_it_was_written() -> None:
    found = built(ecg.ecg())
    assert np.abs(found.waveform.samples - ecg.waveform().samples).max() <= HALF_STEP_MV
    assert (found.waveform.leads, found.waveform.sampling_rate_hz) == (TWELVE_LEADS, RATE_HZ)
    assert (found.adapted, found.remarks, found.channels) == ((), (), None)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(TWELVE_LEADS), absent=st.sets(st.sampled_from(sorted(LIMB_LEADS))))
def test_neither_the_order_of_leads_nor_absent_limb_leads_change_what_is_read(
    order: list[str], absent: set[str]
) -> None:
    found = built(ecg.ecg(ecg.waveform().of([lead for lead in order if lead not in absent])))
    assert np.abs(found.waveform.samples - ecg.waveform().samples).max() <= 2 * HALF_STEP_MV
    assert bool(found.adapted) == bool(absent)
    assert all(lead in found.adapted[0] for lead in absent)


def test_the_model_gets_its_leads_in_its_order() -> None:
    found = built(ecg.ecg(), leads=["V6", "aVR", "II"])
    assert found.waveform.leads == ("V6", "aVR", "II")
    assert np.abs(found.waveform.lead("V6") - ecg.waveform().lead("V6")).max() <= HALF_STEP_MV
    assert found.channels == ((1, 2), (1, 4), (1, 12))


def test_a_report_names_the_leads_from_which_another_was_computed() -> None:
    without = ecg.ecg(ecg.waveform().of([lead for lead in TWELVE_LEADS if lead != "III"]))
    found = built(without, leads=["III"])
    assert found.channels == ((1, 1), (1, 2))
    assert found.adapted == ("limb_leads: III computed from I and II",)


def test_leads_have_the_numbers_of_both_vocabularies() -> None:
    assert set(CHANNEL_SOURCES) == set(TWELVE_LEADS)
    assert LEAD_OF_CODE["MDC", "2:61"] == LEAD_OF_CODE["SCPECG", "5.6.3-9-61"] == "III"
    assert LEAD_OF_CODE["SCPECG", "5.6.3-9-3"] == "V1"
    assert len(LEAD_OF_CODE) == 24


def test_leads_are_known_by_scpecg_codes_too() -> None:
    def rename(_group: Dataset, channels: list[Dataset]) -> None:
        for channel in channels:
            code = channel.ChannelSourceSequence[0]
            code.CodingSchemeDesignator, code.CodeValue = "SCPECG", code.CodeValue.replace("2:", "5.6.3-9-")

    assert np.array_equal(built(changed(rename)).waveform.samples, built(ecg.ecg()).waveform.samples)


@pytest.mark.parametrize(("unit", "millivolts"), [("uV", 1e-3), ("mV", 1.0), ("V", 1e3)])
def test_sensitivity_correction_baseline_and_unit_give_millivolts(unit: str, millivolts: float) -> None:
    def rescale(_group: Dataset, channels: list[Dataset]) -> None:
        for channel in channels:
            channel.ChannelSensitivity = f"{0.002 / 1.25 / millivolts:.10g}"
            channel.ChannelSensitivityCorrectionFactor = "1.25"
            channel.ChannelBaseline = f"{0.5 / millivolts:.10g}"
            channel.ChannelSensitivityUnitsSequence[0].CodeValue = unit

    found = built(changed(rescale), leads=["V2"])
    assert np.allclose(found.waveform.samples[0], 2 * ecg.waveform().lead("V2") + 0.5, atol=2 * HALF_STEP_MV)


@pytest.mark.parametrize(
    ("interpretation", "dtype", "step_uv", "zero"),
    [
        ("SB", "<i1", 25, 0),
        ("UB", "<u1", 25, 128),
        ("SS", "<i2", 1, 0),
        ("US", "<u2", 1, 32768),
        ("SL", "<i4", 1, 0),
        ("UL", "<u4", 1, 100_000),
    ],
)
def test_samples_of_every_size_and_sign_are_read(interpretation: str, dtype: str, step_uv: int, zero: int) -> None:
    def encode(group: Dataset, channels: list[Dataset]) -> None:
        steps = np.rint(steps_of(group) / step_uv) + zero
        group.WaveformBitsAllocated = 8 * np.dtype(dtype).itemsize
        group.WaveformSampleInterpretation = interpretation
        group.WaveformData = steps.astype(dtype).tobytes()
        for channel in channels:
            channel.ChannelSensitivity, channel.ChannelBaseline = str(step_uv), str(-zero * step_uv)

    found = built(changed(encode))
    assert np.abs(found.waveform.samples - ecg.waveform().samples).max() <= step_uv * HALF_STEP_MV + HALF_STEP_MV


def test_big_endian_files_are_read() -> None:
    instance = ecg.ecg()
    group_of(instance).WaveformData = steps_of(group_of(instance)).astype(">i2").tobytes()
    instance.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = DicomBytesIO()
    pydicom.dcmwrite(buffer, instance, enforce_file_format=True)
    buffer.seek(0)
    assert np.array_equal(built(pydicom.dcmread(buffer)).waveform.samples, built(ecg.ecg()).waveform.samples)


def test_a_median_beat_is_not_the_recording() -> None:
    instance = ecg.ecg()
    median = copy.deepcopy(group_of(ecg.ecg(ecg.waveform(duration_s=1))))
    median.WaveformOriginality = "DERIVED"
    instance.WaveformSequence = [median, group_of(instance)]
    found = built(instance)
    assert np.abs(found.waveform.samples - ecg.waveform().samples).max() <= HALF_STEP_MV
    assert found.channels == tuple((2, channel) for channel in range(1, 13))


def test_leads_that_were_sampled_one_after_the_other_are_aligned() -> None:
    """A sine, of which each lead has taken its samples a little later."""
    leads = ("I", "II", *TWELVE_LEADS[6:])
    skews_s = np.arange(len(leads)) * 0.4 / RATE_HZ
    times = np.arange(10 * RATE_HZ) / RATE_HZ

    def sine(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.sin(2 * np.pi * 7.3 * at))

    def skew(_group: Dataset, channels: list[Dataset]) -> None:
        for channel, skew_s in zip(channels, skews_s, strict=True):
            channel.ChannelSampleSkew = f"{skew_s * RATE_HZ:g}"

    late = np.stack([sine(times + skew_s) for skew_s in skews_s]).astype(np.float32)
    instance = changed(skew, Waveform(samples=late, leads=leads, sampling_rate_hz=RATE_HZ))
    found = built(instance, leads=["V1", "V6"], duration_s=9, longer="start")
    expected = sine(skews_s.max() + np.arange(9 * RATE_HZ) / RATE_HZ)
    assert np.abs(late[2, : len(expected)] - expected).max() > 0.05, "as stored, they are not"
    assert np.abs(found.waveform.samples[:, 20:] - expected[20:]).max() < 0.002


@pytest.mark.parametrize("rate_hz", [250, 257, 500, 1000])
@pytest.mark.parametrize("beat_hz", [1.2, 9.0, 25.0])
def test_a_sine_is_the_same_sine_at_the_models_rate(rate_hz: float, beat_hz: float) -> None:
    times = np.arange(int(10 * rate_hz)) / rate_hz
    found = built(
        ecg.ecg(_of_one_shape(1 + np.sin(2 * np.pi * beat_hz * times), rate_hz)), leads=["V3"], sampling_rate_hz=100
    )
    assert found.waveform.samples.shape == (1, 1000)
    expected = 1 + np.sin(2 * np.pi * beat_hz * np.arange(1000) / 100)
    inner = slice(15, -15)
    assert np.abs(found.waveform.lead("V3")[inner] - expected[inner]).max() < 0.01
    assert found.adapted == (f"sampling_rate: {rate_hz:g} Hz brought to 100 Hz",)


def test_what_the_models_rate_cannot_hold_does_not_come_back_as_something_else() -> None:
    times = np.arange(5000) / RATE_HZ
    slow, fast = np.sin(2 * np.pi * 3 * times), np.sin(2 * np.pi * 120 * times)
    found = built(ecg.ecg(_of_one_shape(slow + fast, RATE_HZ)), leads=["V3"], sampling_rate_hz=100)
    inner = slice(15, -15)
    expected = np.sin(2 * np.pi * 3 * np.arange(1000) / 100)
    assert np.abs(found.waveform.lead("V3")[inner] - expected[inner]).max() < 0.01


def _of_one_shape(shape: NDArray[np.float64], rate_hz: float) -> Waveform:
    leads = ("I", "II", *TWELVE_LEADS[6:])
    return Waveform(samples=np.stack([shape] * len(leads)).astype(np.float32), leads=leads, sampling_rate_hz=rate_hz)


@pytest.mark.parametrize(("longer", "first"), [("centre", 625), ("start", 0)])
def test_of_a_longer_recording_the_part_is_read_that_the_manifest_names(longer: str, first: int) -> None:
    recording = ecg.waveform(duration_s=12.5)
    found = built(ecg.ecg(recording), longer=longer)
    expected = recording.samples[:, first : first + 5000]
    assert np.abs(found.waveform.samples - expected).max() <= HALF_STEP_MV
    assert np.array_equal(found.recorded.samples, found.waveform.samples)
    (remark,) = found.remarks
    assert f"10 s from {first / RATE_HZ:.2f} s on, of a recording of 12.5 s" in remark


def test_padding_at_the_ends_is_no_signal() -> None:
    def pad(group: Dataset, _channels: list[Dataset]) -> None:
        steps = steps_of(group).copy()
        steps[:50] = steps[-75:] = -32768
        group.WaveformData = steps.tobytes()
        group.add_new("WaveformPaddingValue", "OW", np.array([-32768], "<i2").tobytes())

    recording = ecg.waveform(duration_s=10.25)
    found = built(changed(pad, recording))
    assert np.abs(found.waveform.samples - recording.samples[:, 50:5050]).max() <= HALF_STEP_MV


def test_the_header_that_results_inherit_has_neither_samples_nor_what_others_said() -> None:
    instance = ecg.ecg(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    instance.WaveformAnnotationSequence = [Dataset()]
    buffer = DicomBytesIO()
    pydicom.dcmwrite(buffer, instance, enforce_file_format=True)
    buffer.seek(0)
    header = built(pydicom.dcmread(buffer)).as_source.header
    assert str(header.PatientName) == "Müller^Jörg"
    assert "WaveformSequence" not in header
    assert "WaveformAnnotationSequence" not in header


# What is refused


def flat(group: Dataset, _channels: list[Dataset], *, seconds: float = 10, lead: int = 8) -> None:
    steps = steps_of(group).copy()
    steps[: int(seconds * RATE_HZ), lead] = 7
    group.WaveformData = steps.tobytes()


def of_unit(code: str, scheme: str = "UCUM") -> Callable[[Dataset, list[Dataset]], None]:
    def change(_group: Dataset, channels: list[Dataset]) -> None:
        unit = channels[3].ChannelSensitivityUnitsSequence[0]
        unit.CodeValue, unit.CodingSchemeDesignator = code, scheme

    return change


def in_channel(number: int, **values: Any) -> Callable[[Dataset, list[Dataset]], None]:
    def change(_group: Dataset, channels: list[Dataset]) -> None:
        for keyword, value in values.items():
            if value is None:
                del channels[number][keyword]
            else:
                setattr(channels[number], keyword, value)

    return change


def in_all(**values: Any) -> Callable[[Dataset, list[Dataset]], None]:
    def change(group: Dataset, channels: list[Dataset]) -> None:
        for number in range(len(channels)):
            in_channel(number, **values)(group, channels)

    return change


def in_group(**values: Any) -> Callable[[Dataset, list[Dataset]], None]:
    def change(group: Dataset, _channels: list[Dataset]) -> None:
        for keyword, value in values.items():
            setattr(group, keyword, value)

    return change


def missing_inside(group: Dataset, _channels: list[Dataset]) -> None:
    steps = steps_of(group).copy()
    steps[2000:2010, 4] = -32768
    group.WaveformData = steps.tobytes()
    group.add_new("WaveformPaddingValue", "OW", np.array([-32768], "<i2").tobytes())


def exchanged_arms(_group: Dataset, channels: list[Dataset]) -> None:
    first, second = (channels[number].ChannelSourceSequence[0] for number in (0, 1))
    first.CodeValue, second.CodeValue = second.CodeValue, first.CodeValue


def named(number: int, like: int) -> Callable[[Dataset, list[Dataset]], None]:
    def change(_group: Dataset, channels: list[Dataset]) -> None:
        channels[number].ChannelSourceSequence = channels[like].ChannelSourceSequence

    return change


def inverted(_group: Dataset, channels: list[Dataset]) -> None:
    channels[6].ChannelSourceModifiersSequence = [Dataset()]


REFUSED: dict[str, tuple[Callable[[Dataset, list[Dataset]], object], type[InputError], str]] = {
    "flat": (flat, WaveformError, "expected a signal in lead V3, found a flat line of 10.0 s"),
    "flat for a part": (
        lambda group, channels: flat(group, channels, seconds=3),
        WaveformError,
        "expected a signal in lead V3, found a flat line of 3.0 s",
    ),
    "unknown unit": (of_unit("mm[Hg]"), WaveformError, "expected lead aVR in uV, mV, V .UCUM., found another unit"),
    "unit of no vocabulary": (of_unit("uV", "99LOCAL"), WaveformError, "found another unit or none"),
    "no unit": (in_channel(0, ChannelSensitivityUnitsSequence=None), WaveformError, "found another unit or none"),
    "no sensitivity": (in_channel(5, ChannelSensitivity=None), WaveformError, "a ChannelSensitivity of lead aVF"),
    "sensitivity 0": (in_channel(5, ChannelSensitivity="0"), WaveformError, "a ChannelSensitivity of lead aVF"),
    "no numbers": (
        in_channel(5, ChannelSensitivity="1e300", ChannelSensitivityCorrectionFactor="1e300"),
        WaveformError,
        "expected numbers in lead aVF",
    ),
    "test data": (in_channel(7, ChannelStatus="TEST DATA"), WaveformError, "V2 with the status TEST DATA"),
    "disconnected": (in_channel(7, ChannelStatus=["OK", "DISCONNECTED"]), WaveformError, "status DISCONNECTED"),
    "a thousand times too large": (in_all(ChannelSensitivity="1000"), WaveformError, "expected leads that span"),
    "a thousand times too small": (in_all(ChannelSensitivity="0.001"), WaveformError, "expected leads that span"),
    "arms exchanged": (exchanged_arms, WaveformError, "expected lead III to be what I and II make of it"),
    "twice the same lead": (named(11, 10), WaveformError, "expected each lead once, found V5 twice"),
    "inverted": (inverted, WaveformError, "expected a 12-lead ECG"),
    "padding inside": (missing_inside, WaveformError, "found 10 missing"),
    "companded": (in_group(WaveformSampleInterpretation="MB"), WaveformError, "samples that are linear, found MB"),
    "channels not defined": (in_group(NumberOfWaveformChannels=13), WaveformError, "each of the 13 channels, found 12"),
    "cut short": (in_group(WaveformData=b"\0" * 100), NotDicom, "expected a waveform that can be decoded"),
    "rate 0": (in_group(SamplingFrequency="0"), NotDicom, "expected a waveform that can be decoded"),
    "only derived": (in_group(WaveformOriginality="DERIVED"), WaveformError, "expected a 12-lead ECG"),
    "one after the other": (in_channel(9, ChannelOffset="20"), WaveformError, "recorded at the same time"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sound_12_lead_ecg_is_refused_with_the_reason(case: str) -> None:
    change, error, reason = REFUSED[case]
    with pytest.raises(error, match=reason):
        built(changed(change))


def test_a_flat_lead_that_the_model_does_not_read_is_no_reason_to_refuse() -> None:
    assert built(changed(flat), leads=["I", "V6"]).waveform.leads == ("I", "V6")


def test_a_lead_that_would_be_computed_from_a_flat_one_is_refused() -> None:
    recording = ecg.waveform()
    samples = recording.samples.copy()
    samples[0] = 0
    without = Waveform(samples=samples, leads=TWELVE_LEADS, sampling_rate_hz=RATE_HZ).of(["I", "II", *TWELVE_LEADS[6:]])
    with pytest.raises(WaveformError, match="expected a signal in lead I, found a flat line"):
        built(ecg.ecg(without), leads=["aVF"])


def test_a_recording_that_ends_a_little_late_is_read_from_its_beginning() -> None:
    found = built(ecg.ecg(ecg.waveform(duration_s=10.05)))
    assert np.abs(found.waveform.samples - ecg.waveform(duration_s=10.05).samples[:, :5000]).max() <= HALF_STEP_MV
    assert "of a recording of 10.05 s" in found.remarks[0]


def test_a_recording_of_three_leads_is_refused() -> None:
    with pytest.raises(WaveformError, match=r"expected a 12-lead ECG .* found I, II, III in"):
        built(ecg.ecg(ecg.waveform().of(["I", "II", "III"])))


@pytest.mark.parametrize(
    ("duration_s", "asked", "reason"),
    [
        (9.9, {}, "expected a recording of 10 s, found 9.9 s"),
        (11, {}, "found 11 s in .*; the model reads no part of a longer one"),
        (10, {"sampling_rate_hz": 501}, "expected at least 501 samples a second, found 500"),
    ],
)
def test_a_recording_of_another_length_or_a_lower_rate_is_refused(
    duration_s: float, asked: dict[str, Any], reason: str
) -> None:
    with pytest.raises(WaveformError, match=reason):
        built(ecg.ecg(ecg.waveform(duration_s=duration_s)), **asked)


def test_two_recordings_of_the_same_length_in_one_object_are_refused() -> None:
    instance = ecg.ecg()
    instance.WaveformSequence = [group_of(instance), copy.deepcopy(group_of(instance))]
    with pytest.raises(WaveformError, match="expected one rhythm recording of 12 leads, found 2"):
        built(instance)


# Which ECG of a study


def manifest(**series: Any) -> Manifest:
    return Manifest.model_validate({**ecg.MANIFEST, "series": {**ecg.MANIFEST["series"], **series}})


def chosen(study: Study, **series: Any) -> WaveformChoice:
    asked = manifest(**series)
    assert asked.series[0].waveform is not None
    return choose_waveform(study, asked, asked.series[0].waveform)


def at(time: str, name: str, *, recording: Waveform | None = None, **header: Any) -> Dataset:
    own = ecg.ecg(name=name).SeriesInstanceUID if "SeriesInstanceUID" not in header else header["SeriesInstanceUID"]
    moment = {"AcquisitionDateTime": f"20260102{time}" if time else None}
    return ecg.ecg(recording, name=name, **{**moment, **header, "SeriesInstanceUID": own})


@pytest.mark.parametrize("in_one_series", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
def test_of_several_ecgs_the_latest_is_read_and_the_report_says_so(in_one_series: bool, reverse: bool) -> None:
    same: dict[str, Any] = {"SeriesInstanceUID": "1.2.3"} if in_one_series else {}
    recorded = [at("080000", "a", **same), at("093000", "b", **same), at("085900", "c", **same)][
        :: -1 if reverse else 1
    ]
    study = ecg.study(recorded) if in_one_series else ecg.study(*([each] for each in recorded))
    found = chosen(study)
    assert found.source.instance.AcquisitionDateTime == "20260102093000"
    assert "one of the 3 ECGs of the study, the latest; the others were not evaluated" in found.source.remarks[0]
    taken = found.reasons[found.series.series_instance_uid]
    assert taken == "taken as a 12-lead ECG: the latest of 3 ECGs"
    assert in_one_series or sorted(set(found.reasons.values())) == ["its ECG is not the latest", taken]


def test_a_strip_of_three_leads_is_not_taken_for_the_latest_ecg() -> None:
    strip = at("120000", "strip", recording=ecg.waveform().of(["I", "II", "V1"]))
    found = chosen(ecg.study([at("080000", "whole")], [strip]))
    assert found.source.remarks == ()
    assert "expected a 12-lead ECG" in found.reasons[str(strip.SeriesInstanceUID)]


def test_an_earlier_ecg_does_not_take_the_place_of_the_latest_that_cannot_be_read() -> None:
    latest = at("120000", "latest")
    flat(group_of(latest), [])
    with pytest.raises(WaveformError, match="a flat line"):
        chosen(ecg.study([at("080000", "earlier")], [latest]))


@pytest.mark.filterwarnings("ignore:Invalid value for VR DT")
@pytest.mark.parametrize(
    "times", [("080000", "080000"), ("080000", ""), ("080000", "090000+0100"), ("080000", "12"), ("080000", "x")]
)
def test_ecgs_of_which_it_is_not_known_which_is_the_latest_are_refused(times: tuple[str, str]) -> None:
    with pytest.raises(WaveformError, match="expected 2 ECGs with an AcquisitionDateTime"):
        chosen(ecg.study(*([at(time, f"ecg{number}")] for number, time in enumerate(times))))


def test_an_earlier_ecg_does_not_take_the_place_of_the_latest_that_cannot_be_decoded() -> None:
    latest = at("120000", "latest")
    group_of(latest).SamplingFrequency = "0"
    with pytest.raises(NotDicom, match="expected a waveform that can be decoded"):
        chosen(ecg.study([at("080000", "earlier")], [latest]))


def test_what_the_manifest_prefers_goes_before_what_is_later() -> None:
    rest = at("080000", "rest", SeriesDescription="Rest ECG")
    found = chosen(
        ecg.study([rest], [at("090000", "stress", SeriesDescription="Stress")]),
        prefer=[{"SeriesDescription": ["*rest*"]}],
    )
    assert found.source.instance.SOPInstanceUID == rest.SOPInstanceUID
    assert "the latest of those that the model prefers" in found.source.remarks[0]


def test_images_are_no_candidates_for_an_ecg_and_an_ecg_none_for_images() -> None:
    images = images_of(volume_in_plane("axial"), name="images")
    study = ecg.study([ecg.ecg()], images)
    found = chosen(study)
    assert found.reasons[str(images[0].SeriesInstanceUID)] == "it holds no 12-lead or general ECG"
    of_images = Manifest.model_validate(
        {**ecg.MANIFEST, "series": {"described_as": "anything", "must": {"Modality": ["*"]}}}
    )
    fitting, reasons = fitting_series(study, of_images)
    assert [each.series_instance_uid for each in fitting] == [str(images[0].SeriesInstanceUID)]
    assert reasons[str(ecg.ecg().SeriesInstanceUID)] == "it holds no images"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"Manufacturer": "Coread"}, "Coread wrote it"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.9.1.3"}, "it holds no 12-lead or general ECG"),
        ({"Modality": "HD"}, "Modality is not ECG, found HD"),
    ],
)
def test_an_ecg_of_another_kind_is_left_with_the_reason(header: dict[str, Any], reason: str) -> None:
    with pytest.raises(NoSuitableSeries, match=reason):
        chosen(ecg.study([ecg.ecg(**header)]))


def test_a_general_ecg_with_the_twelve_leads_is_read() -> None:
    assert chosen(ecg.study([ecg.ecg(SOPClassUID=GeneralECGWaveformStorage)])).source.waveform.leads == TWELVE_LEADS


# What a manifest may say


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"series": {**ecg.MANIFEST["series"], "plane": "axial"}}, "`waveform` is of an ECG, and plane of images"),
        ({"series": {**ecg.MANIFEST["series"], "projection": True}}, "projection of images"),
        ({"series": [ecg.MANIFEST["series"]] * 2}, "a model that reads a `waveform` has one series"),
        ({"orientation": "RAS"}, "`classes` or `numbers`"),
    ],
)
def test_a_manifest_of_an_ecg_says_nothing_of_images(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Manifest.model_validate({**ecg.MANIFEST, **change})


@pytest.mark.parametrize(
    "change", [{"leads": []}, {"leads": ["I", "I"]}, {"leads": ["V7"]}, {"unit": "uV"}, {"duration_s": 0}]
)
def test_a_manifest_names_leads_of_the_twelve_each_once(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        wanted(**change)


def test_a_manifest_survives_the_way_into_another_process() -> None:
    assert Manifest.model_validate(manifest().model_dump(mode="json")) == manifest()


# The value and its picture


@pytest.mark.parametrize(
    "change",
    [
        {"leads": ("I",)},
        {"leads": ("I", "I")},
        {"sampling_rate_hz": 0.0},
        {"samples": np.zeros((2, 4))},
        {"samples": np.zeros(4, np.float32)},
    ],
)
def test_a_waveform_is_valid_once_it_is_there(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Waveform(**{"samples": np.zeros((2, 4), np.float32), "leads": ("I", "II"), "sampling_rate_hz": 1.0, **change})


@pytest.mark.parametrize(
    ("recording", "reason"),
    [
        (ecg.waveform(rate_hz=100), "expected 200 to 1000 Hz"),
        (ecg.waveform(rate_hz=1000, duration_s=17), "up to 16384 samples"),
    ],
)
def test_what_the_class_cannot_hold_is_not_written(recording: Waveform, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ecg.ecg(recording)


def test_the_picture_has_the_paper_of_25_mm_a_second_and_shows_what_mattered() -> None:
    recording = ecg.waveform()
    plain, lit = (
        np.asarray(Image.open(BytesIO(ecg_picture(recording, title="T", answer="A", saliency=each))).convert("RGB"))
        for each in (None, np.repeat([0.0, 1.0], 500))
    )
    height, width, _ = plain.shape
    assert width == pytest.approx((15 + 250 + 5) / 25.4 * 160, abs=1)
    differs = (plain != lit).any(axis=(0, 2))
    assert np.flatnonzero(differs).min() / width == pytest.approx((15 + 125) / 270, abs=0.01)
    assert np.flatnonzero(differs).max() / width == pytest.approx((15 + 250) / 270, abs=0.01)
    assert (plain != lit).any(axis=(1, 2)).sum() / height == pytest.approx(120 / 145, abs=0.01)


@pytest.mark.parametrize(("probability", "said"), [(0.871, "87 %"), (0.9999, "over 99 %"), (0.5, "50 %")])
def test_the_picture_says_the_answer_in_the_words_of_the_report(probability: float, said: str) -> None:
    answers = answers_of(Prediction(classes={0: probability, 1: 1 - probability}, chosen=0), manifest())
    assert answer_of(answers) == f"Abnormal ECG: Absent ({said})"

"""Writes a 12-lead ECG as a DICOM object: for rehearsals and samples, and for recordings that lie in other formats."""

from datetime import datetime

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage

from coread.dicom_sr.identity import derived_uid
from coread.leads import CHANNEL_SOURCES, Lead
from coread.waveform import Waveform

MICROVOLTS = 1000.0
"""In a mV."""
STEP_UV = 1.0
"""What one step of a sample is worth."""
RATES_HZ, MOST_SAMPLES = (200, 1000), 16384
"""What the class allows (PS3.3 A.34.3.4)."""
MOMENT = datetime(2026, 1, 1, 12)  # noqa: DTZ001  # DICOM's times have the zone of the place


def ecg_of(
    waveform: Waveform,
    *,
    name: str,
    patient_id: str,
    patient_name: str,
    study_description: str = "",
    series_description: str = "",
    recorded_at: datetime = MOMENT,
) -> Dataset:
    """``waveform`` (any of the twelve leads, in any order) as a 12-lead ECG (PS3.3 A.34.3), in steps of 1 µV.

    All UIDs derive from ``name``, so that the same ECG is written again with the same UIDs. Raises ValueError at a
    rate, length or value that the class cannot hold; ``Waveform.at`` gives another rate.
    """
    low_hz, high_hz = RATES_HZ
    if not low_hz <= waveform.sampling_rate_hz <= high_hz or waveform.samples.shape[1] > MOST_SAMPLES:
        raise ValueError(
            f"expected {low_hz} to {high_hz} Hz and up to {MOST_SAMPLES} samples, found "
            f"{waveform.sampling_rate_hz:g} Hz and {waveform.samples.shape[1]}"
        )
    steps = np.rint(waveform.samples.astype(np.float64) * (MICROVOLTS / STEP_UV))
    if not (np.abs(steps) <= np.iinfo(np.int16).max).all():
        raise ValueError("expected samples of up to 32 mV, found larger ones")
    ecg = Dataset()
    ecg.file_meta = FileMetaDataset()
    ecg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ecg.SpecificCharacterSet = "ISO_IR 192"
    ecg.SOPClassUID = ecg.file_meta.MediaStorageSOPClassUID = TwelveLeadECGWaveformStorage
    ecg.SOPInstanceUID = ecg.file_meta.MediaStorageSOPInstanceUID = derived_uid(name, "instance", "ecg")
    ecg.StudyInstanceUID, ecg.SeriesInstanceUID = derived_uid(name, "study"), derived_uid(name, "series")
    ecg.PatientID, ecg.PatientName, ecg.PatientBirthDate, ecg.PatientSex = patient_id, patient_name, "", "O"
    ecg.StudyDate = ecg.SeriesDate = ecg.ContentDate = recorded_at.strftime("%Y%m%d")
    ecg.StudyTime = ecg.SeriesTime = ecg.ContentTime = recorded_at.strftime("%H%M%S")
    ecg.AcquisitionDateTime = recorded_at.strftime("%Y%m%d%H%M%S")
    ecg.StudyID, ecg.AccessionNumber, ecg.ReferringPhysicianName = "1", "", ""
    ecg.StudyDescription, ecg.SeriesDescription = study_description, series_description
    ecg.Modality, ecg.Manufacturer, ecg.ManufacturerModelName = "ECG", "Coread sample", "Coread sample"
    ecg.SeriesNumber, ecg.InstanceNumber = 1, 1
    ecg.AcquisitionContextSequence = []
    ecg.WaveformSequence = [_multiplex_group(waveform, steps.astype("<i2"))]
    return ecg


def _multiplex_group(waveform: Waveform, steps: np.ndarray[tuple[int, int], np.dtype[np.int16]]) -> Dataset:
    """PS3.3 C.10.9; ``steps``: (lead, sample)."""
    group = Dataset()
    group.WaveformOriginality = "ORIGINAL"
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = steps.shape
    group.SamplingFrequency = f"{waveform.sampling_rate_hz:g}"
    group.MultiplexGroupLabel = "RHYTHM"
    group.ChannelDefinitionSequence = [_channel(lead) for lead in waveform.leads]
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.add_new("WaveformData", "OW", steps.T.tobytes())
    return group


def _channel(lead: str) -> Dataset:
    channel, source, unit = Dataset(), Dataset(), Dataset()
    names: dict[str, Lead] = {name: name for name in CHANNEL_SOURCES}
    value, meaning = CHANNEL_SOURCES[names[lead]]
    source.CodeValue, source.CodingSchemeDesignator, source.CodeMeaning = value, "MDC", meaning
    channel.ChannelSourceSequence = [source]
    channel.ChannelSensitivity = f"{STEP_UV:g}"
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "uV", "UCUM", "microvolt"
    channel.ChannelSensitivityUnitsSequence = [unit]
    channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = "1", "0"
    channel.ChannelSampleSkew = "0"
    channel.WaveformBitsStored = 16
    return channel

"""From a DICOM ECG to the leads that a model reads, or the reason why it cannot be read.

Leads are known by their codes, never by their place. What is missing is not filled in: only the limb leads that follow
from two others by definition are computed, and the result says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian
from pydicom.waveforms import multiplex_array
from scipy.interpolate import make_interp_spline

from coread.dicom_sr.source import Plane, Source
from coread.errors import NotDicom, WaveformError
from coread.leads import LEAD_OF_CODE, TWELVE_LEADS, Lead
from coread.models.manifest import WaveformRequirement
from coread.waveform import Waveform, resampled

MILLIVOLTS: Mapping[str, float] = {"uV": 1e-3, "mV": 1.0, "V": 1e3}
"""UCUM unit → mV."""

LIMB_LEADS: Mapping[Lead, tuple[float, float]] = {
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
"""Lead → its parts of I and II: by definition, since all six come from three electrodes (Einthoven, Goldberger)."""

LARGEST_CONTRADICTION = 0.5
"""So much of the limb leads' size may one of them differ from what I and II make of it (standard deviations). Filters
and rounding leave a few hundredths; another lead under its name differs by about as much as it is large."""

LINEAR = frozenset({"SB", "UB", "SS", "US", "SL", "UL", "SV", "UV"})
"""WaveformSampleInterpretation of numbers that are proportional to what was measured (PS3.3 C.10.9.1.5); the others are
companded audio."""

UNTRUSTED = frozenset({"TEST DATA", "DISCONNECTED", "QUESTIONABLE", "INVALID", "UNCALIBRATED"})
"""Values of ChannelStatus (PS3.3 C.10.9) with which a lead says nothing of the heart, or too little."""

USUAL_MV = (0.02, 20.0)
"""Between which the typical lead's range lies in any ECG. Of 353 recordings in PTB-XL it lay between 0.48 and 3.6 mV;
outside, the unit or the sensitivity is wrong."""

LONGEST_FLAT_S = 2.0
"""A lead that does not change by one step of its converter for longer was disconnected: noise alone changes it. The
longest stretch in 353 recordings of PTB-XL is 0.3 s."""

SAME_TIME_S = 1e-4
"""Leads whose samples were taken nearer together than this are simultaneous."""

SAME_LENGTH_S = 0.1
"""A recording that lasts longer by no more than this is no longer one: devices end it at a beat or a block."""

RATE_TOLERANCE = 1e-3
"""Relative deviation of a rate from the model's that is rounding."""

NOT_INHERITED = (tag_for_keyword("WaveformSequence"), tag_for_keyword("WaveformAnnotationSequence"))

UNDECODABLE = (AttributeError, ValueError, KeyError, TypeError, IndexError, ArithmeticError, NotImplementedError)
"""What pydicom and numpy raise at a damaged waveform."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceWaveform:
    """An ECG, read for a model."""

    waveform: Waveform
    """As the model takes it: its leads, its sampling rate, its duration."""
    recorded: Waveform
    """The twelve leads over the same time, at the rate of the recording."""
    instance: Dataset
    """The header of the instance that was read."""
    channels: tuple[tuple[int, int], ...] | None
    """Multiplex group and channel, both numbered from 1, of each channel that was read; None: all that there are."""
    adapted: tuple[str, ...] = ()
    """What was done to it, a sentence each."""
    remarks: tuple[str, ...] = ()
    """What a reader of the report must know of what was read and what was not."""

    @property
    def as_source(self) -> Source:
        """What results refer to."""
        return Source(planes=[Plane(image=self.instance)], channels=self.channels, remarks=self.remarks)


@dataclass(frozen=True, kw_only=True)
class _Rhythm:
    """A multiplex group: its place in the WaveformSequence, from 0, and the channel of each lead, from 0."""

    index: int
    item: Dataset
    channels: Mapping[Lead, int]
    uid: str


def missing_leads(instance: Dataset) -> str | None:
    """Why an instance is no 12-lead ECG; None if it is one, be it sound or not."""
    try:
        groups = _groups(instance)
    except (WaveformError, *UNDECODABLE):
        return None
    return None if _with_all_leads(groups) else _no_twelve_leads(groups, str(instance.get("SOPInstanceUID")))


def build_waveform(instance: Dataset, wanted: WaveformRequirement) -> SourceWaveform:
    """The ECG of an instance as a model takes it.

    Raises WaveformError if it is not what the model reads, NotDicom if it cannot be decoded.
    """
    try:
        rhythm = _rhythm(instance)
        rate_hz = float(rhythm.item.SamplingFrequency)
        leads = _leads(instance, rhythm, rate_hz)
    except UNDECODABLE as error:
        raise NotDicom(
            f"expected a waveform that can be decoded, found that {instance.get('SOPInstanceUID')} cannot "
            f"({type(error).__name__}); send the study again"
        ) from error
    computed = [lead for lead in LIMB_LEADS if lead not in leads]
    _check_limb_leads(leads, rhythm.uid)
    leads |= {lead: _from_limbs(lead, leads) for lead in computed}
    _check_signal(leads, _leads_needed(wanted, computed), rate_hz=rate_hz, uid=rhythm.uid)
    everything = np.stack([leads[lead] for lead in TWELVE_LEADS])
    resampled = _resampled(everything, rate_hz, wanted, rhythm.uid)
    first, count = _window(resampled.shape[1], wanted, rhythm.uid)
    waveform = Waveform(
        samples=resampled[:, first : first + count].astype(np.float32),
        leads=TWELVE_LEADS,
        sampling_rate_hz=wanted.sampling_rate_hz,
    )
    start_s = first / wanted.sampling_rate_hz
    begin = round(start_s * rate_hz)
    recorded = Waveform(
        samples=everything[:, begin : begin + round(wanted.duration_s * rate_hz)].astype(np.float32),
        leads=TWELVE_LEADS,
        sampling_rate_hz=rate_hz,
    )
    remarks = _remarks(start_s, recorded.duration_s, everything.shape[1] / rate_hz)
    return SourceWaveform(
        waveform=waveform.of(wanted.leads),
        recorded=recorded,
        instance=_header(instance),
        channels=_channels_read(instance, rhythm, wanted),
        adapted=tuple(_adaptations(wanted, computed, rate_hz)) + remarks,
        remarks=remarks,
    )


def _rhythm(instance: Dataset) -> _Rhythm:
    """The multiplex group with the recording: of those that are not derived (a median beat is) and have the leads, the
    longest. Raises WaveformError if there is none, or not one.
    """
    uid = str(instance.get("SOPInstanceUID"))
    groups = _groups(instance)
    found = _with_all_leads(groups)
    if not found:
        raise WaveformError(_no_twelve_leads(groups, uid))
    by_length = sorted(found, key=lambda group: float(_seconds(group.item)), reverse=True)
    if len(by_length) > 1 and _seconds(by_length[0].item) == _seconds(by_length[1].item):
        raise WaveformError(
            f"expected one rhythm recording of 12 leads, found {len(by_length)} in {uid}; send each as an object of "
            "its own"
        )
    return by_length[0]


def _groups(instance: Dataset) -> list[_Rhythm]:
    """The multiplex groups that were recorded, not derived."""
    uid = str(instance.get("SOPInstanceUID"))
    return [
        _Rhythm(index=index, item=item, channels=_channels_of(item, uid), uid=uid)
        for index, item in enumerate(instance.get("WaveformSequence") or [])
        if item.get("WaveformOriginality") != "DERIVED"
    ]


def _with_all_leads(groups: Sequence[_Rhythm]) -> list[_Rhythm]:
    """Those from which all twelve leads follow."""
    needed = set(TWELVE_LEADS) - set(LIMB_LEADS)
    return [group for group in groups if needed <= set(group.channels)]


def _no_twelve_leads(groups: Sequence[_Rhythm], uid: str) -> str:
    nearest = max((group.channels for group in groups), key=len, default={})
    named = ", ".join(lead for lead in TWELVE_LEADS if lead in nearest) or "none of them"
    return (
        f"expected a 12-lead ECG (I, II and V1 to V6 at least, recorded together), found {named} in {uid}; "
        "send the original 12-lead recording"
    )


def _seconds(group: Dataset) -> Fraction:
    return Fraction(int(group.NumberOfWaveformSamples)) / Fraction(str(group.SamplingFrequency))


def _channels_of(group: Dataset, uid: str) -> dict[Lead, int]:
    """Lead → index of its channel."""
    channels: dict[Lead, int] = {}
    for index, channel in enumerate(group.get("ChannelDefinitionSequence") or []):
        sources = channel.get("ChannelSourceSequence") or []
        code = [(str(each.get("CodingSchemeDesignator")), str(each.get("CodeValue"))) for each in sources]
        lead = LEAD_OF_CODE.get(code[0]) if len(code) == 1 else None
        if lead is None or channel.get("ChannelSourceModifiersSequence"):  # which may say that it is inverted
            continue
        if lead in channels:
            raise WaveformError(f"expected each lead once, found {lead} twice in {uid}; check the sender")
        channels[lead] = index
    return channels


def _leads(instance: Dataset, rhythm: _Rhythm, rate_hz: float) -> dict[Lead, NDArray[np.float64]]:
    """Lead → its samples in mV, all taken at the same times."""
    item, uid = rhythm.item, rhythm.uid
    interpretation = str(item.WaveformSampleInterpretation)
    if interpretation not in LINEAR:
        raise WaveformError(f"expected samples that are linear, found {interpretation} in {uid}; send the original")
    if not (np.isfinite(rate_hz) and rate_hz > 0):
        raise WaveformError(f"expected a SamplingFrequency above 0, found another in {uid}; check the sender")
    definitions = item.ChannelDefinitionSequence
    if len(definitions) != int(item.NumberOfWaveformChannels):
        raise WaveformError(
            f"expected a definition of each of the {item.NumberOfWaveformChannels} channels, found {len(definitions)} "
            f"in {uid}; check the sender"
        )
    raw = multiplex_array(instance, rhythm.index, as_raw=True)
    if instance.file_meta.get("TransferSyntaxUID") == ExplicitVRBigEndian:
        raw = raw.byteswap()
    present = _present(raw[:, sorted(rhythm.channels.values())], item, uid)
    leads = {
        lead: _millivolts(raw[present, index], definitions[index], lead, uid) for lead, index in rhythm.channels.items()
    }
    delays_s = {lead: _delay_s(definitions[index], rate_hz) for lead, index in rhythm.channels.items()}
    return _aligned(leads, delays_s, rate_hz)


def _present(raw: NDArray[Any], group: Dataset, uid: str) -> slice:
    """From the first to the last sample that every lead has. Raises WaveformError if one between them is missing."""
    padding = group.get("WaveformPaddingValue")
    if padding is None:
        return slice(None)
    value = np.frombuffer(padding, raw.dtype)[0] if isinstance(padding, bytes) else padding
    there = (raw != value).all(axis=1)
    places = np.flatnonzero(there)
    if not places.size or not there[places[0] : places[-1] + 1].all():
        raise WaveformError(
            f"expected every sample of every lead, found {int((~there).sum())} missing (padding) in {uid}; record it "
            "anew"
        )
    return slice(int(places[0]), int(places[-1]) + 1)


def _millivolts(raw: NDArray[Any], channel: Dataset, lead: Lead, uid: str) -> NDArray[np.float64]:
    """Sensitivity times correction times the sample, and the baseline, in the unit that is stated (PS3.3 C.10.9)."""
    stated = channel.get("ChannelStatus") or []
    untrusted = UNTRUSTED.intersection([stated] if isinstance(stated, str) else stated)
    if untrusted:
        raise WaveformError(
            f"expected connected leads, found {lead} with the status {min(untrusted)} in {uid}; record it anew"
        )
    units = channel.get("ChannelSensitivityUnitsSequence") or [Dataset()]
    unit = str(units[0].get("CodeValue", "none"))
    if units[0].get("CodingSchemeDesignator") != "UCUM" or unit not in MILLIVOLTS:
        raise WaveformError(
            f"expected lead {lead} in {', '.join(MILLIVOLTS)} (UCUM), found another unit or none in {uid}; "
            "check the sender"
        )
    sensitivity = _number(channel, "ChannelSensitivity", None)
    if sensitivity is None or sensitivity == 0:
        raise WaveformError(
            f"expected a ChannelSensitivity of lead {lead}, found none in {uid}; what its samples mean is unknown"
        )
    correction = _number(channel, "ChannelSensitivityCorrectionFactor", 1.0)
    baseline = _number(channel, "ChannelBaseline", 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        values = (raw.astype(np.float64) * sensitivity * correction + baseline) * MILLIVOLTS[unit]
    if not np.isfinite(values).all():
        raise WaveformError(f"expected numbers in lead {lead}, found others in {uid}; check its sensitivity")
    return np.asarray(values, np.float64)


def _number(channel: Dataset, keyword: str, absent: float | None) -> Any:
    value = channel.get(keyword)
    return absent if value in (None, "") else float(value)


def _delay_s(channel: Dataset, rate_hz: float) -> float:
    """When a channel's first sample was taken, after the group's beginning (PS3.3 C.10.9.1.4.3)."""
    skew_s = _number(channel, "ChannelTimeSkew", None)
    if skew_s is None:
        skew_s = _number(channel, "ChannelSampleSkew", 0.0) / rate_hz
    return float(skew_s + _number(channel, "ChannelOffset", 0.0))


def _aligned(
    leads: dict[Lead, NDArray[np.float64]], delays_s: Mapping[Lead, float], rate_hz: float
) -> dict[Lead, NDArray[np.float64]]:
    """The leads at the same times, as long as all of them last; interpolated where samples were not simultaneous."""
    first, last = min(delays_s.values()), max(delays_s.values())
    if last - first < SAME_TIME_S:
        return leads
    count = len(next(iter(leads.values())))
    times = last + np.arange(int(count - (last - first) * rate_hz)) / rate_hz
    if not len(times):
        raise WaveformError("expected leads that were recorded at the same time, found one after the other")
    return {
        lead: np.asarray(make_interp_spline(delays_s[lead] + np.arange(count) / rate_hz, samples)(times), np.float64)
        for lead, samples in leads.items()
    }


def _leads_needed(wanted: WaveformRequirement, computed: Sequence[Lead]) -> list[Lead]:
    """The model's leads, and those from which some of them are computed."""
    limbs: tuple[Lead, ...] = ("I", "II") if set(computed) & set(wanted.leads) else ()
    return list(dict.fromkeys((*wanted.leads, *limbs)))


def _from_limbs(lead: Lead, leads: Mapping[Lead, NDArray[np.float64]]) -> NDArray[np.float64]:
    of_one, of_two = LIMB_LEADS[lead]
    return of_one * leads["I"] + of_two * leads["II"]


def _check_limb_leads(leads: Mapping[Lead, NDArray[np.float64]], uid: str) -> None:
    """Raises WaveformError if a limb lead is not what I and II make of it: then some lead has the wrong name."""
    size = np.mean([_spread(leads[lead]) for lead in ("I", "II", *LIMB_LEADS) if lead in leads])
    for lead in LIMB_LEADS:
        if lead in leads and _spread(leads[lead] - _from_limbs(lead, leads)) > LARGEST_CONTRADICTION * size:
            raise WaveformError(
                f"expected lead {lead} to be what I and II make of it, found another signal in {uid}: leads are "
                "exchanged, or were not recorded together; check the electrodes' names"
            )


def _spread(samples: NDArray[np.float64]) -> float:
    return float(samples.std())


def _check_signal(
    leads: Mapping[Lead, NDArray[np.float64]], wanted: Sequence[Lead], *, rate_hz: float, uid: str
) -> None:
    """Raises WaveformError if a lead that the model reads shows no heart."""
    for lead in wanted:
        samples = leads[lead]
        flat_s = _longest_run(samples) / rate_hz
        if np.ptp(samples) == 0 or flat_s > LONGEST_FLAT_S:
            raise WaveformError(
                f"expected a signal in lead {lead}, found a flat line of {flat_s:.1f} s in {uid}: the electrode was "
                "not connected; record it anew"
            )
    low, high = USUAL_MV
    typical = float(np.median([np.subtract(*np.percentile(leads[lead], (99.5, 0.5))) for lead in wanted]))
    if not low <= typical <= high:
        raise WaveformError(
            f"expected leads that span {low:g} to {high:g} mV, found {typical:.3g} mV in {uid}; check unit and "
            "sensitivity at the sender"
        )


def _longest_run(samples: NDArray[np.float64]) -> int:
    """Number of samples of the longest stretch of equal ones."""
    changes = np.flatnonzero(np.diff(samples))
    edges = np.concatenate([[-1], changes, [len(samples) - 1]])
    return int(np.diff(edges).max())


def _resampled(
    samples: NDArray[np.float64], rate_hz: float, wanted: WaveformRequirement, uid: str
) -> NDArray[np.float64]:
    """At the model's rate, with a filter against aliases; what would have to be made up is refused."""
    target_hz = wanted.sampling_rate_hz
    if rate_hz < target_hz * (1 - RATE_TOLERANCE):
        raise WaveformError(
            f"expected at least {target_hz:g} samples a second, found {rate_hz:g} in {uid}; send the original recording"
        )
    return resampled(samples, rate_hz, target_hz)


def _window(count: int, wanted: WaveformRequirement, uid: str) -> tuple[int, int]:
    """First sample and number of samples that the model takes, of ``count`` at its rate."""
    needed = round(wanted.duration_s * wanted.sampling_rate_hz)
    found_s = count / wanted.sampling_rate_hz
    if count < needed:
        raise WaveformError(
            f"expected a recording of {wanted.duration_s:g} s, found {found_s:g} s in {uid}; record a longer one"
        )
    if found_s - wanted.duration_s > SAME_LENGTH_S and wanted.longer == "refuse":
        raise WaveformError(
            f"expected a recording of {wanted.duration_s:g} s, found {found_s:g} s in {uid}; the model reads no part "
            "of a longer one"
        )
    return ((count - needed) // 2 if wanted.longer == "centre" else 0), needed


def _remarks(start_s: float, duration_s: float, whole_s: float) -> tuple[str, ...]:
    if round(whole_s - duration_s, 2) <= 0:
        return ()
    return (f"Read: {duration_s:g} s from {start_s:.2f} s on, of a recording of {whole_s:g} s; not the rest.",)


def _adaptations(wanted: WaveformRequirement, computed: Sequence[Lead], rate_hz: float) -> list[str]:
    done = []
    used = [lead for lead in computed if lead in wanted.leads]
    if used:
        done.append(f"limb_leads: {', '.join(used)} computed from I and II")
    if rate_hz != wanted.sampling_rate_hz:
        done.append(f"sampling_rate: {rate_hz:g} Hz brought to {wanted.sampling_rate_hz:g} Hz")
    return done


def _channels_read(
    instance: Dataset, rhythm: _Rhythm, wanted: WaveformRequirement
) -> tuple[tuple[int, int], ...] | None:
    computed = [lead for lead in LIMB_LEADS if lead not in rhythm.channels]
    read = set(_leads_needed(wanted, computed)) - set(computed)
    if len(instance.WaveformSequence) == 1 and len(read) == int(rhythm.item.NumberOfWaveformChannels):
        return None
    return tuple((rhythm.index + 1, channel + 1) for channel in sorted(rhythm.channels[lead] for lead in read))


def _header(instance: Dataset) -> Dataset:
    """Without the samples, and without what somebody else has said of them."""
    header = Dataset({tag: instance.get_item(tag) for tag in sorted(instance.keys()) if tag not in NOT_INHERITED})
    header.file_meta = instance.file_meta
    implicit, little = instance.original_encoding
    header.set_original_encoding(implicit, little, instance.original_character_set)
    return header

"""Which ECG of a study a model reads.

A study can hold several, in one series or in more: repeated because an electrode was wrong, or to see what has changed.
The latest is read, because it shows how the heart is now; the report says that it was not the only one. An earlier one
never takes its place, even if the latest cannot be read: its answer would be taken for today's.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.valuerep import DT

from coread.dicom_sr.report import is_ecg
from coread.errors import NoSuitableSeries, WaveformError
from coread.models.manifest import Manifest, SeriesRequirement, WaveformRequirement
from coread.workers.series import candidates, preference
from coread.workers.study import Series, Study
from coread.workers.waveform import SourceWaveform, build_waveform, missing_leads

TO_THE_SECOND = re.compile(r"\d{14}(\.\d{1,6})?([+-]\d{4})?")
"""A DT value that leaves nothing of its time out (PS3.5 6.2)."""


@dataclass(frozen=True, kw_only=True)
class WaveformChoice:
    """``series``: what is read, ``source``: the ECG; ``reasons``: UID → why it was taken or left, for every series."""

    series: Series
    source: SourceWaveform
    reasons: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Recording:
    series: Series
    instance: Dataset

    @property
    def moment(self) -> datetime | None:
        """When it was recorded, to the second; None if it does not say so."""
        text = str(self.instance.get("AcquisitionDateTime") or "")
        try:
            stated = DT(text) if TO_THE_SECOND.fullmatch(text) else None
        except ValueError:
            return None
        return stated if isinstance(stated, datetime) else None


def choose_waveform(study: Study, manifest: Manifest, wanted: WaveformRequirement) -> WaveformChoice:
    """The ECG to read: of those of 12 leads that the manifest prefers, the latest.

    Raises NoSuitableSeries if there is none, WaveformError if it cannot be told which is the latest, or the InputError
    of the latest.
    """
    requirement = manifest.series[0]
    found, left = candidates(study, requirement)
    recordings = [_Recording(series=series, instance=instance) for series in found for instance in series.load()]
    whole = _with_all_leads(recordings, left)
    if not whole and len(recordings) == 1:
        raise WaveformError(left[recordings[0].series.series_instance_uid])
    if not whole:
        raise _none_suitable(study, requirement, left)
    best = min(preference(each.series, requirement) for each in whole)
    preferred = [each for each in whole if preference(each.series, requirement) == best]
    latest = _latest(preferred)
    source = build_waveform(latest.instance, wanted)
    if len(whole) > 1:
        which = "the latest" if len(preferred) == len(whole) else "the latest of those that the model prefers"
        remark = f"Read: one of the {len(whole)} ECGs of the study, {which}; the others were not evaluated."
        source = replace(source, remarks=(*source.remarks, remark), adapted=(*source.adapted, remark))
    uid = latest.series.series_instance_uid
    reasons = {each.series_instance_uid: "it fits, but less well" for each in found}
    reasons |= {each.series.series_instance_uid: "its ECG is not the latest" for each in preferred} | left
    why = "the only ECG" if len(whole) == 1 else f"the latest of {len(whole)} ECGs"
    return WaveformChoice(
        series=latest.series,
        source=source,
        reasons={**reasons, uid: f"taken as {requirement.described_as}: {why}"},
    )


def _with_all_leads(recordings: Sequence[_Recording], left: dict[str, str]) -> list[_Recording]:
    """Those that are 12-lead ECGs. A series without any is left, for the reason of its first."""
    whole = []
    reasons: dict[str, str] = {}
    for each in recordings:
        reason = missing_leads(each.instance) if is_ecg(each.instance) else "it holds another kind of object"
        if reason is None:
            whole.append(each)
        else:
            reasons.setdefault(each.series.series_instance_uid, reason)
    for each in whole:
        reasons.pop(each.series.series_instance_uid, None)
    left.update(reasons)
    return whole


def _latest(recordings: Sequence[_Recording]) -> _Recording:
    """Raises WaveformError if several were recorded, and it is not known which is the last one."""
    if len(recordings) == 1:
        return recordings[0]
    try:
        moments = sorted((each.moment for each in recordings if each.moment), reverse=True)
    except TypeError:  # some say their time zone, others do not
        moments = []
    if len(moments) < len(recordings) or moments[0] == moments[1]:
        raise WaveformError(
            f"expected {len(recordings)} ECGs with an AcquisitionDateTime that tells which is the latest, found that "
            "it does not; send each as a study of its own"
        )
    return next(each for each in recordings if each.moment == moments[0])


def _none_suitable(study: Study, requirement: SeriesRequirement, left: Mapping[str, str]) -> NoSuitableSeries:
    details = "; ".join(f"{uid}: {left[uid]}" for uid in sorted(each.series_instance_uid for each in study.series))
    return NoSuitableSeries(
        f"expected {requirement.described_as}, found none ({details or 'the study has no series'}); route such studies "
        "elsewhere"
    )

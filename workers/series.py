"""Which series of a study a model reads, with a reason for each series that is taken or left.

First by the headers alone: what a series is, and which of those that fit is the best. Then by trying: the best series
whose images form the volume that the model was made for. The order in which the series come does not matter.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from coread import MANUFACTURER, codes
from coread.archive import NOT_SOURCES
from coread.dicom_sr.repair import SEXES
from coread.dicom_sr.report import is_ecg
from coread.dicom_sr.source import Plane, frame_count, planes_of
from coread.errors import GeometryError, InputError, NoSuitableSeries
from coread.models.manifest import Manifest, Patterns, Population, Range, SeriesRequirement
from coread.patient_age import age_years as age_from
from coread.workers.cine_series import join_cines
from coread.workers.phases import build_stack_or_cine
from coread.workers.study import Series, Study
from coread.workers.volume import SourceVolume, build_projection, build_volume

IMAGE_CLASSES = ("Image Storage", "Volume Storage")
"""What stands in the name of a storage class whose objects are images."""

LOCALIZER = re.compile(r"locali[sz]er|scout|topogram|scanogram|surview|^\W*survey", re.IGNORECASE)
"""How vendors call the images that a scan is planned on. "Survey" only in front: a bone survey is none."""

DERIVED = re.compile(r"\bDERIVED\b", re.IGNORECASE)
"""Value 1 of ImageType: pixels that were computed from other images (PS3.3 C.7.6.1.1.2)."""

COMPUTED_KINDS: Mapping[str, re.Pattern[str]] = {
    "a reformat of other images": re.compile(r"\b(MPR|REFORMATTED)\b", re.IGNORECASE),
    "a projection through a volume": re.compile(r"\b(MIP|MINIP|MNIP|PROJECTION|VRT)\b", re.IGNORECASE),
    "a copy of a screen": re.compile(r"\bSCREEN ?SAVE\b", re.IGNORECASE),
}
"""What a DERIVED image is by the further words of its ImageType, where they say that it is no stack of the scanner's.
DERIVED alone says little: many scanners write it on every image that they filter or combine."""

NO_AGENT = frozenset({"", "no", "none"})
"""What stands in ContrastBolusAgent where nothing was given."""

PLANES = ("sagittal", "coronal", "axial")
"""The plane at right angles to each axis of LPS."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """``chosen``: the series that are read, and ``sources``: their volumes, both in the order of the model's channels;
    ``reasons``: UID → why it was taken or left, for every series of the study.
    """

    chosen: tuple[Series, ...]
    sources: tuple[SourceVolume, ...]
    reasons: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Channel:
    """What one channel may be read from: ``candidates`` by their headers, the best first; ``left``: UID → why not."""

    name: str
    requirement: SeriesRequirement
    candidates: Sequence[Series]
    left: dict[str, str]

    @property
    def remaining(self) -> list[Series]:
        """The candidates that no attempt has ruled out."""
        return [series for series in self.candidates if series.series_instance_uid not in self.left]


Outcomes = Mapping[str, SourceVolume | InputError]
"""Name of a channel → the volume for it, or why the series cannot be read for it."""


def choose(study: Study, manifest: Manifest) -> Choice:
    """The series to read: the best for the first channel, then for the second and so on, such that each channel has one
    of its own and all lie in one frame of reference. A series is loaded when it is first tried, and only once.

    Raises NoSuitableSeries if there are none such, or the InputError of a channel's only candidate.
    """
    channels = []
    for name, requirement in _named(manifest).items():
        found, left = candidates(study, requirement)
        found = join_cines(found, requirement, left=left)
        channels.append(_Channel(name=name, requirement=requirement, candidates=found, left=left))
    read: dict[str, Outcomes] = {}
    while (assigned := _assignment([channel.remaining for channel in channels])) is not None:
        sources = _sources(assigned, channels, read)
        if sources is not None:
            return Choice(chosen=assigned, sources=sources, reasons=_reasons(study, channels, assigned))
    raise _none_suitable(study, channels)


def candidates(study: Study, requirement: SeriesRequirement) -> tuple[list[Series], dict[str, str]]:
    """The series that by their headers one channel may be read from, the best first; for the others, UID → why not."""
    found, left = _of_kind(study, requirement)
    lowest = requirement.slices.low if requirement.slices else 0
    needed = 1 if requirement.projection or requirement.waveform else max(2, lowest)
    for series in found:
        if _image_count(series) < needed:
            left[series.series_instance_uid] = (
                f"fewer images than the {needed:g} needed: {_image_count(series)}; send the whole series"
            )
    return [series for series in found if series.series_instance_uid not in left], left


def fitting_series(study: Study, manifest: Manifest) -> tuple[list[Series], dict[str, str]]:
    """The series of the kind that any channel is read from, be they whole or not, the best for the first channel first;
    for the others, UID → why not.
    """
    by_channel = {name: _of_kind(study, requirement) for name, requirement in _named(manifest).items()}
    fitting = {series.series_instance_uid: series for found, _ in by_channel.values() for series in found}
    reasons = {
        uid: _joined({name: left[uid] for name, (_, left) in by_channel.items()})
        for uid in _uids(study)
        if uid not in fitting
    }
    return list(fitting.values()), reasons


def check_population(header: Dataset, population: Population, *, at: date | None) -> None:
    """Raises NoSuitableSeries if the patient is not one of those whom the model was made for.

    The age in years is PatientAge, or follows from PatientBirthDate and StudyDate; ``at`` stands for a StudyDate that
    is absent. What to do where age or sex are not known, the population says.
    """
    plane = Plane(image=header)
    if population.age_years is not None:
        age, (low, high) = age_years(plane, at), population.age_years
        _check_patient(
            population,
            fits=None if age is None else low <= age <= high,
            expected=f"aged {low:g} to {high:g} years",
            attributes="PatientAge, or PatientBirthDate and StudyDate",
        )
    if population.sex:
        sex = _text(plane, "PatientSex").upper()
        _check_patient(
            population,
            fits=sex in population.sex if sex and sex in SEXES else None,
            expected=f"of PatientSex {' or '.join(population.sex)}",
            attributes="PatientSex",
        )


def _check_patient(population: Population, *, fits: bool | None, expected: str, attributes: str) -> None:
    if fits is None and population.if_unknown == "refuse":
        raise NoSuitableSeries(
            f"expected a patient {expected}, found one of whom it is not known; have the sender fill in {attributes}"
        )
    if fits is False:
        raise NoSuitableSeries(
            f"expected a patient {expected}, found one outside of that; route such studies elsewhere"
        )


def age_years(plane: Plane, at: date | None) -> float | None:
    """The patient's age when the study was made, or ``at`` a date where it does not say when; None: it is not known."""
    return age_from(
        stated=_text(plane, "PatientAge"),
        born=_text(plane, "PatientBirthDate"),
        seen=_text(plane, "StudyDate"),
        at=at,
    )


def _named(manifest: Manifest) -> dict[str, SeriesRequirement]:
    return {channel.key or f"channel {number}": channel for number, channel in enumerate(manifest.series, start=1)}


def _uids(study: Study) -> list[str]:
    return sorted(series.series_instance_uid for series in study.series)


def _assignment(by_channel: Sequence[Sequence[Series]], taken: tuple[Series, ...] = ()) -> tuple[Series, ...] | None:
    """A series of its own for each channel, all in one frame of reference: the best for the first channel with which
    the others can have one too, then for the second, and so on. None if there is none.
    """
    if len(taken) == len(by_channel):
        return taken
    for series in by_channel[len(taken)]:
        is_free = all(series is not other and _frame(series) == _frame(other) for other in taken)
        if is_free and (whole := _assignment(by_channel, (*taken, series))) is not None:
            return whole
    return None


def _sources(
    assigned: Sequence[Series], channels: Sequence[_Channel], read: dict[str, Outcomes]
) -> tuple[SourceVolume, ...] | None:
    """The volumes of the series assigned to the channels. If one has none, it is ruled out for its channel, and the
    answer is None; if it was the channel's only candidate, its error is raised. ``read`` keeps what was loaded, by UID.
    """
    sources = []
    for series, channel in zip(assigned, channels, strict=True):
        uid = series.series_instance_uid
        if uid not in read:
            read[uid] = _read(series, [channel for channel in channels if uid not in channel.left])
        outcome = read[uid][channel.name]
        if isinstance(outcome, InputError):
            if len(channel.candidates) == 1:
                raise outcome
            channel.left[uid] = str(outcome)
            return None
        sources.append(outcome)
    return tuple(sources)


def _read(series: Series, channels: Sequence[_Channel]) -> Outcomes:
    """What comes of the series for each of the channels that it may be read for; it is loaded once."""
    try:
        images = series.load()
    except InputError as error:
        return {channel.name: error for channel in channels}
    built: dict[str, SourceVolume] = {}
    outcomes: dict[str, SourceVolume | InputError] = {}
    for channel in channels:
        wanted = channel.requirement
        try:
            if wanted.values not in built:
                built[wanted.values] = _built(images, wanted)
            _check_ranges(built[wanted.values], wanted)
        except InputError as error:
            outcomes[channel.name] = error.with_traceback(None)  # which would keep the pixels in memory
        else:
            outcomes[channel.name] = built[wanted.values]
    return outcomes


def _built(images: Sequence[Dataset], wanted: SeriesRequirement) -> SourceVolume:
    if wanted.phases:
        return build_stack_or_cine(images, values=wanted.values, wanted=wanted.phases)
    return (build_projection if wanted.projection else build_volume)(images, values=wanted.values)


def _check_ranges(source: SourceVolume, requirement: SeriesRequirement) -> None:
    slice_mm, row_mm, column_mm = source.volume.spacing
    extents = [count * mm for count, mm in zip(source.volume.spatial_shape, source.volume.spacing, strict=True)]
    thicknesses = [plane.number("SliceThickness") for plane in source.planes]
    checks: Sequence[tuple[str, Sequence[float | None], Range | None]] = (
        ("slices", [source.volume.spatial_shape[0]], requirement.slices),
        ("mm between slices", [slice_mm], requirement.slice_spacing_mm),
        ("mm between rows", [row_mm], requirement.pixel_spacing_mm),
        ("mm between columns", [column_mm], requirement.pixel_spacing_mm),
        ("mm of SliceThickness", thicknesses, requirement.slice_thickness_mm),
        ("mm along each edge", extents, requirement.extent_mm),
    )
    for what, values, wanted in checks:
        for found in values:
            if wanted is not None and (found is None or not wanted.low <= found <= wanted.high):
                raise GeometryError(
                    f"expected {wanted.low:g} to {wanted.high:g} {what} for {requirement.described_as}, found "
                    f"{'none' if found is None else f'{found:g}'}; the model was not made for this series"
                )


def _reasons(study: Study, channels: Sequence[_Channel], assigned: Sequence[Series]) -> dict[str, str]:
    """UID → why it was taken or left."""
    reasons = {}
    for series in study.series:
        uid = series.series_instance_uid
        is_elsewhere = len(channels) > 1 and _frame(series) != _frame(assigned[0])
        fits = "its frame of reference is not that of the series taken" if is_elsewhere else "it fits, but less well"
        reasons[uid] = _joined({channel.name: channel.left.get(uid, fits) for channel in channels})
    for series, channel in zip(assigned, channels, strict=True):
        into = f" for {channel.name}" if len(channels) > 1 else ""
        count = len(channel.candidates)
        why = "the only candidate" if count == 1 else f"the first of {count} candidates that can be read"
        reasons[series.series_instance_uid] = f"taken{into} as {channel.requirement.described_as}: {why}"
    return reasons


def _joined(reasons: Mapping[str, str]) -> str:
    """The reasons of the channels, by name, as one; said once where all agree."""
    if len(set(reasons.values())) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _none_suitable(study: Study, channels: Sequence[_Channel]) -> NoSuitableSeries:
    lacking = [channel for channel in channels if not channel.remaining]
    wanted = " and ".join(channel.requirement.described_as for channel in lacking or channels)
    found = "none" if lacking else "no such series that differ and lie in one frame of reference"
    fits = "it fits, but not together with others"
    details = "; ".join(
        f"{uid}: {_joined({channel.name: channel.left.get(uid, fits) for channel in channels})}" for uid in _uids(study)
    )
    return NoSuitableSeries(
        f"expected {wanted}, found {found} ({details or 'the study has no images'}); route such studies elsewhere"
    )


def _of_kind(study: Study, requirement: SeriesRequirement) -> tuple[list[Series], dict[str, str]]:
    """The series that are what a channel is read from, the best first; for the others, UID → why not."""
    found, left = [], {}
    for series in sorted(study.series, key=lambda series: _rank(series, requirement)):
        reason = _mismatch(_first_plane(series), requirement)
        if reason is None:
            found.append(series)
        else:
            left[series.series_instance_uid] = reason
    return found, left


def _rank(series: Series, requirement: SeriesRequirement) -> tuple[Any, ...]:
    """What sorts series by how well they fit, the best first; no two have the same."""
    plane = _first_plane(series)
    number = plane.number("SeriesNumber")
    return (
        preference(series, requirement),
        _is_derived(plane),
        -_image_count(series),
        plane.number("SliceThickness") or math.inf,
        math.inf if number is None else number,
        series.series_instance_uid,
    )


def preference(series: Series, requirement: SeriesRequirement) -> list[bool]:
    """What sorts series by what the manifest prefers, the best first."""
    return [not _matches(_first_plane(series), patterns) for patterns in requirement.prefer]


def _mismatch(plane: Plane, requirement: SeriesRequirement) -> str | None:
    """Why the series that an image is of is not what a channel is read from; None if it is."""
    if requirement.waveform:
        return _no_ecg(plane) or _unlike(plane, requirement) or _by_a_program(plane, requirement)
    return (
        _no_image(plane)
        or _unlike(plane, requirement)
        or _by_a_program(plane, requirement)
        or (None if requirement.projection else _no_scan(plane, requirement))
        or _otherwise_taken(plane, requirement)
    )


def _no_image(plane: Plane) -> str | None:
    uid = plane.get("SOPClassUID")
    name = uid.name if isinstance(uid, UID) and uid.name != uid else IMAGE_CLASSES[0]  # an unknown one is no reason
    holds_images = plane.get("Rows") and any(words in name for words in IMAGE_CLASSES)
    return None if holds_images and _text(plane, "Modality") not in NOT_SOURCES else "it holds no images"


def _no_ecg(plane: Plane) -> str | None:
    return None if is_ecg(plane.image) else "it holds no 12-lead or general ECG"


def _unlike(plane: Plane, requirement: SeriesRequirement) -> str | None:
    for keyword, patterns in requirement.must.items():
        if not _matches(plane, {keyword: patterns}):
            found = f", found {_text(plane, keyword) or 'none'}" if keyword == "Modality" else ""
            return f"{keyword} is not {' or '.join(patterns)}{found}"
    for keyword, patterns in requirement.must_not.items():
        if _matches(plane, {keyword: patterns}):
            return f"{keyword} says that it is another kind of series"
    if requirement.any_of and not any(_matches(plane, patterns) for patterns in requirement.any_of):
        keywords = " and ".join(sorted({keyword for patterns in requirement.any_of for keyword in patterns}))
        return f"{keywords} do not say that it is one"
    return None


def _by_a_program(plane: Plane, requirement: SeriesRequirement) -> str | None:
    equipment = plane.get("ContributingEquipmentSequence") or ()
    makers = {_text(plane, "Manufacturer"), _text(plane, "ManufacturerModelName")}
    if MANUFACTURER in makers | {str(item.get("Manufacturer")) for item in equipment}:
        return "Coread wrote it"
    purposes = {
        (purpose.get("CodingSchemeDesignator"), purpose.get("CodeValue"))
        for item in equipment
        for purpose in item.get("PurposeOfReferenceCodeSequence") or ()
    }
    processing = (codes.PROCESSING_EQUIPMENT.scheme_designator, codes.PROCESSING_EQUIPMENT.value)
    if processing in purposes and _is_derived(plane) and not _asks_for(DERIVED, requirement, "ImageType"):
        return "ContributingEquipmentSequence says that a program computed it from other images"
    return None


def _no_scan(plane: Plane, requirement: SeriesRequirement) -> str | None:
    """Why a series is no stack of slices as the scanner made them for reading, unless the manifest asks for such."""
    uid = plane.get("SOPClassUID")
    if isinstance(uid, UID) and "Secondary Capture" in uid.name and "SOPClassUID" not in requirement.must:
        return "it is a secondary capture"
    if _text(plane, "Modality") in ("OT", "SC") and not plane.get("ImagePositionPatient"):
        return "its images have no place in the patient"
    texts = ("ImageType", "SeriesDescription", "ProtocolName")
    if not _asks_for(LOCALIZER, requirement, *texts):
        for keyword in texts:
            if any(LOCALIZER.search(text) for text in _texts(plane, keyword)):
                return f"{keyword} says that it is a localizer"
    if _is_derived(plane):
        for kind, words in COMPUTED_KINDS.items():
            says_so = any(words.search(text.replace("_", " ")) for text in _texts(plane, "ImageType"))
            if says_so and not _asks_for(words, requirement, "ImageType"):
                return f"ImageType says that it is {kind}"
    return None


def _asks_for(words: re.Pattern[str], requirement: SeriesRequirement, *keywords: str) -> bool:
    """Whether the manifest wants one of the words in one of the attributes."""
    return any(
        words.search(pattern.replace("_", " "))
        for wanted in (requirement.must, *requirement.any_of)
        for keyword in keywords
        for pattern in wanted.get(keyword, ())
    )


def _otherwise_taken(plane: Plane, requirement: SeriesRequirement) -> str | None:
    has_agent = bool(plane.get("ContrastBolusAgentSequence"))
    has_agent |= _text(plane, "ContrastBolusAgent").casefold() not in NO_AGENT
    if requirement.contrast is not None and has_agent != requirement.contrast:
        return f"ContrastBolusAgent says that {'a' if has_agent else 'no'} contrast agent was given"
    if requirement.plane is not None and (found := _orientation(plane)) != requirement.plane:
        return f"its slices are {found or 'in no known plane'}, not {requirement.plane}"
    return None


def _orientation(plane: Plane) -> str | None:
    """The plane nearest to which an image lies; None if it does not say how it lies."""
    try:
        cosines = np.array(plane.get("ImageOrientationPatient"), np.float64).reshape(2, 3)
    except (ValueError, TypeError):
        return None
    return PLANES[int(np.abs(np.cross(*cosines)).argmax())]


def _matches(plane: Plane, wanted: Patterns) -> bool:
    # Free text of a header is compared, never quoted: people write names into it.
    return all(
        any(
            fnmatchcase(text.casefold(), pattern.casefold().replace("[", "[[]"))
            for pattern in patterns
            for text in _texts(plane, keyword)
        )
        for keyword, patterns in wanted.items()
    )


def _is_derived(plane: Plane) -> bool:
    return DERIVED.fullmatch(_texts(plane, "ImageType")[0]) is not None


def _texts(plane: Plane, keyword: str) -> list[str]:
    """The values of an attribute, and all of them in one; an empty text if it has none."""
    value = plane.get(keyword)
    values = value if isinstance(value, MultiValue | list) else [value]
    texts = ["" if each is None else str(each).strip() for each in values]
    return [*texts, "\\".join(texts)]


def _text(plane: Plane, keyword: str) -> str:
    return _texts(plane, keyword)[-1]


def _first_plane(series: Series) -> Plane:
    return next(planes_of(series.header), Plane(image=series.header))


def _image_count(series: Series) -> int:
    """The number of slices, as far as one header and the number of instances tell."""
    return series.size * frame_count(series.header)


def _frame(series: Series) -> str:
    return _text(_first_plane(series), "FrameOfReferenceUID")

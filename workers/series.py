"""Which series of a study a model reads: the first that is what its manifest asks for, with a reason for each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydicom.dataset import Dataset

from coread.dicom_sr.source import frame_count
from coread.errors import GeometryError, InputError, NoSuitableSeries
from coread.models.manifest import Patterns, Range, SeriesRequirement
from coread.workers.study import Series, Study
from coread.workers.volume import SourceVolume, build_volume


@dataclass(frozen=True, kw_only=True)
class ChosenSeries:
    """The series that is read, as a volume; for each series passed over, its UID and why."""

    series: Series
    source: SourceVolume
    passed_over: Mapping[str, str]


def choose_series(study: Study, requirement: SeriesRequirement) -> ChosenSeries:
    """The series to read. The order in which the series come does not matter: the largest is tried first.

    Raises NoSuitableSeries if none is what the model reads, or the error of the only candidate.
    """
    candidates, reasons = fitting_series(study, requirement)
    for series in candidates:
        try:
            source = build_volume(series.load())
            _check_ranges(source, requirement)
        except InputError as error:
            if len(candidates) == 1:
                raise
            reasons[series.series_instance_uid] = str(error)
        else:
            return ChosenSeries(series=series, source=source, passed_over=reasons)
    details = "; ".join(f"{uid}: {reason}" for uid, reason in reasons.items()) or "the study has no images"
    raise NoSuitableSeries(f"expected {requirement.described_as}, found none ({details}); route such studies elsewhere")


def fitting_series(study: Study, requirement: SeriesRequirement) -> tuple[list[Series], dict[str, str]]:
    """The series that by their headers are what the model reads, the largest first; for the others, UID → why not."""
    reasons: dict[str, str] = {}
    candidates = []
    for series in sorted(study.series, key=_largest_first):
        reason = _header_mismatch(series.header, requirement)
        if reason:
            reasons[series.series_instance_uid] = reason
        else:
            candidates.append(series)
    return candidates, reasons


def _largest_first(series: Series) -> tuple[int, int, str]:
    number = str(series.header.get("SeriesNumber") or "")
    return -series.size * frame_count(series.header), int(number) if number.isdigit() else 0, series.series_instance_uid


def _header_mismatch(header: Dataset, requirement: SeriesRequirement) -> str | None:
    for keyword, patterns in requirement.must.items():
        if not _matches(header, {keyword: patterns}):
            found = f", found {header.get('Modality') or 'none'}" if keyword == "Modality" else ""
            return f"{keyword} is not {' or '.join(patterns)}{found}"
    for keyword, patterns in requirement.must_not.items():
        if _matches(header, {keyword: patterns}):
            return f"{keyword} says that it is another kind of series"
    if requirement.any_of and not any(_matches(header, patterns) for patterns in requirement.any_of):
        keywords = " and ".join(sorted({keyword for patterns in requirement.any_of for keyword in patterns}))
        return f"{keywords} do not say that it is one"
    return None


def _matches(header: Dataset, wanted: Patterns) -> bool:
    # Free text of a header is compared, never quoted: people write names into it.
    return all(
        any(fnmatchcase(str(header.get(keyword, "")).casefold(), pattern.casefold()) for pattern in patterns)
        for keyword, patterns in wanted.items()
    )


def _check_ranges(source: SourceVolume, requirement: SeriesRequirement) -> None:
    slice_mm, row_mm, column_mm = source.volume.spacing
    checks: Sequence[tuple[str, float, Range]] = (
        ("slices", source.volume.spatial_shape[0], requirement.slices),
        ("mm between slices", slice_mm, requirement.slice_spacing_mm),
        ("mm between rows", row_mm, requirement.pixel_spacing_mm),
        ("mm between columns", column_mm, requirement.pixel_spacing_mm),
    )
    for what, found, wanted in checks:
        if not wanted.low <= found <= wanted.high:
            raise GeometryError(
                f"expected {wanted.low:g} to {wanted.high:g} {what} for {requirement.described_as}, found {found:g}; "
                "the model was not made for this series"
            )

"""Makes the report of a run: reads its rows once, writes the tables as they come by, and the page at the end."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from coread.archive_report import tables
from coread.archive_report.compare import Matched, changes, match
from coread.archive_report.frame import Frame, FrameBuilder, frames_of
from coread.archive_report.page import page_of
from coread.archive_report.report import MOST_LARGEST, MOST_STUDIES, Found, report_of
from coread.archive_table import RunStore, StudyRow
from coread.evaluation.document import as_text
from coread.evaluation.reviews import review_report
from coread.review import Review, counting

REPORT, PAGE = "report.json", "report.html"
MOST_PICTURES = 2
"""Of a study in each run."""
Pictures = dict[tuple[str, int], tuple[list[Path], list[Path]]]


@dataclass(frozen=True, kw_only=True)
class Reviewed:
    """What persons say of a run's results."""

    by_place: Mapping[tuple[int, str], list[Review]] = field(default_factory=dict)
    """Position and model → the reviews, the newest first."""

    @property
    def verdicts(self) -> dict[tuple[int, str], str]:
        """The verdict that counts of each result that was reviewed."""
        counted = {place: counting(reviews) for place, reviews in self.by_place.items()}
        return {place: str(review.verdict) for place, review in counted.items() if review is not None}


def make_report(
    store: RunStore,
    output: Path,
    *,
    earlier: RunStore | None = None,
    run: Mapping[str, Any] | None = None,
    reviewed: Reviewed | None = None,
    at: datetime,
    progress: Callable[[Iterable[StudyRow]], Iterable[StudyRow]] = iter,
) -> dict[str, Any]:
    """Write the page, the JSON and the Parquet tables of a run into a folder. Returns the report.

    ``earlier``: the run that it is compared with; ``run``: what it is (`Run.as_json`), by default what its folder says;
    ``reviewed``: None if nobody can tell what persons said of its results.
    """
    output.mkdir(mode=0o700, parents=True, exist_ok=True)
    verdicts = reviewed.verdicts if reviewed else {}
    frames, first = _read(progress(store.rows()), output, verdicts)
    before = frames_of(earlier.rows()) if earlier is not None else None
    matched = None if before is None else _match(frames, before)
    (output / tables.CHANGES).unlink(missing_ok=True)
    if matched is not None:
        with tables.Batches(output / tables.CHANGES, tables.CHANGE_SCHEMA) as table:
            for each in matched:
                for change in changes(each):
                    table.add(change)
    found = Found(
        frames=frames,
        first=first,
        run=run or store.described(),
        verdicts=verdicts,
        reviews=_reviews(reviewed, frames, at=at),
        matched=matched,
        earlier=before,
        run_before=earlier.described() if earlier is not None else {},
    )
    report = report_of(found, at=at)
    pictures = _pictures(report, store, earlier)
    _write(output / REPORT, as_text(report))
    _write(output / PAGE, page_of(report, matched=matched or (), pictures=pictures))
    return report


def _read(
    rows: Iterable[StudyRow], output: Path, verdicts: Mapping[tuple[int, str], str]
) -> tuple[dict[str, Frame], list[StudyRow]]:
    """The columns of each model and the first rows; on the way, all rows go into the tables."""
    builders: dict[str, FrameBuilder] = {}
    first: list[StudyRow] = []
    with ExitStack() as files:
        studies = files.enter_context(tables.Batches(output / tables.STUDIES, tables.STUDY_SCHEMA))
        findings = files.enter_context(tables.Batches(output / tables.FINDINGS, tables.FINDING_SCHEMA))
        for row in rows:
            builders.setdefault(row.model, FrameBuilder(row.model)).add(row)
            studies.add(tables.study_values(row, review=verdicts.get((row.position, row.model), "")))
            for finding in tables.finding_values(row):
                findings.add(finding)
            if len(first) < MOST_STUDIES:
                first.append(row)
    return {model: builders[model].whole() for model in sorted(builders)}, first


def _match(frames: Mapping[str, Frame], before: Mapping[str, Frame]) -> list[Matched]:
    return [match(frame, before[model]) for model, frame in frames.items() if model and model in before]


def _reviews(reviewed: Reviewed | None, frames: Mapping[str, Frame], *, at: datetime) -> dict[str, Any] | None:
    if reviewed is None:
        return None
    done = {
        (model, version): int((frame.words["version"].of(version) & frame.is_done).sum())
        for model, frame in frames.items()
        if model and "version" in frame.words
        for version in frame.words["version"].names
    }
    said = [review for reviews in reviewed.by_place.values() for review in reviews]
    return review_report(said, done=done, by="month", at=at)


def _pictures(report: Mapping[str, Any], store: RunStore, earlier: RunStore | None) -> Pictures:
    """The pictures of the studies that differ most, in both runs."""
    if earlier is None:
        return {}
    return {
        (each["model"], study["position"]): (
            list(_pictures_at(earlier, study["earlier_position"], each["model"])),
            list(_pictures_at(store, study["position"], each["model"])),
        )
        for each in report["comparison"]["models"]
        for study in each["largest"][:MOST_LARGEST]
    }


def _pictures_at(store: RunStore, position: int, model: str) -> Iterator[Path]:
    for row in store.rows_at(position):
        if row.model == model:
            yield from store.pictures(row)[:MOST_PICTURES]


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a page that is being read is not half of one."""
    partial = path.with_name(f".{path.name}.part")
    tables.begin_file(partial)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)

"""A model card in Markdown, made from the model's package alone: manifest, metadata, what its authors tell of the
training, and the report of its evaluation.

Light: no torch here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coread.errors import ConfigurationError
from coread.evaluation.document import has_report_form, load_report
from coread.evaluation.words import FIGURES, interval_in_words, of_subject
from coread.models.catalogue import InstalledModel
from coread.models.manifest import CodeTriple, Manifest, Patterns, Range, SeriesRequirement, WaveformRequirement
from coread.models.metadata import find_metadata

REPORT, TRAINING = "docs/report.json", "docs/training.md"
"""In the package."""

SAID_ELSEWHERE = frozenset({"described_as", "key", "values"})
"""What the manifest says of a series that is no condition."""


def card_of(model: InstalledModel, report: Path | None = None) -> str:
    """The card of a model, with the figures of ``report``, by default of the package's own; none if it has none.

    Raises ConfigurationError if the report is not one of `coread evaluate`, or not of this very model.
    """
    metadata = find_metadata(model.folder)
    own = model.folder / REPORT
    path = report or (own if has_report_form(own) else None)
    sections = [
        _head(model, metadata),
        _inputs(model.manifest),
        _refusals(model.manifest),
        _outputs(model.manifest),
        _data(metadata),
        _training(model.folder / TRAINING),
        _figures(_report_of(model, path)) if path else "## Figures\n\nNobody has evaluated it with `coread evaluate`.",
        f"## Limits\n\n{model.manifest.limits}",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _report_of(model: InstalledModel, path: Path) -> dict[str, Any]:
    report = load_report(path)
    if report["model"]["digest"] != model.digest():
        raise ConfigurationError(
            f"{path}: expected a report of {model.name} as it is now, found one of another model or state of it; "
            "evaluate it again"
        )
    return report


def _head(model: InstalledModel, metadata: Mapping[str, Any]) -> str:
    rows = [
        ("model", f"`{model.name}`, version {metadata.get('version', model.version)}"),
        ("task", _sentence(metadata.get("task"))),
        ("intended use", _sentence(metadata.get("intended_use"))),
        ("authors", _sentence(metadata.get("authors"))),
        ("copyright", _sentence(metadata.get("copyright"))),
        ("licence", "[LICENSE](../LICENSE)" if (model.folder / "LICENSE").is_file() else ""),
    ]
    words = _sentence(metadata.get("description"))
    table = _table(("", ""), [row for row in rows if row[1]])
    return "\n\n".join(filter(None, [f"# {model.manifest.title}", f"{words}." if words else "", table]))


def _inputs(manifest: Manifest) -> str:
    several = len(manifest.series) > 1
    words = ["## What it reads"]
    if several:
        words.append(f"{len(manifest.series)} series of one study, all in one frame of reference:")
    for number, series in enumerate(manifest.series, start=1):
        conditions = "\n".join(f"- {condition}" for condition in conditions_of(series))
        shown = " Pixels are taken as displayed, from 0 (black) to 255 (white)." if series.values == "display" else ""
        heading = f"**Series {number}: {series.described_as}.**" if several else f"{_capital(series.described_as)}."
        words.append(f"{heading}{shown} Such a series is one with:\n\n{conditions}")
    return "\n\n".join(words)


def conditions_of(series: SeriesRequirement) -> Iterator[str]:
    """What a series must be like to be read, a sentence each. A key of the manifest that has no words of its own here
    is given by its name.
    """
    for name, field in type(series).model_fields.items():
        value = getattr(series, name)
        if name not in SAID_ELSEWHERE and value != field.get_default(call_default_factory=True):
            yield from _WORDS[name](value) if name in _WORDS else [f"{name.replace('_', ' ')}: {value}"]


def _matching(patterns: Patterns) -> Iterator[str]:
    for keyword, wanted in patterns.items():
        yield f"{keyword}: {_either(wanted)}"


def _not_matching(patterns: Patterns) -> Iterator[str]:
    for keywords, wanted in _alike(patterns).items():
        yield f"not in {' and not in '.join(keywords)}: {_either(wanted)}"


def _any_of(alternatives: Sequence[Patterns]) -> Iterator[str]:
    alone = {keyword: wanted for each in alternatives for keyword, wanted in each.items() if len(each) == 1}
    if len(alone) == len(alternatives) and len(_alike(alone)) == 1:
        yield f"in {' or in '.join(alone)}: {_either(next(iter(alone.values())))}"
    else:
        yield " or ".join(f"({' and '.join(_matching(patterns))})" for patterns in alternatives)


def _alike(patterns: Patterns) -> dict[tuple[str, ...], Sequence[str]]:
    """The keywords that share their patterns → the patterns."""
    by_patterns: dict[tuple[str, ...], list[str]] = {}
    for keyword, wanted in patterns.items():
        by_patterns.setdefault(tuple(wanted), []).append(keyword)
    return {tuple(keywords): wanted for wanted, keywords in by_patterns.items()}


def _preferred(preferred: Sequence[Patterns]) -> Iterator[str]:
    yield f"of several, first one with {', then '.join(' and '.join(_matching(patterns)) for patterns in preferred)}"


def _either(patterns: Sequence[str]) -> str:
    quoted = [f"`{pattern}`" for pattern in patterns]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _between(unit: str) -> Any:
    def words(wanted: Range) -> Iterator[str]:
        yield f"{wanted.low:g} to {wanted.high:g} {unit}" if wanted.low != wanted.high else f"{wanted.low:g} {unit}"

    return words


def _recording(wanted: WaveformRequirement) -> Iterator[str]:
    yield f"the leads {', '.join(wanted.leads)}, recorded together, limb leads computed where they are absent"
    yield f"{wanted.sampling_rate_hz:g} samples a second or more, brought to that rate"
    part = {
        "refuse": "no more",
        "centre": "or more, of which the middle is read",
        "start": "or more, read from the start",
    }
    yield f"{wanted.duration_s:g} s, {part[wanted.longer]}"


_WORDS: Mapping[str, Any] = {
    "must": _matching,
    "must_not": _not_matching,
    "any_of": _any_of,
    "prefer": _preferred,
    "plane": lambda plane: [f"{plane} slices"],
    "contrast": lambda given: ["contrast agent given" if given else "no contrast agent given"],
    "projection": lambda _: ["a single image without a place in space (a radiograph)"],
    "slices": _between("slices"),
    "slice_spacing_mm": _between("mm from slice to slice"),
    "slice_thickness_mm": _between("mm SliceThickness"),
    "pixel_spacing_mm": _between("mm from pixel to pixel"),
    "extent_mm": _between("mm along each edge of the volume"),
    "field_of_view_mm": lambda side: [f"what is measured within {side:g} mm around the image's centre"],
    "waveform": _recording,
    "phases": lambda phases: [
        f"one phase; or several, of which {phases.filled.name} and {phases.emptied.name} are read"
    ],
}


def _refusals(manifest: Manifest) -> str:
    said = ["studies without such a series"]
    people = manifest.population
    unknown = "" if people.if_unknown == "read" else ", or whose age is not known"
    if people.age_years:
        said.append(f"patients who are not {people.age_years.low:g} to {people.age_years.high:g} years old{unknown}")
    if people.sex:
        unknown = "" if people.if_unknown == "read" else ", or none"
        said.append(f"patients of another PatientSex than {' or '.join(people.sex)}{unknown}")
    if any(series.field_of_view_mm for series in manifest.series):
        said.append("images in which a structure reaches the edge of what the model looks at: it may go on beyond")
    if any(not series.projection and not series.waveform for series in manifest.series):
        said.append("stacks that are not whole and even: a slice is missing, twice there, turned or shifted")
    return "## What it refuses\n\n" + "\n".join(f"- {each}" for each in said)


def _outputs(manifest: Manifest) -> str:
    if manifest.labels:
        rows = [
            (meaning.name, _codes(meaning.type, meaning.anatomy, meaning.laterality), ", ".join(meaning.measure))
            for _, meaning in sorted(manifest.labels.items())
        ]
        return "## What it finds\n\n" + _table(("structure", "code", "reported"), rows)
    if manifest.classes:
        how = "Exactly one of these holds; the most probable one is reported with its probability."
        if not manifest.exclusive:
            how = "Each is reported as present or absent, with the probability of that answer."
        rows = [
            (
                meaning.name,
                _codes(meaning.finding, meaning.anatomy),
                _codes(meaning.value) if meaning.value else f"present from {manifest.threshold_of(key):g} on",
            )
            for key, meaning in sorted(manifest.classes.items())
        ]
        return f"## What it finds\n\n{how}\n\n" + _table(("class", "finding", "answer"), rows)
    rows = [
        (meaning.name, _codes(meaning.concept, meaning.anatomy), meaning.unit.value)
        for _, meaning in sorted(manifest.numbers.items())
    ]
    return "## What it finds\n\n" + _table(("number", "code", "unit"), rows)


def _codes(*codes: CodeTriple | None) -> str:
    return ", ".join(f"{code.meaning} ({code.scheme} {code.value})" for code in codes if code)


def _data(metadata: Mapping[str, Any]) -> str:
    references = metadata.get("references") or []
    listed = "\n".join(f"- {_sentence(each)}" for each in ([references] if isinstance(references, str) else references))
    source = _sentence(metadata.get("data_source"))
    parts = [f"{source}." if source else "", listed]
    return "\n\n".join(["## Data", *filter(None, parts)]) if any(parts) else ""


def _training(path: Path) -> str:
    """What the authors tell, as it is."""
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _figures(report: Mapping[str, Any]) -> str:
    counts, method = report["counts"], report["method"]
    left = [
        f"{counts[name]} {words}"
        for name, words in (
            ("refused", "refused"),
            ("failed", "failed"),
            ("reference_not_usable", "with an unusable reference"),
            ("without_reference", "without a reference"),
        )
        if counts[name]
    ]
    said = (
        f"Measured on {counts['compared']} studies of {counts['patients']} patients through the chain that reads "
        f"studies in production, by `coread evaluate` on {report['evaluated_at'][:10]}. Not compared: "
        f"{', '.join(left) or 'none'}. In brackets: 95 % intervals, {method['resamples']} bootstrap resamples of "
        "patients. [report.json](report.json) has each study."
    )
    parts = ["## Figures", said]
    for subject in report["subjects"]:
        rows = [
            (
                FIGURES[name].title,
                interval_in_words(name, estimate, unit=subject.get("unit", "")),
                str(estimate["studies"]),
            )
            for name, estimate in subject["estimates"].items()
            if estimate["value"] is not None
        ]
        parts += [f"### {_capital(_sentence(of_subject(subject)))}", _table(("figure", "value", "studies"), rows)]
        if "confusion" in subject:
            names = subject["confusion"]["classes"]
            matrix = zip(names, subject["confusion"]["matrix"], strict=True)
            parts.append(_table(("true \\ reported", *names), [(name, *map(str, row)) for name, row in matrix]))
    return "\n\n".join([*parts, *_subgroups(report)])


def _subgroups(report: Mapping[str, Any]) -> Iterator[str]:
    """Of traits in which the studies differ."""
    traits = Counter(group["by"] for group in report["subgroups"])
    groups = [group for group in report["subgroups"] if traits[group["by"]] > 1]
    shown = [group for group in groups if group["subjects"]]
    if not shown:
        return
    titles = [
        f"{of_subject(subject)}: {FIGURES[name].title}"
        for subject in shown[0]["subjects"]
        for name in subject["estimates"]
    ]
    rows = [
        (
            f"{group['by']}: {group['name']}",
            f"{group['studies']} / {group['patients']}",
            *(
                interval_in_words(name, estimate, unit=subject.get("unit", ""))
                for subject in group["subjects"] or ()
                for name, estimate in subject["estimates"].items()
            ),
        )
        for group in groups
    ]
    few = report["method"]["fewest_patients"]
    yield f"### Subgroups\n\nOf fewer than {few} patients no figure is given.\n\n" + _table(
        ("subgroup", "studies / patients", *titles), [(*row, *[""] * (len(titles) + 2 - len(row))) for row in rows]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return _sentence(text).replace("|", "\\|")


def _sentence(text: object) -> str:
    """In one line, without a full stop."""
    return " ".join(str(text).split()).rstrip(".") if text else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

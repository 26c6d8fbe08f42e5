"""What a job found, in plain English: one line for a list, and sentences for a page or a person at a terminal.

Told from the job's result (JSON, as the ledger keeps it), for which Orthanc's plugin needs no heavy library. What a
result does not have, as one of an older version, is not spoken of. Every number that is told is rounded to what such a
measurement is good for; the report has it whole.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

PRESENT, ABSENT = "52101004", "272519000"
"""The SNOMED CT codes of these answers."""
MEAN, STANDARD_DEVIATION = "373098007", "386136009"
"""The SNOMED CT codes of these derivations (CID 7464)."""

LARGEST_SAID = 0.99
"""Of a probability; the smallest is as far from 0."""
DIGITS = 3
"""A measurement of a segmentation is not better than that; of a percentage, one less."""
MOST_DECIMALS = 6
MOST_NAMED = 3
"""Structures or findings in one line; the others are counted."""

UNITS = {
    "1": "",
    "[arb'U]": "(arbitrary units)",
    "[hnsf'U]": "HU",
    "a": "years",
    "mo": "months",
    "d": "days",
    "/min": "per minute",
    "{H.B.}/min": "beats per minute",
    "{beats}/min": "beats per minute",
    "mm2": "mm²",
    "mm3": "mm³",
    "cm2": "cm²",
    "cm3": "cm³",
    "kg/m2": "kg/m²",
    "ml/m2": "ml/m²",
    "g/m2": "g/m²",
    "um": "µm",
}
"""UCUM → as people write it, where that differs."""


def key_finding(result: Row) -> str:
    """The most important of what was found, in one short line: "Left ventricular ejection fraction by MR 47 %". Empty
    if there is no result, as of a study that was refused.
    """
    said = _classes_in_short(result) or _marks_in_short(result) or _numbers_in_short(result)
    return said or _structures_in_short(result) or _nothing(result)


def sentences(result: Row) -> list[str]:
    """All that was found, what was not, what is withheld and why, and the model's limits, each in a sentence. None if
    there is no result, as of a study that was refused.
    """
    found = [*_numbers(result), *_classes(result), *_marks(result), *_structures(result)]
    found = [*found, *_not_found(result), *_withheld(result)] or [f"{text}." for text in [_nothing(result)] if text]
    return [*found, *_circumstances(result)] if found else []


# In one line --------------------------------------------------------------------------------------------------------


def _classes_in_short(result: Row) -> str:
    """What holds, the most probable first; of several questions that are all denied, that they are."""
    classes = _rows(result, "classes")
    held = [each for each in classes if _code(each, "value") != ABSENT]
    if len(classes) > 1 and not held:
        return f"None of {len(classes)} findings present"
    named = sorted(held or classes, key=lambda each: -(_number(each, "probability") or 0.0))
    return _listed([f"{_answer(each)}{_in_brackets(_probability(each))}" for each in named])


def _marks_in_short(result: Row) -> str:
    by_type: dict[str, list[Row]] = {}
    for mark in _rows(result, "marks"):
        by_type.setdefault(_meaning(mark, "code") or _text(mark, "name"), []).append(mark)
    return _listed([_marked(name, marks) for name, marks in by_type.items()])


def _marked(name: str, marks: Sequence[Row]) -> str:
    best = max(marks, key=lambda mark: _number(mark, "probability") or 0.0)
    probability = _probability(best)
    if len(marks) == 1:
        return f"{name}{_in_slice(best)}{_in_brackets(probability)}"
    return f"{name}: {len(marks)} marked{_in_brackets(probability and f'the most probable {probability}')}"


def _numbers_in_short(result: Row) -> str:
    """A percentage, which relates the others to each other, or that there is none; else all numbers."""
    numbers = _rows(result, "numbers")
    shares = [each for each in numbers if _text(each, "unit") == "%"]
    withheld = _rows(result, "not_evaluated")
    if withheld and not shares:
        return f"{_text(withheld[-1], 'name')}: not evaluated"
    return _listed([_quantity(each) for each in shares or numbers])


def _structures_in_short(result: Row) -> str:
    found = [each for each in _rows(result, "findings") if each.get("present")]
    absent = _absent(result)
    if not found:
        return f"Not found: {_listed(absent)}" if absent else ""
    said = [_structure_in_short(each) for each in found]
    return _listed([*said[:1], *map(_small, said[1:])]) + (f"; not found: {_listed(absent)}" if absent else "")


def _structure_in_short(finding: Row) -> str:
    first = _rows(finding, "measurements")[:1]
    return " ".join([_text(finding, "structure") + _at(finding), *map(_value, first)])


def _nothing(result: Row) -> str:
    """Where a model has looked and says nothing; a study that was refused has no engine that read it."""
    has_said = any(_rows(result, key) for key in ("findings", "classes", "marks", "numbers", "not_evaluated"))
    return "" if has_said or not result.get("engine") else "Nothing found"


# In sentences -------------------------------------------------------------------------------------------------------


def _numbers(result: Row) -> Iterator[str]:
    for each in reversed(_rows(result, "numbers")):  # those that follow from others come last, and matter most
        yield f"{_quantity(each)}."


def _classes(result: Row) -> Iterator[str]:
    """Answers, those that hold first. A class may be called otherwise than its answer, so its name is told, too."""
    for each in sorted(_rows(result, "classes"), key=lambda each: _code(each, "value") == ABSENT):
        answer, name, probability = _answer(each), _text(each, "name"), _probability(each)
        certain = f", probability {probability}" if probability else ""
        is_told = name in {"", _meaning(each, "finding"), _meaning(each, "value")}
        yield f"{answer}{certain}{'' if is_told else f' (class “{name}”)'}."


def _marks(result: Row) -> Iterator[str]:
    for each in _rows(result, "marks"):
        probability = _probability(each)
        yield f"{_text(each, 'name')}{_in_slice(each)}{f', probability {probability}' if probability else ''}."


def _structures(result: Row) -> Iterator[str]:
    for each in _rows(result, "findings"):
        if each.get("present"):
            said = ", ".join(_measurements(_rows(each, "measurements"))) or "found"
            yield f"{_text(each, 'structure')}{_at(each)}: {said}."


def _not_found(result: Row) -> Iterator[str]:
    if absent := _absent(result):
        yield f"Looked for and not found: {', '.join(absent)}."


def _withheld(result: Row) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for each in _rows(result, "not_evaluated"):
        by_reason.setdefault(_text(each, "reason"), []).append(_text(each, "name"))
    for reason, names in by_reason.items():
        yield f"Not evaluated: {', '.join(names)}.{f' {_large(reason)}.' if reason else ''}"


def _circumstances(result: Row) -> Iterator[str]:
    """How it was read, as far as that matters to who reads the result."""
    if phases := _phases(result):
        yield phases
    for each in _rows(result, "saliency"):
        if each.get("map") is False:
            yield f"What mattered to “{_text(each, 'name')}” cannot be shown: {_text(each, 'reason')}."
    adapted = result.get("adapted")
    for text in adapted if isinstance(adapted, list) else ():
        yield f"Adapted before the model saw it: {text}."
    if limits := _text(result, "limits").removesuffix("."):
        yield f"{limits}."


def _phases(result: Row) -> str:
    """Which phases of a cine were read, and how they were told."""
    phases = result.get("phases")
    if not isinstance(phases, Mapping):
        return ""
    named = [f"{name} is phase {number}" for name, number in phases.items() if isinstance(number, int)]
    count = len(_rows(phases, "curve"))
    told_by = _text(phases, "told_by")
    if not named:
        return ""
    return _large(f"{' and '.join(named)}{f' of {count}' if count else ''}{f', told by {told_by}' if told_by else ''}.")


# Parts of speech ----------------------------------------------------------------------------------------------------


def _measurements(measurements: Sequence[Row]) -> Iterator[str]:
    """Each measurement in words; a standard deviation stands with its mean."""
    spreads = {_code(each, "code"): each for each in measurements if _code(each, "derivation") == STANDARD_DEVIATION}
    means = {_code(each, "code") for each in measurements if _code(each, "derivation") == MEAN}
    for each in measurements:
        concept, derivation = _code(each, "code"), _code(each, "derivation")
        spread = _number(spreads.get(concept, {}), "value")
        if derivation == STANDARD_DEVIATION and concept in means:
            continue
        if derivation == MEAN and spread is not None:
            value, unit = rounded(_number(each, "value")), _unit(each)
            yield f"{_measured(each)} {_with_unit(f'{value} ± {rounded(spread)}', unit)}"
        else:
            yield f"{_measured(each)} {_value(each)}"


def _measured(measurement: Row) -> str:
    """What was measured, within a sentence: the standard writes "Diameter", but "MR signal intensity"."""
    return " ".join(map(_small, _text(measurement, "name").split(" ")))


def _answer(classification: Row) -> str:
    """The question and its answer: "Pneumonia: absent". The class's name alone could be taken for what was found."""
    question, answer = _meaning(classification, "finding"), _meaning(classification, "value")
    return f"{question or _text(classification, 'name')}: {_small(answer)}" if answer else _text(classification, "name")


def _quantity(number: Row) -> str:
    return f"{_text(number, 'name')} {_value(number)}"


def _value(measurement: Row) -> str:
    return _with_unit(
        rounded(_number(measurement, "value"), digits=2 if _text(measurement, "unit") == "%" else DIGITS),
        _unit(measurement),
    )


def _with_unit(value: str, unit: str) -> str:
    return f"{value} {unit}" if unit else value


def _unit(measurement: Row) -> str:
    unit = _text(measurement, "unit")
    return UNITS.get(unit, unit.strip("{}"))


def rounded(value: float | None, *, digits: int = DIGITS) -> str:
    """A number to so many digits that count, without an exponent: 168, 96.2, 1.89; of more, to a whole one."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if not value:
        return "0"
    decimals = min(MOST_DECIMALS, max(0, digits - 1 - math.floor(math.log10(abs(value)))))
    text = f"{value:.{decimals}f}"
    return text if float(text) else "0"


def _probability(row: Row) -> str:
    """In percent; empty if the model does not tell."""
    probability = _number(row, "probability")
    return "" if probability is None or not math.isfinite(probability) else percent(probability)


def percent(probability: float) -> str:
    """A probability of 0 to 1 in words: no model is as sure as 0 or 100 %."""
    if probability > LARGEST_SAID:
        return "over 99 %"
    return f"{100 * probability:.0f} %" if probability >= 1 - LARGEST_SAID else "under 1 %"


def _in_slice(mark: Row) -> str:
    number = mark.get("slice")
    return f" in slice {number}" if isinstance(number, int) else ""


def _at(finding: Row) -> str:
    phase = _text(finding, "phase")
    return f" at {phase}" if phase else ""


def _absent(result: Row) -> list[str]:
    return [_text(each, "structure") + _at(each) for each in _rows(result, "findings") if not each.get("present")]


def _listed(said: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(said) - MOST_NAMED
    return ", ".join(said[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _small(text: str) -> str:
    """As it stands within a sentence; what begins with an abbreviation, such as "MR signal", stays."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _large(text: str) -> str:
    return text[:1].upper() + text[1:]


# What a result has --------------------------------------------------------------------------------------------------


def _rows(row: Row, key: str) -> list[Row]:
    """The rows under a key; none if it is not there, or something else."""
    rows = row.get(key)
    return [each for each in rows if isinstance(each, Mapping)] if isinstance(rows, list | tuple) else []


def _text(row: Row, key: str) -> str:
    text = row.get(key)
    return text if isinstance(text, str) else ""


def _number(row: Row, key: str) -> float | None:
    number = row.get(key)
    return float(number) if isinstance(number, int | float) and not isinstance(number, bool) else None


def _code(row: Row, key: str) -> str:
    return _part(row, key, 0)


def _meaning(row: Row, key: str) -> str:
    return _part(row, key, 2)


def _part(row: Row, key: str, place: int) -> str:
    """Of a code: its value (0), scheme (1) or meaning (2)."""
    code = row.get(key)
    part = code[place] if isinstance(code, list | tuple) and len(code) > place else ""
    return part if isinstance(part, str) else ""

"""Whether what a model found meets an alert's conditions: a pure function of both.

What is not told (a structure that was not looked for, a class without a probability, a number in another unit) meets no
condition and no condition's contrary.
"""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coread.errors import ConfigurationError
from coread.models.manifest import Manifest
from coread.settings_alerts import AlertSettings, Condition
from coread.words import percent

Row = Mapping[str, Any]

ABSENT = "272519000"
"""SNOMED CT: Absent."""

COMPARED: Mapping[str, tuple[Callable[[float, float], bool], str]] = {
    "more_than": (operator.gt, "more than"),
    "at_least": (operator.ge, "at least"),
    "less_than": (operator.lt, "less than"),
    "at_most": (operator.le, "at most"),
}

SIDE = re.compile(r"^(left|right|bilateral|right and left) ")
"""How the name of a structure begins that is told apart by its side."""

NUMBERED = re.compile(r" [0-9]+$")
"""How the name of a mark ends of which there may be several."""


@dataclass(frozen=True, kw_only=True)
class Met:
    """What came of one condition."""

    is_met: bool
    words: str
    """What met it; else what was expected and found."""


def matches(alert: AlertSettings, result: Row) -> list[Met]:
    """What came of each of an alert's conditions on a job's result JSON; the alert holds if all are met.

    One of another model meets nothing.
    """
    if result.get("model") != alert.model:
        return [Met(is_met=False, words=f"expected a result of {alert.model}, found one of {result.get('model')}")]
    return [_met(condition, result) for condition in alert.when]


def holds(alert: AlertSettings, result: Row) -> bool:
    """Whether an alert's conditions are all met."""
    return all(each.is_met for each in matches(alert, result))


def words_of(alert: AlertSettings, result: Row) -> str:
    """What met the conditions, for people."""
    return "; ".join(dict.fromkeys(each.words for each in matches(alert, result) if each.is_met))


def _met(condition: Condition, result: Row) -> Met:
    expected = expectation(condition)
    found = list(_candidates(condition, result))
    for words, value in found:
        if all(value is not None and COMPARED[name][0](value, limit) for name, limit in condition.comparisons.items()):
            return Met(is_met=True, words=words)
    told = ", ".join(words for words, _ in found) or "nothing of the kind"
    return Met(is_met=False, words=f"expected {expected}, found {told}")


def expectation(condition: Condition) -> str:
    """A condition in words."""
    name = condition.about(condition.kind)
    if condition.measurement:
        name = f"{name}, {condition.measurement}"
    if condition.phase:
        name = f"{name} at {condition.phase}"
    what = f"{condition.kind} {name}"
    if condition.answer:
        what += f" to be {condition.answer}"
    if condition.present is False:
        what += " to be absent"
    unit = f" {condition.unit}" if condition.unit else ""
    compared = [f"{COMPARED[each][1]} {value:g}{unit}" for each, value in condition.comparisons.items()]
    return " ".join([what, " and ".join(compared)]).strip()


def _candidates(condition: Condition, result: Row) -> Iterator[tuple[str, float | None]]:
    """What of the result the condition is about, each in words and with the number that is compared."""
    match condition.kind:
        case "class":
            yield from _classes(condition, result)
        case "number":
            for row in _named(condition.number, result.get("numbers", ())):
                yield from _with_unit(condition, str(row["name"]), row)
        case "mark":
            for row in _named(condition.mark, result.get("marks", ())):
                yield f"{row['name']} in slice {row['slice']}{_percent(row['probability'])}", row["probability"]
        case _:
            yield from _structures(condition, result)


def _classes(condition: Condition, result: Row) -> Iterator[tuple[str, float | None]]:
    for row in result.get("classes", ()):
        answer = row["value"]
        if not (_is_called(condition.of_class, row["name"], row["finding"]) or _is_coded(condition.of_class, answer)):
            continue
        if _is_coded(condition.answer, answer) if condition.answer else answer[0] != ABSENT:
            yield f"{row['finding'][2]}: {answer[2]}{_percent(row['probability'])}", row["probability"]


def _structures(condition: Condition, result: Row) -> Iterator[tuple[str, float | None]]:
    for row in result.get("findings", ()):
        if not _is_called(condition.structure, row["structure"], row["code"]):
            continue
        if condition.phase is not None and condition.phase != row.get("phase"):
            continue
        where = f" at {row['phase']}" if row.get("phase") else ""
        name = f"{row['structure']}{where}"
        if condition.measurement is None:
            if row["present"] is (condition.present is not False):
                yield f"{name} {'present' if row['present'] else 'absent'}", None
            continue
        for measured in row["measurements"] if row["present"] else ():
            if _is_called(condition.measurement, measured["name"], measured["code"]):
                yield from _with_unit(condition, f"{name}, {measured['name']}", measured)


def _with_unit(condition: Condition, name: str, row: Row) -> Iterator[tuple[str, float | None]]:
    is_same = row["unit"] == condition.unit
    yield f"{name} {row['value']:.4g} {row['unit']}", float(row["value"]) if is_same else None


def _named(wanted: str | None, rows: Iterable[Row]) -> Iterator[Row]:
    return (row for row in rows if _is_called(wanted, row["name"], row["code"]))


def _is_called(wanted: str | None, name: str, code: Sequence[Any]) -> bool:
    """Whether somebody who names a finding means this one: by its name, without side or number, or by its concept."""
    plain = NUMBERED.sub("", name.casefold())
    return str(wanted).casefold() in (name.casefold(), plain, SIDE.sub("", plain)) or _is_coded(wanted, code)


def _is_coded(wanted: str | None, code: Sequence[Any]) -> bool:
    """``code``: value, scheme, meaning."""
    return str(wanted).casefold() in (str(code[0]).casefold(), str(code[2]).casefold())


def _percent(probability: float | None) -> str:
    return "" if probability is None else f" ({percent(probability)})"


# Against the model ----------------------------------------------------------------------------------------------------


def check_alerts(alerts: Iterable[AlertSettings], manifests: Mapping[str, Manifest]) -> None:
    """Raises ConfigurationError if an alert asks for what its model never finds."""
    for alert in alerts:
        manifest = manifests.get(alert.model)
        if manifest is None:
            known = ", ".join(sorted(manifests)) or "none"
            raise ConfigurationError(f"alert {alert.name}: expected an installed model, found {alert.model}; {known}")
        for condition in alert.when:
            known_names = _names_in(manifest, condition)
            name = condition.about(condition.kind) or ""
            if name.casefold() not in {each.casefold() for each in known_names}:
                there = ", ".join(dict.fromkeys(known_names)) or f"it finds no {condition.kind}"
                raise ConfigurationError(
                    f"alert {alert.name}: expected a {condition.kind} that {alert.model} finds, found {name}; "
                    f"there are: {there}"
                )
            _check_unit(alert, condition, manifest)


def _names_in(manifest: Manifest, condition: Condition) -> list[str]:
    match condition.kind:
        case "class":
            of_classes = manifest.classes.values()
            codes = [code for each in of_classes for code in (each.finding, each.value) if code]
            return [*(each.name for each in of_classes), *_words_of(codes)]
        case "number":
            phases = manifest.phases
            codes = [each.concept for each in manifest.numbers.values()]
            of_phases = (
                (phases.stroke_volume, phases.fraction, phases.filled.volume, phases.emptied.volume) if phases else ()
            )
            return [*(each.name for each in manifest.numbers.values()), *_words_of([*codes, *of_phases])]
        case _:
            meanings = manifest.labels.values()
            return [*(each.name for each in meanings), *_words_of([each.type for each in meanings])]


def _words_of(codes: Iterable[Any]) -> list[str]:
    return [word for code in codes for word in (code.meaning, code.value)]


def _check_unit(alert: AlertSettings, condition: Condition, manifest: Manifest) -> None:
    for each in manifest.numbers.values():
        is_meant = str(condition.number).casefold() in {
            each.name.casefold(),
            each.concept.meaning.casefold(),
            each.concept.value,
        }
        if condition.number and is_meant and condition.unit != each.unit.value:
            raise ConfigurationError(
                f"alert {alert.name}: expected the unit {each.unit.value} of {each.name}, found {condition.unit}"
            )

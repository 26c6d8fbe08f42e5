"""What is said of a job's result in plain English."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coread import codes
from coread.words import key_finding, rounded, sentences

CLASS = {"name": "Bacterial pneumonia", "finding": ["233604007", "SCT", "Pneumonia", None]}
BACTERIAL = {**CLASS, "value": ["53084003", "SCT", "Bacterial pneumonia", None], "probability": 0.931}
"""One of several classes that exclude each other."""


def measurement(name: str, value: float, unit: str, *, derivation: Any = None) -> dict[str, Any]:
    concept = name.removeprefix(f"{derivation[2]} ") if derivation else name
    code = [f"code of {concept}", "SCT", concept, None]
    return {
        "name": name,
        "code": code,
        "derivation": list(derivation) if derivation else None,
        "value": value,
        "unit": unit,
    }


def finding(name: str, *measurements: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "structure": name,
        "code": ["1", "SCT", name, None],
        "present": True,
        "measurements": measurements,
        **more,
    }


def absent(name: str) -> dict[str, Any]:
    return finding(name, present=False)


def number(name: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "code": ["1", "LN", name, None], "value": value, "unit": unit}


def asked(name: str, code: str, meaning: str, probability: float | None) -> dict[str, Any]:
    """The answer to a question that has others beside it."""
    return {
        "name": name,
        "finding": ["1", "SCT", name, None],
        "value": [code, "SCT", meaning, None],
        "probability": probability,
    }


def mark(name: str, plane: int, probability: float | None) -> dict[str, Any]:
    return {"name": name, "code": ["27925004", "SCT", "Nodule", None], "slice": plane, "probability": probability}


VENTRICLE: dict[str, Any] = {
    "findings": [
        finding(
            "Left ventricular myocardium",
            measurement("Volume", 96.226, "ml"),
            measurement("Mean MR signal intensity", 60.979, "[arb'U]", derivation=codes.MEAN),
            measurement(
                "Standard Deviation MR signal intensity", 27.376, "[arb'U]", derivation=codes.STANDARD_DEVIATION
            ),
            measurement("Maximum Diameter", 96.014, "mm", derivation=codes.MAXIMUM),
        ),
        finding("Left ventricular cavity", measurement("Volume", 168.377, "ml")),
    ],
    "limits": "Demonstration model; not for diagnosis.",
}
CYCLE: dict[str, Any] = {
    "findings": [
        finding("Left ventricular cavity", measurement("Volume", 102.3, "ml"), phase="end-diastole"),
        finding("Left ventricular cavity", measurement("Volume", 54.04, "ml"), phase="end-systole"),
    ],
    "numbers": [
        number("Left Ventricular ED Volume", 102.3, "ml"),
        number("Left Ventricular ES Volume", 54.04, "ml"),
        number("Left ventricular ejection fraction by MR", 47.17, "%"),
    ],
    "phases": {
        "told_by": "TriggerTime",
        "end-diastole": 1,
        "end-systole": 5,
        "curve": [{"phase": 1, "time_ms": 0.0, "volume_ml": 102.3}] * 10,
    },
}


def test_structures_are_told_by_their_size_and_then_with_all_measurements() -> None:
    assert key_finding(VENTRICLE) == "Left ventricular myocardium 96.2 ml, left ventricular cavity 168 ml"
    myocardium, cavity, limits = sentences(VENTRICLE)
    measured = "volume 96.2 ml, mean MR signal intensity 61.0 ± 27.4 (arbitrary units), maximum diameter 96.0 mm"
    assert myocardium == f"Left ventricular myocardium: {measured}."
    assert cavity == "Left ventricular cavity: volume 168 ml."
    assert limits == "Demonstration model; not for diagnosis."


def test_of_a_cycle_the_ejection_fraction_comes_first() -> None:
    assert key_finding(CYCLE) == "Left ventricular ejection fraction by MR 47 %"
    assert sentences(CYCLE) == [
        "Left ventricular ejection fraction by MR 47 %.",
        "Left Ventricular ES Volume 54.0 ml.",
        "Left Ventricular ED Volume 102 ml.",
        "Left ventricular cavity at end-diastole: volume 102 ml.",
        "Left ventricular cavity at end-systole: volume 54.0 ml.",
        "End-diastole is phase 1 and end-systole is phase 5 of 10, told by TriggerTime.",
    ]


def test_a_number_that_is_withheld_is_said_to_be_with_the_reason() -> None:
    withheld = [
        {"name": name, "code": ["1", "LN", name, None], "reason": "expected two phases, found one"}
        for name in ("Stroke Volume", "Ejection fraction")
    ]
    result = {**CYCLE, "numbers": CYCLE["numbers"][:2], "not_evaluated": withheld}
    assert key_finding(result) == "Ejection fraction: not evaluated"
    assert "Not evaluated: Stroke Volume, Ejection fraction. Expected two phases, found one." in sentences(result)


def test_a_class_is_told_by_its_answer_and_never_by_its_name_alone() -> None:
    assert key_finding({"classes": [BACTERIAL]}) == "Pneumonia: bacterial pneumonia (93 %)"
    normal = {**CLASS, "name": "Pneumonia model", "value": ["272519000", "SCT", "Absent", None], "probability": 0.999}
    assert key_finding({"classes": [normal]}) == "Pneumonia: absent (over 99 %)"
    assert sentences({"classes": [normal]}) == ["Pneumonia: absent, probability over 99 % (class “Pneumonia model”)."]


def test_of_several_questions_those_that_hold_are_told_the_most_probable_first() -> None:
    classes = [
        asked("Effusion", "52101004", "Present", 0.61),
        asked("Nodule", "272519000", "Absent", 0.7),
        asked("Pneumothorax", "52101004", "Present", 0.92),
    ]
    assert key_finding({"classes": classes}) == "Pneumothorax: present (92 %), Effusion: present (61 %)"
    assert sentences({"classes": classes})[-1] == "Nodule: absent, probability 70 %."
    assert key_finding({"classes": classes[1:2] * 14}) == "None of 14 findings present"


def test_marks_are_counted_and_told_with_their_slices() -> None:
    marks = [mark("Nodule 1", 12, 0.93), mark("Nodule 2", 4, 0.5)]
    assert key_finding({"marks": marks}) == "Nodule: 2 marked (the most probable 93 %)"
    assert key_finding({"marks": marks[:1]}) == "Nodule in slice 12 (93 %)"
    assert key_finding({"marks": [mark("Apex", 3, None)]}) == "Nodule in slice 3"
    assert sentences({"marks": marks}) == [
        "Nodule 1 in slice 12, probability 93 %.",
        "Nodule 2 in slice 4, probability 50 %.",
    ]


def test_what_was_not_found_is_said() -> None:
    nothing = {"findings": [absent("Spleen"), absent("Liver")]}
    assert key_finding(nothing) == "Not found: Spleen, Liver"
    assert sentences(nothing) == ["Looked for and not found: Spleen, Liver."]
    some = {"findings": [finding("Kidney", measurement("Volume", 150.0, "ml")), absent("Spleen")]}
    assert key_finding(some) == "Kidney 150 ml; not found: Spleen"


def test_a_hundred_structures_are_one_short_line() -> None:
    organs = [finding(f"Organ {number}", measurement("Volume", number, "ml")) for number in range(1, 105)]
    assert key_finding({"findings": organs}) == "Organ 1 1.00 ml, organ 2 2.00 ml, organ 3 3.00 ml and 101 more"
    assert len(sentences({"findings": organs})) == 104


def test_a_refused_study_has_no_finding_and_one_that_was_read_has_at_least_nothing() -> None:
    empty: dict[str, Any] = {"findings": [], "classes": [], "numbers": [], "marks": [], "limits": "For tests"}
    assert (key_finding(empty), sentences(empty)) == ("", [])
    read = {**empty, "engine": "torch"}
    assert (key_finding(read), sentences(read)) == ("Nothing found", ["Nothing found.", "For tests."])
    assert (key_finding({}), sentences({})) == ("", [])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (168.377, "168"),
        (96.226, "96.2"),
        (1.886, "1.89"),
        (0.01234, "0.0123"),
        (12345.6, "12346"),
        (0.0, "0"),
        (-0.0000000001, "0"),
        (-4.56, "-4.56"),
        (99.96, "100.0"),
        (float("nan"), "unknown"),
        (float("inf"), "unknown"),
        (None, "unknown"),
    ],
)
def test_numbers_are_rounded_to_what_such_a_measurement_is_good_for(value: float | None, text: str) -> None:
    assert rounded(value) == text


TEXT = st.text(max_size=12)
NUMBER = st.none() | st.floats() | st.integers()
CODE = st.none() | st.lists(st.none() | TEXT, max_size=4) | st.sampled_from([list(codes.PRESENT), list(codes.ABSENT)])
CODE |= st.sampled_from([list(codes.MEAN), list(codes.STANDARD_DEVIATION)])


def rows(**columns: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Rows of which any column may lack."""
    return st.lists(st.fixed_dictionaries({}, optional=columns), max_size=4)


MEASUREMENTS = rows(name=TEXT, code=CODE, derivation=CODE, value=NUMBER, unit=TEXT)
RESULTS = st.fixed_dictionaries(
    {},
    optional={
        "findings": rows(structure=TEXT, code=CODE, present=st.booleans(), measurements=MEASUREMENTS, phase=TEXT),
        "classes": rows(name=TEXT, finding=CODE, value=CODE, probability=NUMBER),
        "numbers": rows(name=TEXT, code=CODE, value=NUMBER, unit=TEXT),
        "marks": rows(name=TEXT, code=CODE, slice=NUMBER, probability=NUMBER),
        "not_evaluated": rows(name=TEXT, code=CODE, reason=TEXT),
        "saliency": rows(name=TEXT, map=st.booleans(), reason=TEXT),
        "phases": st.dictionaries(TEXT, NUMBER | TEXT) | st.fixed_dictionaries({"curve": rows(phase=NUMBER)}),
        "adapted": st.lists(TEXT),
        "limits": TEXT,
        "engine": TEXT,
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=8,
)
KEYS = ("findings", "classes", "numbers", "marks", "not_evaluated", "saliency", "phases", "adapted", "limits", "engine")


@given(RESULTS | st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)))
def test_every_result_has_words_whatever_lacks_in_it(result: dict[str, Any]) -> None:
    assert isinstance(key_finding(result), str)
    assert all(isinstance(sentence, str) and sentence for sentence in sentences(result))
    if any(each.get("present") and each.get("structure") for each in rows_of(result, "findings")):
        assert key_finding(result)


def rows_of(result: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = result.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

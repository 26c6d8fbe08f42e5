"""Which findings meet which alert."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coread.alerts import check_alerts, expectation, holds, matches, words_of
from coread.errors import ConfigurationError
from coread.models.catalogue import installed_models
from coread.settings import Settings
from coread.settings_alerts import COMPARISONS, AlertSettings, Condition

RESULT: dict[str, Any] = {
    "model": "m",
    "findings": [
        {
            "phase": "end-diastole",
            "structure": "Left ventricular cavity",
            "code": ["87612001", "SCT", "Blood", None],
            "present": True,
            "measurements": [
                {"name": "Volume", "code": ["118565006", "SCT", "Volume", None], "value": 140.0, "unit": "ml"},
            ],
        },
        {
            "structure": "Haemorrhage",
            "code": ["50960005", "SCT", "Hemorrhage", None],
            "present": False,
            "measurements": [],
        },
        {
            "structure": "Right kidney",
            "code": ["64033007", "SCT", "Kidney", None],
            "present": True,
            "measurements": [],
        },
    ],
    "classes": [
        {
            "name": "Pneumothorax",
            "finding": ["36118008", "SCT", "Pneumothorax", None],
            "value": ["52101004", "SCT", "Present", None],
            "probability": 0.93,
        },
        {
            "name": "Fracture",
            "finding": ["125605004", "SCT", "Fracture", None],
            "value": ["272519000", "SCT", "Absent", None],
            "probability": 0.99,
        },
        {
            "name": "Bacterial",
            "finding": ["233604007", "SCT", "Pneumonia", None],
            "value": ["53084003", "SCT", "Bacterial pneumonia", None],
            "probability": None,
        },
    ],
    "numbers": [
        {
            "name": "EF",
            "code": ["10230-1", "LN", "Left ventricular Ejection Fraction", None],
            "value": 31.0,
            "unit": "%",
        }
    ],
    "marks": [{"name": "Nodule 2", "code": ["27925004", "SCT", "Nodule", None], "slice": 12, "probability": 0.6}],
}


def alert(*when: dict[str, Any], **more: Any) -> AlertSettings:
    return AlertSettings.model_validate({"name": "a", "model": "m", "priority": "stat", "when": list(when), **more})


@pytest.mark.parametrize(
    ("when", "is_met"),
    [
        ({"class": "Pneumothorax"}, True),
        ({"class": "pneumothorax", "at_least": 0.93}, True),
        ({"class": "Pneumothorax", "more_than": 0.93}, False),
        ({"class": "36118008"}, True),
        ({"class": "Fracture"}, False),
        ({"class": "Fracture", "answer": "Absent"}, True),
        ({"class": "Pneumothorax", "answer": "Absent"}, False),
        ({"class": "Pneumonia", "answer": "Bacterial pneumonia"}, True),
        ({"class": "Bacterial pneumonia"}, True),
        ({"class": "Bacterial", "at_least": 0.0}, False),
        ({"class": "Emphysema"}, False),
        ({"number": "Left ventricular Ejection Fraction", "less_than": 35, "unit": "%"}, True),
        ({"number": "EF", "at_least": 20, "at_most": 31, "unit": "%"}, True),
        ({"number": "EF", "less_than": 35, "unit": "1"}, False),
        ({"structure": "Haemorrhage"}, False),
        ({"structure": "Haemorrhage", "present": False}, True),
        ({"structure": "Kidney"}, True),
        ({"structure": "Right kidney"}, True),
        ({"structure": "Left kidney"}, False),
        ({"structure": "Spleen", "present": False}, False),
        ({"structure": "Left ventricular cavity", "measurement": "Volume", "more_than": 120, "unit": "ml"}, True),
        ({"structure": "Left ventricular cavity", "measurement": "Volume", "more_than": 120, "unit": "mm3"}, False),
        (
            {
                "structure": "Left ventricular cavity",
                "measurement": "Volume",
                "more_than": 120,
                "unit": "ml",
                "phase": "end-systole",
            },
            False,
        ),
        ({"structure": "Haemorrhage", "measurement": "Volume", "at_most": 5, "unit": "ml"}, False),
        ({"mark": "nodule"}, True),
        ({"mark": "Nodule 2", "at_least": 0.5}, True),
        ({"mark": "Nodule", "at_least": 0.7}, False),
    ],
    ids=str,
)
def test_a_condition_is_met_by_what_it_names(when: dict[str, Any], is_met: bool) -> None:
    assert holds(alert(when), RESULT) == is_met


def test_all_conditions_must_hold_and_each_is_explained() -> None:
    both = alert({"class": "Pneumothorax"}, {"number": "EF", "more_than": 50, "unit": "%"})
    assert not holds(both, RESULT)
    assert [each.words for each in matches(both, RESULT)] == [
        "Pneumothorax: Present (93 %)",
        "expected number EF more than 50 %, found EF 31 %",
    ]
    assert words_of(alert({"class": "Pneumothorax"}, {"mark": "Nodule"}), RESULT) == (
        "Pneumothorax: Present (93 %); Nodule 2 in slice 12 (60 %)"
    )


def test_another_models_result_meets_nothing() -> None:
    assert not holds(alert({"class": "Pneumothorax"}, model="other"), RESULT)


@given(
    value=st.floats(allow_nan=True),
    limit=st.floats(allow_nan=False, allow_infinity=False),
    comparison=st.sampled_from(COMPARISONS),
)
def test_a_number_meets_a_comparison_or_its_contrary_and_none_if_it_is_no_number(
    value: float, limit: float, comparison: str
) -> None:
    result = copy.deepcopy(RESULT)
    result["numbers"][0]["value"] = value
    contrary = {
        "more_than": "at_most",
        "at_most": "more_than",
        "less_than": "at_least",
        "at_least": "less_than",
    }[comparison]
    met = [holds(alert({"number": "EF", "unit": "%", which: limit}), result) for which in (comparison, contrary)]
    assert sum(met) == (0 if value != value else 1)  # only what is no number is not itself


@given(
    result=st.dictionaries(
        st.sampled_from(["findings", "classes", "numbers", "marks", "other"]), st.just([]) | st.none()
    )
)
def test_a_result_that_tells_nothing_meets_nothing(result: dict[str, Any]) -> None:
    told = {key: rows or [] for key, rows in result.items()}
    for when in ({"class": "a"}, {"structure": "a", "present": False}, {"mark": "a"}):
        assert not holds(alert(when), {"model": "m", **told})


@given(order=st.permutations(range(3)))
def test_the_order_of_findings_does_not_matter(order: list[int]) -> None:
    shuffled = {**RESULT, "classes": [RESULT["classes"][place] for place in order]}
    for when in ({"class": "Pneumothorax", "at_least": 0.9}, {"class": "Fracture"}):
        assert holds(alert(when), shuffled) == holds(alert(when), RESULT)


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({}, "expected one of class, number, structure, mark, found none"),
        ({"class": "a", "mark": "b"}, "found class, mark"),
        ({"number": "a", "more_than": 1}, "needs a unit"),
        ({"number": "a", "unit": "ml"}, "needs a unit and one of"),
        ({"structure": "a", "more_than": 1}, "needs the measurement"),
        ({"class": "a", "measurement": "Volume"}, "measurement is of a structure, found a class"),
        ({"class": "a", "more_than": 1.5}, "probability from 0 to 1"),
        ({"class": "a", "unit": "%"}, "a probability has none"),
        ({"structure": "a", "measurement": "V", "unit": "ml", "at_least": 1, "present": False}, "nothing was measured"),
        ({"class": "a", "equals": 1}, "Extra inputs"),
    ],
    ids=str,
)
def test_a_condition_that_makes_no_sense_is_an_error(when: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Condition.model_validate(when)


@pytest.mark.parametrize(
    ("model", "when", "said"),
    [
        ("nobody", {"class": "a"}, "expected an installed model"),
        ("chest_xray_pneumonia", {"class": "Pneumothorax"}, "there are: "),
        ("chest_xray_pneumonia", {"structure": "Lung"}, "it finds no structure"),
        ("left_ventricle_sax", {"number": "Heart rate", "more_than": 1, "unit": "/min"}, "expected a number that"),
        ("chest_xray_pneumonia", {"class": "Bacterial pneumonia"}, ""),
        ("left_ventricle_sax", {"structure": "Left ventricular cavity"}, ""),
        ("left_ventricle_sax", {"number": "8811-2", "less_than": 35, "unit": "%"}, ""),
    ],
)
def test_what_a_model_never_finds_is_said_at_the_start(model: str, when: dict[str, Any], said: str) -> None:
    manifests = {name: each.manifest for name, each in installed_models(Settings()).items()}
    wanted = [alert(when, model=model)]
    if not said:
        check_alerts(wanted, manifests)
        return
    with pytest.raises(ConfigurationError, match=said):
        check_alerts(wanted, manifests)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"alert": [{"name": "a", "model": "m", "when": {"class": "c"}}]}, "alert a does nothing"),
        (
            {"alert": [{"name": "a", "model": "m", "when": {"class": "c"}, "webhooks": ["ris"]}]},
            "there is no webhook ris; there are: none",
        ),
        (
            {"alert": [{"name": "a", "model": "m", "when": {"class": "c"}, "email": ["a@b"]}]},
            "set notify.smtp_host and notify.sender",
        ),
        ({"alert": [{"name": "a", "model": "m", "when": {"class": "c"}, "priority": "batch"}]}, "'stat'"),
        ({"alert": [{"name": "a", "model": "m", "when": {"class": "c"}, "label": "urgent"}]}, "label"),
        ({"webhook": [{"name": "ris", "url": "http://ris", "secret": "short"}]}, "at least 16"),
        ({"notify": {"smtp_host": "mail"}}, "smtp_host and sender together"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_an_alert_that_nobody_would_hear_is_an_error(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Settings.model_validate(values)


def test_a_condition_is_said_in_words() -> None:
    when = {"structure": "Cavity", "measurement": "Volume", "phase": "end-systole", "at_least": 9, "unit": "ml"}
    assert expectation(Condition.model_validate(when)) == "structure Cavity, Volume at end-systole at least 9 ml"


def test_a_class_that_is_named_by_what_is_absent_is_told_by_question_and_answer() -> None:
    pneumonia = ["233604007", "SCT", "Pneumonia", None]
    row = {
        "name": "No pneumonia",
        "finding": pneumonia,
        "value": ["272519000", "SCT", "Absent", None],
        "probability": 0.999,
    }
    told = words_of(alert({"class": "Pneumonia", "answer": "Absent"}), {"model": "m", "classes": [row]})
    assert told == "Pneumonia: Absent (over 99 %)"

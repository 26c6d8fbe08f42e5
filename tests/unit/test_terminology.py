import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom.sr._concepts_dict import concepts

from coread.models.manifest import CodeTriple
from coread.models.terminology import BACKGROUND, LATERALITY, NORMAL, TERMINOLOGY, Entry, Table, Term, lookup
from coread.models.yaml_file import read_yaml

TABLE = read_yaml(TERMINOLOGY, Table)
ENTRIES = [entry for group in TABLE.groups for entry in group.terms]

SIDES = ("left", "right")
VERTEBRAE = [f"vertebrae_{part}{n}" for part, count in (("C", 7), ("T", 12), ("L", 5)) for n in range(1, count + 1)]
PAIRED = """kidney adrenal_gland lung_upper_lobe lung_lower_lobe heart_atrium heart_ventricle iliac_artery iliac_vena
    humerus scapula clavicula femur hip gluteus_maximus gluteus_medius gluteus_minimus autochthon iliopsoas"""
SINGLE = """spleen gallbladder liver stomach aorta inferior_vena_cava portal_vein_and_splenic_vein pancreas
    lung_middle_lobe_right esophagus trachea heart_myocardium pulmonary_artery brain small_bowel duodenum colon sacrum
    face urinary_bladder"""
TOTAL_SEGMENTATOR = [
    *SINGLE.split(),
    *VERTEBRAE,
    *(f"{name}_{side}" for name in PAIRED.split() for side in SIDES),
    *(f"rib_{side}_{number}" for side in SIDES for number in range(1, 13)),
]
"""The 104 names of its first version, which the zoo's wholeBody_ct_segmentation has."""

TOTAL_SEGMENTATOR_2 = """heart pulmonary_vein brachiocephalic_trunk subclavian_artery_left common_carotid_artery_right
    brachiocephalic_vein_left atrial_appendage_left superior_vena_cava kidney_cyst_right prostate thyroid_gland
    vertebrae_S1 spinal_cord skull sternum costal_cartilages"""

BTCV = [
    "spleen",
    "Right Kidney",
    "Left Kideny",
    "Gallbladder",
    "Esophagus",
    "Liver",
    "Stomach",
    "Aorta",
    "IVC",
    "Portal and Splenic Veins",
    "Pancreas",
    "Right adrenal gland",
    "Left adrenal gland",
]
OTHERS = [
    *("Tumor core", "Whole tumor", "Enhancing tumor", "peritumoral edema", "necrotic tumor core", "necrosis"),
    *("LV", "RV", "lv_pool", "rv_pool", "myocardium", "left atrium", "right_atrium", "left ventricular myocardium"),
    *("hippocampus anterior", "Posterior hippocampus", "Right-Hippocampus", "Left-Thalamus-Proper", "3rd-Ventricle"),
    *("prostate", "peripheral zone of the prostate", "prostate_transition_zone"),
    *("pancreatic tumor", "hepatic tumour", "kidney mass", "liver lesions", "left kidney cyst", "bone lesion"),
    *("hepatic vessel", "coronary arteries", "vein", "artery", "lymph nodes", "airway", "left rib 1", "vertebrae L6"),
    *("lung nodule", "nodule", "pleural effusion", "pneumothorax", "cardiomegaly", "intracranial haemorrhage", "mass"),
    *("breast density A", "Heterogeneously dense", "normal", "No finding", "background"),
]


def codes_of(entry: Entry) -> Iterator[CodeTriple]:
    yield from filter(None, (entry.type, entry.anatomy, entry.value))


ALL_CODES = {
    *(code for entry in ENTRIES for code in codes_of(entry)),
    *(group.category for group in TABLE.groups if group.category),
    *LATERALITY.values(),
    BACKGROUND,
    NORMAL,
}


def in_dictionary(code: CodeTriple) -> set[int]:
    """The context groups in which pydicom's dictionary has the code with this very meaning."""
    tables: Any = concepts[code.scheme]
    listed = [values[code.value] for values in tables.values() if code.value in values]
    return {group for meaning, groups in listed if meaning == code.meaning for group in groups}


def found(name: str) -> Term:
    term = lookup(name)
    assert term is not None, f"{name} is not in the table"
    return term


@pytest.mark.parametrize("code", sorted(ALL_CODES), ids=str)
def test_dicom_lists_the_code_with_this_meaning(code: CodeTriple) -> None:
    assert code.scheme in {"SCT", "DCM"}
    assert in_dictionary(code)


def test_categories_and_sides_are_of_the_groups_that_dicom_has_for_them() -> None:
    assert all(7150 in in_dictionary(group.category) for group in TABLE.groups if group.category)
    assert all(244 in in_dictionary(code) for code in LATERALITY.values())


@pytest.mark.parametrize("name", [*TOTAL_SEGMENTATOR, *TOTAL_SEGMENTATOR_2.split(), *BTCV, *OTHERS])
def test_what_models_name_is_found(name: str) -> None:
    assert lookup(name) is not None


def test_all_names_of_the_total_segmentator_are_tried() -> None:
    assert len(set(TOTAL_SEGMENTATOR)) == 104


def test_no_two_terms_have_the_same_name() -> None:
    meant = [(term, entry) for entry in ENTRIES for name in entry.names if (term := lookup(name))]
    assert len(meant) == sum(len(entry.names) for entry in ENTRIES)
    assert all(
        (term.type, term.anatomy, term.value) == (entry.type, entry.anatomy, entry.value) for term, entry in meant
    )


def test_colours_are_colours() -> None:
    assert all(0 <= part <= 255 for entry in ENTRIES for part in entry.colour)


@pytest.mark.parametrize("name", ["kidney_right", "right kidney", "Right-Kidney", "KIDNEYS RIGHT", "the right kidney"])
def test_spelling_case_plural_and_order_do_not_matter(name: str) -> None:
    assert found(name) == found("kidney right")
    assert found(name).type.meaning == "Kidney"


@pytest.mark.parametrize("name", ["kidney", "rib 7", "lung_upper_lobe", "gluteus medius", "lung nodule", "femur"])
def test_the_side_is_a_code_of_its_own(name: str) -> None:
    left, right, either = found(f"left {name}"), found(f"{name}_right"), found(name)
    assert (left.laterality, right.laterality, either.laterality) == (*LATERALITY.values(), None)
    assert left.type == right.type == either.type
    assert left.colour != right.colour


@pytest.mark.parametrize("name", ["left ventricle", "heart_atrium_right", "right middle lobe", "left atrial appendage"])
def test_a_type_that_says_the_side_gets_no_second_one(name: str) -> None:
    assert found(name).laterality is None
    assert re.search("left|right", found(name).type.meaning, re.IGNORECASE)


@pytest.mark.parametrize(
    "name",
    [
        *("", "image", "A", "ventricle", "tool", "category 1", "prostate or uterus", "live", "kidne", "spleens 2"),
        *("right liver", "left right kidney", "left left kidney", "rib 13", "vertebrae_T13", "middle lobe"),
        *("kidney and tumor", "liver, tumor", "liver/tumor", "non-enhancing tumor", "no pneumothorax"),
    ],
)
def test_what_is_not_in_the_table_is_not_guessed(name: str) -> None:
    assert lookup(name) is None


def test_the_answers_of_breast_density_are_answers_to_one_question() -> None:
    terms = [found(f"breast density {letter}") for letter in "abcd"]
    assert {term.type.meaning for term in terms} == {"Breast composition"}
    assert len({term.value for term in terms}) == 4
    assert all(term.category is None for term in terms)

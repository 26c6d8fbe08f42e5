"""Rules for the content tree of every structured report and key object selection: items of their value types, in
relationships that the class allows (PS3.3 A.35, C.17.3).
"""

from collections.abc import Iterator, Mapping, Sequence

from pydicom.dataset import Dataset

from coread.dicom_sr.validation.codes import code_value
from coread.dicom_sr.validation.problem import Problem, Subject, problems_of

_tree = problems_of("content tree", "PS3.3 C.17.3")
_relationship = problems_of("relationship", "PS3.3 A.35")
_document = problems_of("document", "PS3.3 C.17.2")

KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
_BASIC = frozenset(
    {"TEXT", "CODE", "DATETIME", "DATE", "TIME", "UIDREF", "PNAME", "COMPOSITE", "IMAGE", "WAVEFORM", "CONTAINER"}
)
_ENHANCED = _BASIC | {"NUM", "SCOORD", "TCOORD"}
VALUE_TYPES: Mapping[str, frozenset[str]] = {
    "1.2.840.10008.5.1.4.1.1.88.11": _BASIC,
    "1.2.840.10008.5.1.4.1.1.88.22": _ENHANCED,
    "1.2.840.10008.5.1.4.1.1.88.33": _ENHANCED,
    "1.2.840.10008.5.1.4.1.1.88.34": _ENHANCED | {"SCOORD3D"},
    "1.2.840.10008.5.1.4.1.1.88.35": _ENHANCED | {"SCOORD3D", "TABLE"},
    KEY_OBJECTS: _BASIC - {"DATETIME", "DATE", "TIME"},
}
"""The value types that a document class knows."""
BY_REFERENCE = ("1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.35")

_SAYING = frozenset({"TEXT", "CODE", "NUM"})
_CONTEXT = frozenset({"TEXT", "CODE", "NUM", "DATETIME", "DATE", "TIME", "UIDREF", "PNAME", "COMPOSITE"})
_EVERYTHING = _ENHANCED | {"SCOORD3D", "TABLE"}
RELATIONSHIPS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "CONTAINS": (frozenset({"CONTAINER"}), _EVERYTHING),
    "HAS OBS CONTEXT": (_SAYING | {"CONTAINER", "IMAGE", "SCOORD", "SCOORD3D", "TABLE"}, _CONTEXT),
    "HAS ACQ CONTEXT": (
        frozenset({"CONTAINER", "IMAGE", "WAVEFORM", "COMPOSITE", "NUM"}),
        _CONTEXT - {"COMPOSITE"} | {"CONTAINER", "TABLE"},
    ),
    "HAS CONCEPT MOD": (_EVERYTHING, frozenset({"TEXT", "CODE"})),
    "HAS PROPERTIES": (_SAYING | {"PNAME", "TABLE"}, _EVERYTHING),
    "INFERRED FROM": (_SAYING | {"TABLE"}, _EVERYTHING),
    "SELECTED FROM": (frozenset({"SCOORD", "TCOORD"}), frozenset({"IMAGE", "SCOORD", "SCOORD3D", "WAVEFORM"})),
}
"""Relationship → value types of the item that has it, and of the items that it leads to (PS3.3 table A.35.13-2)."""

NEEDED: Mapping[str, tuple[str, ...]] = {
    "TEXT": ("TextValue", "ConceptNameCodeSequence"),
    "CODE": ("ConceptCodeSequence", "ConceptNameCodeSequence"),
    "NUM": ("ConceptNameCodeSequence",),
    "DATETIME": ("DateTime", "ConceptNameCodeSequence"),
    "DATE": ("Date", "ConceptNameCodeSequence"),
    "TIME": ("Time", "ConceptNameCodeSequence"),
    "UIDREF": ("UID", "ConceptNameCodeSequence"),
    "PNAME": ("PersonName", "ConceptNameCodeSequence"),
    "COMPOSITE": ("ReferencedSOPSequence",),
    "IMAGE": ("ReferencedSOPSequence",),
    "WAVEFORM": ("ReferencedSOPSequence",),
    "SCOORD": ("GraphicType", "GraphicData"),
    "SCOORD3D": ("GraphicType", "GraphicData", "ReferencedFrameOfReferenceUID"),
    "TCOORD": ("TemporalRangeType",),
    "CONTAINER": ("ContinuityOfContent",),
}
"""Value type → the attributes without which such an item says nothing (PS3.3 C.17.3, C.18)."""


def walk(dataset: Dataset, where: str = "") -> Iterator[tuple[str, Dataset]]:
    """Every content item with its place, depth first."""
    for index, item in enumerate(dataset.get("ContentSequence") or []):
        place = f"{where}ContentSequence[{index}]"
        yield place, item
        yield from walk(item, f"{place}.")


def walk_with_parents(dataset: Dataset, where: str = "") -> Iterator[tuple[str, Dataset, Dataset]]:
    """(place, parent, item) of every content item, depth first."""
    for index, item in enumerate(dataset.get("ContentSequence") or []):
        place = f"{where}ContentSequence[{index}]"
        yield place, dataset, item
        yield from walk_with_parents(item, f"{place}.")


def concept_of(item: Dataset) -> str:
    """The value of an item's concept name code; empty if it has none."""
    return next((code_value(code) for code in item.get("ConceptNameCodeSequence") or []), "")


def codes_of(item: Dataset) -> Sequence[Dataset]:
    """The codes that are an item's value."""
    found: Sequence[Dataset] = item.get("ConceptCodeSequence") or []
    return found


def references_of(item: Dataset) -> Sequence[Dataset]:
    """The objects that an item refers to."""
    found: Sequence[Dataset] = item.get("ReferencedSOPSequence") or []
    return found


def document_is_a_tree(subject: Subject) -> Iterator[Problem]:
    """The root is a titled container with content, and the document's flags say what it is worth."""
    dataset = subject.dataset
    if dataset.get("ValueType") != "CONTAINER":
        yield _tree("ValueType", "CONTAINER", str(dataset.get("ValueType", "none")))
    for keyword in ("ConceptNameCodeSequence", "ContinuityOfContent", "ContentSequence"):
        if not dataset.get(keyword):
            yield _tree(keyword, "a value", "none")
    needed = ["InstanceNumber", "ContentDate", "ContentTime"]
    if dataset.get("SOPClassUID") != KEY_OBJECTS:
        needed += ["CompletionFlag", "VerificationFlag"]
    for keyword in needed:
        if dataset.get(keyword) in (None, ""):
            yield _document(keyword, "a value", "none")


def items_are_of_their_value_types(subject: Subject) -> Iterator[Problem]:
    """Each item has a value type that the class knows, and the attributes of that type."""
    allowed = VALUE_TYPES.get(str(subject.dataset.get("SOPClassUID")), _EVERYTHING)
    for place, item in walk(subject.dataset):
        if "ReferencedContentItemIdentifier" in item:
            continue  # by reference: the other item says it all
        kind = str(item.get("ValueType", "none"))
        if kind not in allowed:
            yield _tree(f"{place}.ValueType", "a value type of this class", kind)
        for keyword in NEEDED.get(kind, ()):
            value = item.get(keyword)
            if value is None or value == "" or (keyword.endswith("Sequence") and not value):
                yield _tree(f"{place}.{keyword}", f"a value, since this is {kind}", "none")
        for keyword in (
            "ConceptNameCodeSequence",
            "ConceptCodeSequence",
            "ReferencedSOPSequence",
            "MeasuredValueSequence",
        ):
            if len(item.get(keyword) or []) > 1:
                yield _tree(f"{place}.{keyword}", "one item", str(len(item[keyword].value)))


def relationships_are_allowed(subject: Subject) -> Iterator[Problem]:
    """Each item is related to its parent in a way that the class allows for their value types."""
    dataset = subject.dataset
    for place, parent, item in walk_with_parents(dataset):
        relationship = str(item.get("RelationshipType", "none"))
        if relationship not in RELATIONSHIPS:
            yield _relationship(f"{place}.RelationshipType", "one of the standard's", relationship)
            continue
        sources, targets = RELATIONSHIPS[relationship]
        if "ReferencedContentItemIdentifier" in item:
            yield from _by_reference(dataset, place, item)
            continue
        kinds = str(parent.get("ValueType", "")), str(item.get("ValueType", ""))
        if kinds[0] not in sources or kinds[1] not in targets:
            yield _relationship(f"{place}.RelationshipType", f"one from {kinds[0]} to {kinds[1]}", relationship)
        wanted = RELATIONSHIP_OF_CONCEPT.get(concept_of(item))
        if wanted and relationship not in wanted[0]:
            yield problems_of("relationship", wanted[2])(
                f"{place}.RelationshipType", " or ".join(wanted[0]), relationship
            )
        if wanted and kinds[1] and kinds[1] not in wanted[1]:
            yield problems_of("content tree", wanted[2])(f"{place}.ValueType", " or ".join(wanted[1]), kinds[1])


def _by_reference(dataset: Dataset, place: str, item: Dataset) -> Iterator[Problem]:
    """What an item refers to is another item of the tree, and not one that it is part of."""
    path = [int(each) for each in item.ReferencedContentItemIdentifier]
    if dataset.get("SOPClassUID") not in BY_REFERENCE:
        yield _relationship(place, "items by value in this class", "one by reference")
    target: Dataset | None = dataset if path[:1] == [1] else None
    where = ""
    for index in path[1:]:
        content = (target.get("ContentSequence") or []) if target is not None else []
        target = content[index - 1] if 0 < index <= len(content) else None
        where += f"ContentSequence[{index - 1}]."
    if target is None:
        yield _relationship(place, "an item of the tree", f"{path}, which is none")
    elif f"{place}.".startswith(where):
        yield _relationship(place, "an item that it is not part of", f"{path}")


_MODIFIES, _CONTEXTS, _CONTAINED = ("HAS CONCEPT MOD",), ("HAS OBS CONTEXT",), ("CONTAINS",)
_ANY_TEXT = ("TEXT",)
RELATIONSHIP_OF_CONCEPT: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "121049": (_MODIFIES, ("CODE",), "PS3.16 TID 1204"),
    "121005": (_CONTEXTS, ("CODE",), "PS3.16 TID 1002"),
    "121008": (_CONTEXTS, ("PNAME",), "PS3.16 TID 1003"),
    "121012": (_CONTEXTS, ("UIDREF",), "PS3.16 TID 1004"),
    "121013": (_CONTEXTS, _ANY_TEXT, "PS3.16 TID 1004"),
    "121014": (_CONTEXTS, _ANY_TEXT, "PS3.16 TID 1004"),
    "121015": (_CONTEXTS, _ANY_TEXT, "PS3.16 TID 1004"),
    "121016": (_CONTEXTS, _ANY_TEXT, "PS3.16 TID 1004"),
    "121058": (_MODIFIES, ("CODE",), "PS3.16 TID 1500"),
    "111028": (_CONTAINED, ("CONTAINER",), "PS3.16 TID 1600"),
    "126200": (_CONTAINED, ("CONTAINER",), "PS3.16 TID 1600"),
    "126010": (_CONTAINED, ("CONTAINER",), "PS3.16 TID 1500"),
    "125007": (_CONTAINED, ("CONTAINER",), "PS3.16 TID 1500"),
    "112039": (_CONTEXTS, _ANY_TEXT, "PS3.16 TID 4108"),
    "112040": (_CONTEXTS, ("UIDREF",), "PS3.16 TID 4108"),
    "121191": (_CONTAINED, ("IMAGE",), "PS3.16 TID 1411"),
    "121232": (_CONTAINED, ("UIDREF",), "PS3.16 TID 1411"),
    "121401": (_MODIFIES, ("CODE",), "PS3.16 TID 300"),
    "272741003": (_MODIFIES, ("CODE",), "PS3.16 TID 300"),
}
"""Concept → how it is related to its parent, its value type, and the template that says so."""


TREE = (document_is_a_tree, items_are_of_their_value_types, relationships_are_allowed)

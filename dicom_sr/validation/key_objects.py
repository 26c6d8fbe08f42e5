"""Rules for key object selections (TID 2010): a title, the objects, nothing else in the evidence."""

from collections import Counter
from collections.abc import Iterator

from coread.dicom_sr.validation.codes import code_value, context_groups
from coread.dicom_sr.validation.evidence import CURRENT, EVIDENCE, evidence_of
from coread.dicom_sr.validation.problem import Problem, Severity, Subject, problems_of
from coread.dicom_sr.validation.tree import TREE, codes_of, concept_of, references_of

TITLES, REASONS = 7010, {"113001": 7011, "113010": 7011, "113037": 7011, "113013": 7012}
"""CID of titles; and title → CID of the modifier that says why (PS3.16 TID 2010)."""
REJECTED = ("113001", "113037")
"""For Quality Reasons, for Patient Safety Reasons."""
MODIFIER, DESCRIPTION = "113011", "113012"
OBJECTS = ("IMAGE", "WAVEFORM", "COMPOSITE")
TEMPLATE = "2010"

_title = problems_of("title", "PS3.16 CID 7010")
_reason = problems_of("reason", "PS3.16 TID 2010")
_item = problems_of("content tree", "PS3.16 TID 2010")
_evidence = problems_of("reference", "PS3.3 C.17.6.2.1")


def title_is_one_of_key_objects(subject: Subject) -> Iterator[Problem]:
    """The title says why the objects were chosen (CID 7010), by the template."""
    names = subject.dataset.get("ConceptNameCodeSequence") or []
    if not names or TITLES not in context_groups(str(names[0].get("CodingSchemeDesignator")), code_value(names[0])):
        found = code_value(names[0]) if names else "none"
        yield _title("ConceptNameCodeSequence", "a title of CID 7010", found)
    templates = subject.dataset.get("ContentTemplateSequence") or []
    if not templates or (templates[0].get("TemplateIdentifier"), templates[0].get("MappingResource")) != (
        TEMPLATE,
        "DCMR",
    ):
        found = str(templates[0].get("TemplateIdentifier")) if templates else "none"
        yield problems_of("template", "PS3.3 C.17.6.2")("ContentTemplateSequence", "template 2010 of DCMR", found)


def rejection_has_a_reason(subject: Subject) -> Iterator[Problem]:
    """Who rejects says why, so that the sender can mend it; and a reason is one of the title's group."""
    title = concept_of(subject.dataset)
    items = subject.dataset.get("ContentSequence") or []
    reasons = [code for item in items if concept_of(item) == MODIFIER for code in codes_of(item)]
    described = any(concept_of(item) == DESCRIPTION for item in items)
    if title in REJECTED and not reasons and not described:
        expected = "why it was rejected: Document Title Modifier (113011, DCM)"
        yield _reason("ContentSequence", expected, "none", Severity.WARNING)
    for code in reasons:
        groups = context_groups(str(code.get("CodingSchemeDesignator")), code_value(code))
        if title in REASONS and groups and REASONS[title] not in groups:
            yield _reason("ContentSequence", f"a reason of CID {REASONS[title]}", code_value(code))
    if reasons and title not in REASONS:
        yield _reason("ContentSequence", "no modifier of this title", code_value(reasons[0]), Severity.WARNING)


def objects_are_referenced_plainly(subject: Subject) -> Iterator[Problem]:
    """Objects stand directly below the root, without a name, and one description at most goes with them."""
    items = subject.dataset.get("ContentSequence") or []
    objects = [(index, item) for index, item in enumerate(items) if item.get("ValueType") in OBJECTS]
    if not objects:
        yield _item("ContentSequence", "at least one object", "none")
    for index, item in objects:
        place = f"ContentSequence[{index}]"
        if "ConceptNameCodeSequence" in item:
            found = "one, which readers do not expect"
            yield _item(f"{place}.ConceptNameCodeSequence", "none", found, Severity.WARNING)
        if item.get("RelationshipType") != "CONTAINS":
            yield _item(f"{place}.RelationshipType", "CONTAINS", str(item.get("RelationshipType")))
        for reference in references_of(item):
            known = subject.instance(str(reference.get("ReferencedSOPInstanceUID")))
            if (
                known is not None
                and item.get("ValueType") != "COMPOSITE"
                and "Rows" not in known
                and "WaveformSequence" not in known
            ):
                yield _item(f"{place}.ValueType", "COMPOSITE, since it is no image", str(item.get("ValueType")))
    descriptions = [item for item in items if concept_of(item) == DESCRIPTION]
    if len(descriptions) > 1:
        yield _item("ContentSequence", "one description at most", str(len(descriptions)))
    for item in descriptions:
        if item.get("ValueType") != "TEXT":
            yield _item("ContentSequence", "a description of value type TEXT", str(item.get("ValueType")))


def evidence_is_the_content(subject: Subject) -> Iterator[Problem]:
    """A selection refers to what it selects and lists the same as evidence, no more and no less."""
    dataset = subject.dataset
    references = Counter(
        (str(reference.get("ReferencedSOPInstanceUID")), str(reference.get("ReferencedFrameNumber", "")))
        for item in dataset.get("ContentSequence") or []
        for reference in references_of(item)
    )
    selected = {uid for uid, _ in references}
    for (uid, _), count in references.items():
        if count > 1:
            yield _item("ContentSequence", "each object once", f"{uid} {count} times")
    if not dataset.get(CURRENT):
        yield _evidence(CURRENT, "what is selected", "none")
    for each in evidence_of(dataset):
        known = subject.instance(each.uid)
        is_presentation = known is not None and known.get("Modality") == "PR"
        if each.uid not in selected and not is_presentation and not _is_helper(each.class_uid):
            yield _evidence(CURRENT, "only what is selected", each.uid)


def _is_helper(class_uid: str) -> bool:
    """Presentation states and value maps may be listed for the images that they go with."""
    return class_uid.startswith("1.2.840.10008.5.1.4.1.1.11.") or class_uid == "1.2.840.10008.5.1.4.1.1.67"


KEY_OBJECT_SELECTION = (
    *TREE,
    *EVIDENCE,
    title_is_one_of_key_objects,
    rejection_has_a_reason,
    objects_are_referenced_plainly,
    evidence_is_the_content,
)

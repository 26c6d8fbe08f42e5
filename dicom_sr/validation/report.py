"""Rules for measurement reports (TID 1500): they say what was measured, by whom, in what, and it is there."""

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset

from coread.dicom_sr.validation.codes import code_value, same_code
from coread.dicom_sr.validation.evidence import EVIDENCE, SEGMENTATIONS, evidence_of, is_missed
from coread.dicom_sr.validation.geometry import frames, numbers, planes_of_image
from coread.dicom_sr.validation.measurements import MEASUREMENTS, number_of, segment_is_measured_right
from coread.dicom_sr.validation.outlines import OUTLINES
from coread.dicom_sr.validation.pixels import frame_segment
from coread.dicom_sr.validation.problem import Problem, Severity, Subject, problems_of
from coread.dicom_sr.validation.regions import REGIONS
from coread.dicom_sr.validation.seg import is_of_another_segment, lateralities_of, segment_with_number
from coread.dicom_sr.validation.tree import TREE, codes_of, concept_of, references_of, walk

MEASUREMENT_REPORTS = ("126000", "126001", "126002", "126003")
"""Titles of TID 1500 documents (CID 7021)."""
GROUP, TRACKING_ID, TRACKING_UID = "125007", "112039", "112040"
LANGUAGE, OBSERVER_TYPE, PERSON, DEVICE = "121049", "121005", "121006", "121007"
PERSON_NAME, DEVICE_UID = "121008", "121012"
PROCEDURE_REPORTED, FINDING, FINDING_SITE = "121058", "121071", "363698007"
FINDING_SITES = (FINDING_SITE, "G-C0E3")
ALGORITHM_NAME, ALGORITHM_VERSION = "111001", "111003"
MEASUREMENTS_CONTAINER, EVALUATIONS_CONTAINER = "126010", "C0034375"
REFERENCED_SEGMENT, IMAGE_REGION, VOLUME_SURFACE = "121191", "111030", "121231"
SEGMENTATION_FRAME = "121214"
SOURCE_SERIES, SOURCE_IMAGE = "121232", "121233"
LATERALITY = "272741003"
GROUP_TEMPLATES = ("1410", "1411", "1501", "1420", "4019")
GROUPED = ("1410", "1411", "1420", "1501")

_template = problems_of("template", "PS3.16 TID 1500")
_observer = problems_of("observer", "PS3.3 C.17.2")
_tracking = problems_of("tracking", "PS3.16 TID 4108")
_segment = problems_of("segment", "PS3.16 TID 1411")
_library = problems_of("image library", "PS3.16 TID 1602")


def document_says_what_it_is(subject: Subject) -> Iterator[Problem]:
    """The root names itself a measurement report, by its template, and has the template's parts."""
    dataset = subject.dataset
    templates = dataset.get("ContentTemplateSequence") or []
    is_measurement_report = concept_of(dataset) in MEASUREMENT_REPORTS
    if not is_measurement_report and _text_of_template(templates) == "1500":
        expected = "the title of a measurement report, such as (126000, DCM)"
        found = concept_of(dataset) or "none"
        yield problems_of("template", "PS3.16 CID 7021")("ConceptNameCodeSequence", expected, found)
    if is_measurement_report:
        yield from _template_problems(dataset, templates)


def _template_problems(dataset: Dataset, templates: Sequence[Dataset]) -> Iterator[Problem]:
    if not templates or templates[0].get("TemplateIdentifier") != "1500":
        yield _template("ContentTemplateSequence", "template 1500 of DCMR", _text_of_template(templates))
    elif templates[0].get("MappingResource") != "DCMR":
        found = str(templates[0].get("MappingResource", "none"))
        yield problems_of("template", "PS3.3 C.18.8")("ContentTemplateSequence.MappingResource", "DCMR", found)
    concepts = [concept_of(item) for item in dataset.get("ContentSequence") or []]
    if PROCEDURE_REPORTED not in concepts:
        yield problems_of("procedure", "PS3.16 TID 1500")("ContentSequence", "Procedure reported (121058, DCM)", "none")
    if LANGUAGE not in concepts:
        expected = "Language of Content Item and Descendants (121049, DCM)"
        yield problems_of("language", "PS3.16 TID 1204")("ContentSequence", expected, "none")
    if not {MEASUREMENTS_CONTAINER, EVALUATIONS_CONTAINER, "126011"} & set(concepts):
        yield _template("ContentSequence", "Imaging Measurements (126010, DCM) or Qualitative Evaluations", "neither")
    for container in dataset.get("ContentSequence") or []:
        if concept_of(container) == MEASUREMENTS_CONTAINER and not container.get("ContentSequence"):
            yield _template("ContentSequence", "measurement groups", "none")


def languages_are_languages(subject: Subject) -> Iterator[Problem]:
    """The language is one that RFC 5646 or ISO 639 names."""
    for place, item in walk(subject.dataset):
        for code in codes_of(item) if concept_of(item) == LANGUAGE else []:
            scheme, value = str(code.get("CodingSchemeDesignator")), code_value(code)
            plain = value.split("-")[0]
            if scheme not in ("RFC5646", "RFC3066", "ISO639_1", "ISO639_2") or not (
                plain.isalpha() and 2 <= len(plain) <= 3
            ):
                found = f"({value}, {scheme})"
                yield problems_of("language", "PS3.16 CID 5000")(place, "a language such as (en, RFC5646)", found)


def somebody_observed(subject: Subject) -> Iterator[Problem]:
    """The observer is named; software never verifies."""
    items = [item for _, item in walk(subject.dataset)]
    types = _observers(subject.dataset)
    concepts = {concept_of(item) for item in items}
    if not types and PERSON_NAME not in concepts and concept_of(subject.dataset) in MEASUREMENT_REPORTS:
        expected = "Observer Type (121005, DCM)"
        yield problems_of("observer", "PS3.16 TID 1002")("ContentSequence", expected, "none")
    if DEVICE in types and DEVICE_UID not in concepts:
        expected = "Device Observer UID (121012, DCM)"
        yield problems_of("observer", "PS3.16 TID 1004")("ContentSequence", expected, "none")
    if types and DEVICE not in types and DEVICE_UID in concepts:
        yield problems_of("observer", "PS3.16 TID 1002")("ContentSequence", "Observer Type Device", "a person's")
    if PERSON in types and PERSON_NAME not in concepts:
        expected = "Person Observer Name (121008, DCM)"
        yield problems_of("observer", "PS3.16 TID 1003")("ContentSequence", expected, "none")
    yield from _verification_problems(subject.dataset, types)


def _observers(dataset: Dataset) -> set[str]:
    """The types of those who observed: Person, Device."""
    return {
        code_value(code) for _, item in walk(dataset) if concept_of(item) == OBSERVER_TYPE for code in codes_of(item)
    }


def _verification_problems(dataset: Dataset, types: set[str]) -> Iterator[Problem]:
    verified = dataset.get("VerificationFlag") == "VERIFIED"
    verifiers: Sequence[Dataset] = dataset.get("VerifyingObserverSequence") or []
    if verified and not (verifiers and verifiers[0].get("VerifyingObserverName")):
        yield _observer("VerifyingObserverSequence", "the person who verified", "nobody")
    if verified and types == {DEVICE} and not verifiers:
        yield _observer("VerificationFlag", "UNVERIFIED for a device", "VERIFIED")
    if not verified and verifiers:
        yield _observer("VerifyingObserverSequence", "nobody, since it is UNVERIFIED", "somebody")
    if verified and dataset.get("CompletionFlag") == "PARTIAL":
        yield _observer("CompletionFlag", "COMPLETE, since it is VERIFIED", "PARTIAL")
    for item in verifiers:
        for keyword in ("VerificationDateTime", "VerifyingOrganization"):
            if not item.get(keyword):
                yield _observer(f"VerifyingObserverSequence.{keyword}", "a value", "none")
    if not verified and types == {DEVICE} and dataset.get("PreliminaryFlag") == "FINAL":
        found = "FINAL, by a device alone"
        yield _observer("PreliminaryFlag", "PRELIMINARY until a person has verified", found, Severity.WARNING)


def groups_are_tracked(subject: Subject) -> Iterator[Problem]:
    """Each measurement group can be followed, says what it found, and by which algorithm."""
    automatic = _observers(subject.dataset) == {DEVICE}
    seen: set[str] = set()
    for place, group in groups(subject.dataset):
        concepts = {concept_of(item): item for item in group.get("ContentSequence") or []}
        for concept, name in ((TRACKING_ID, "Tracking Identifier"), (TRACKING_UID, "Tracking Unique Identifier")):
            if concept not in concepts:
                yield _tracking(place, f"{name} ({concept}, DCM)", "none")
        uid = str(concepts.get(TRACKING_UID, Dataset()).get("UID", ""))
        if uid and uid in seen:
            yield _tracking(place, "a Tracking UID for each group", f"{uid} again")
        seen.add(uid)
        if FINDING not in concepts:
            found = problems_of("finding", "PS3.16 TID 1419")
            yield found(place, "Finding (121071, DCM)", "none", Severity.WARNING)
        said = {ALGORITHM_NAME, ALGORITHM_VERSION} & set(concepts)
        measured = [item for item in group.get("ContentSequence") or [] if item.get("ValueType") == "NUM"]
        by_measurement = measured and all(_has_algorithm(item) for item in measured)
        if (automatic or said) and len(said) < 2 and not by_measurement:
            expected = "the algorithm's name and version"
            yield problems_of("algorithm", "PS3.16 TID 4019")(place, expected, "not both")


def _has_algorithm(item: Dataset) -> bool:
    return {ALGORITHM_NAME, ALGORITHM_VERSION} <= {concept_of(each) for each in item.get("ContentSequence") or []}


def groups_are_of_one_kind(subject: Subject) -> Iterator[Problem]:
    """A group is of the template that it names, has what that template must have, and says something."""
    kinds = set()
    for place, group in groups(subject.dataset):
        items = group.get("ContentSequence") or []
        concepts = {concept_of(item) for item in items}
        stated = _text_of_template(group.get("ContentTemplateSequence") or [])
        regions = sum(
            item.get("ValueType") in ("SCOORD", "SCOORD3D") and concept_of(item) == IMAGE_REGION for item in items
        )
        if stated not in ("none", *GROUP_TEMPLATES):
            yield _template(f"{place}.ContentTemplateSequence", f"one of {', '.join(GROUPED)}", stated)
        if stated == "1411" and not concepts & {REFERENCED_SEGMENT, VOLUME_SURFACE, IMAGE_REGION, "126009"}:
            found = "neither"
            yield problems_of("template", "PS3.16 TID 1411")(place, "a segment, surface or regions", found)
        if stated == "1410" and not concepts & {IMAGE_REGION, SEGMENTATION_FRAME}:
            yield problems_of("template", "PS3.16 TID 1410")(place, "an image region or segmentation frame", "neither")
        if stated == "1410" and regions > 1:
            yield problems_of("template", "PS3.16 TID 1410")(place, "one image region", str(regions))
        kinds.add(stated)
        rest = concepts - {TRACKING_ID, TRACKING_UID, ALGORITHM_NAME, ALGORITHM_VERSION, "111000"}
        if not rest:
            yield _template(place, "a measurement or an evaluation", "none")
    if len(kinds & set(GROUPED)) > 1:
        found = " and ".join(sorted(kinds & set(GROUPED)))
        yield _template("ContentSequence", "groups of one template: readers stumble", found, Severity.WARNING)


def segments_that_are_measured_exist(subject: Subject) -> Iterator[Problem]:
    """A referenced segment exists, has the group's Tracking UID, its finding, and the volume that is stated."""
    for place, group in groups(subject.dataset):
        items: Sequence[Dataset] = group.get("ContentSequence") or []
        for item in items:
            for reference in references_of(item):
                if concept_of(item) in (REFERENCED_SEGMENT, SEGMENTATION_FRAME):
                    yield from _reference_problems(place, reference)
                segments = numbers(reference.get("ReferencedSegmentNumber"))
                segmentation = subject.results.get(str(reference.get("ReferencedSOPInstanceUID")))
                if (
                    segmentation is None
                    and segments
                    and is_missed(subject, str(reference.get("ReferencedSOPClassUID")))
                ):
                    uid = str(reference.get("ReferencedSOPInstanceUID"))
                    yield _segment(place, "a segmentation that is there", f"{uid}, which is not")
                if segmentation is None:
                    continue
                for number in segments:
                    yield from _segment_problems(subject, place, items, segmentation, number)
                yield from _frames_show_segment(place, reference, segmentation, segments)


def _reference_problems(place: str, reference: Dataset) -> Iterator[Problem]:
    class_uid = str(reference.get("ReferencedSOPClassUID"))
    if class_uid not in SEGMENTATIONS:
        yield _segment(place, "a reference to a segmentation", f"one to SOP class {class_uid}")
    elif not numbers(reference.get("ReferencedSegmentNumber")):
        yield _segment(place, "the number of the segment", "none")


def _segment_problems(
    subject: Subject, place: str, items: Sequence[Dataset], segmentation: Dataset, number: int
) -> Iterator[Problem]:
    segment = segment_with_number(segmentation, number)
    if segment is None:
        known = sorted(int(one.SegmentNumber) for one in segmentation.get("SegmentSequence", []))
        yield _segment(place, f"one of the segments {known}", str(number))
        return
    named = {concept_of(item): item for item in items}
    tracking = str(named.get(TRACKING_UID, Dataset()).get("UID", ""))
    identifier = str(named.get(TRACKING_ID, Dataset()).get("TextValue", ""))
    stated = str(segment.get("TrackingUID", ""))
    if stated and tracking and stated != tracking:
        yield problems_of("tracking", "PS3.16 TID 1411")(place, f"the segment's Tracking UID {stated}", tracking)
    if segment.get("TrackingID") and identifier and stated == tracking and identifier != str(segment.TrackingID):
        yield problems_of("tracking", "PS3.3 C.8.20.4")(
            place, "the segment's Tracking ID", "another one for the same UID"
        )
    yield from _finding_problems(place, items, segmentation, number)
    yield from segment_is_measured_right(subject, place, items, segmentation, number)


def _finding_problems(place: str, items: Sequence[Dataset], segmentation: Dataset, number: int) -> Iterator[Problem]:
    """What was found is what the segment shows: certainly not what another segment shows."""
    segment = segment_with_number(segmentation, number) or Dataset()
    for item in items:
        if concept_of(item) == FINDING:
            keyword, said = "SegmentedPropertyTypeCodeSequence", segment.get("SegmentedPropertyTypeCodeSequence") or []
        elif concept_of(item) in FINDING_SITES:
            keyword, said = "AnatomicRegionSequence", segment.get("AnatomicRegionSequence") or []
        else:
            continue
        for code in codes_of(item):
            expected = f"the segment's, {code_value(said[0])}" if said else "none"
            if is_of_another_segment(segmentation, number, code, keyword):
                yield problems_of("finding", "PS3.16 TID 1411")(
                    place, expected, f"another segment's, {code_value(code)}"
                )
            elif said and not any(same_code(code, each) for each in said):
                found = code_value(code)
                yield problems_of("finding", "PS3.16 TID 1411")(place, expected, found, Severity.WARNING)
        sides = {code_value(each) for one in item.get("ContentSequence") or [] for each in codes_of(one)}
        own = set(lateralities_of(segment))
        if own and sides & {"24028007", "7771000"} and not own & sides:
            yield problems_of("finding", "PS3.16 TID 1411")(place, "the segment's laterality", "the other")


def _frames_show_segment(
    place: str, reference: Dataset, segmentation: Dataset, segments: Sequence[int]
) -> Iterator[Problem]:
    described = frames(segmentation)
    for frame in numbers(reference.get("ReferencedFrameNumber")):
        shown = frame_segment(segmentation, described[frame - 1]) if 0 < frame <= len(described) else None
        if segments and shown is not None and shown not in segments:
            yield _segment(place, f"a frame of segment {segments[0]}", f"frame {frame}, of segment {shown}")


def sources_of_segments_are_sources(subject: Subject) -> Iterator[Problem]:
    """The series or images that a group names as a segment's source are those that it was made from."""
    dataset = subject.dataset
    listed = {each.series_uid for each in evidence_of(dataset)}
    known = {str(source.get("SeriesInstanceUID")) for source in subject.sources.values()}
    made_from = {
        str(series.get("SeriesInstanceUID"))
        for each in subject.results.values()
        if each.get("Modality") == "SEG"
        for series in each.get("ReferencedSeriesSequence") or []
    }
    for place, item in walk(dataset):
        if concept_of(item) != SOURCE_SERIES or item.get("ValueType") != "UIDREF":
            continue
        uid = str(item.get("UID"))
        if listed and uid not in listed:
            yield _segment(place, "a series that the evidence lists", uid)
        elif (known and uid not in known) or (made_from and uid not in made_from):
            yield _segment(place, "the series that the segment was made from", uid)


LIBRARY_NUMBERS = {
    "110910": ("Rows", 0),
    "110911": ("Columns", 0),
    "111026": ("spacing", 1),
    "111066": ("spacing", 0),
    **{f"11090{index + 1}": ("position", index) for index in range(3)},
    **{f"11090{index + 4}": ("orientation", index) for index in range(6)},
}
"""Descriptors of an image in the library → attribute of the image, and which of its values."""


def library_describes_the_images(subject: Subject) -> Iterator[Problem]:
    """What the image library says of an image is what the image says of itself."""
    for place, item in walk(subject.dataset):
        if item.get("ValueType") != "IMAGE" or item.get("RelationshipType") != "CONTAINS":
            continue
        for reference in references_of(item):
            image = subject.sources.get(str(reference.get("ReferencedSOPInstanceUID")))
            if image is not None:
                for descriptor in item.get("ContentSequence") or []:
                    yield from _descriptor_problems(
                        place, descriptor, image, numbers(reference.get("ReferencedFrameNumber"))
                    )


def _descriptor_problems(place: str, descriptor: Dataset, image: Dataset, shown: Sequence[int]) -> Iterator[Problem]:
    concept = concept_of(descriptor)
    meaning = descriptor.ConceptNameCodeSequence[0].get("CodeMeaning") if concept else ""
    if concept == "112227" and str(descriptor.get("UID")) != str(image.get("FrameOfReferenceUID")):
        yield _library(place, "the image's frame of reference", "another")
    if concept == "121139" and codes_of(descriptor) and code_value(codes_of(descriptor)[0]) != image.get("Modality"):
        yield _library(place, f"the image's modality, {image.get('Modality')}", code_value(codes_of(descriptor)[0]))
    if concept == "112225" and image.get("SliceThickness"):
        yield from _number_differs(place, descriptor, float(image.SliceThickness), str(meaning))
    if concept in LIBRARY_NUMBERS:
        keyword, index = LIBRARY_NUMBERS[concept]
        planes = planes_of_image(image)
        plane = planes.get(shown[0] if shown else 1)
        if keyword in ("Rows", "Columns"):
            yield from _number_differs(place, descriptor, float(image.get(keyword) or 0), str(meaning))
        elif plane is not None and len({id(each) for each in planes.values()}) >= 1 and (shown or len(planes) == 1):
            yield from _number_differs(place, descriptor, float(getattr(plane, keyword)[index]), str(meaning))


def _number_differs(place: str, descriptor: Dataset, expected: float, meaning: str) -> Iterator[Problem]:
    values = descriptor.get("MeasuredValueSequence") or []
    value = number_of(values[0].get("NumericValue")) if values else None
    if value is not None and not np.isclose(value, expected, rtol=1e-3, atol=1e-2):
        yield _library(place, f"the image's {meaning}, {expected:.4g}", f"{value:.4g}")


def evaluations_have_values(subject: Subject) -> Iterator[Problem]:
    """An answer is a code with a value; a question is asked once in a group, and certainty is of an answer."""
    for place, group in groups(subject.dataset):
        answers: dict[tuple[str, str], set[str]] = {}
        for item in group.get("ContentSequence") or []:
            if item.get("ValueType") == "CODE" and item.get("RelationshipType") == "CONTAINS" and codes_of(item):
                answers.setdefault((concept_of(item), ""), set()).add(code_value(codes_of(item)[0]))
        for (concept, _), said in answers.items():
            if said >= {"52101004", "272519000"} or said >= {"373066001", "373067005"}:
                yield problems_of("finding", "PS3.16 TID 1501")(
                    place, f"one answer to {concept}", "one and its opposite"
                )


def groups(dataset: Dataset) -> list[tuple[str, Dataset]]:
    """The measurement groups, with their places."""
    return [(place, item) for place, item in walk(dataset) if concept_of(item) == GROUP]


def _text_of_template(templates: Sequence[Dataset]) -> str:
    return str(templates[0].get("TemplateIdentifier")) if templates else "none"


REPORT = (
    *TREE,
    *EVIDENCE,
    document_says_what_it_is,
    languages_are_languages,
    somebody_observed,
    groups_are_tracked,
    groups_are_of_one_kind,
    *MEASUREMENTS,
    segments_that_are_measured_exist,
    sources_of_segments_are_sources,
    library_describes_the_images,
    evaluations_have_values,
    *REGIONS,
    *OUTLINES,
)

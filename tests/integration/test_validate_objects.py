"""``coread validate`` on maps, key objects, presentation states, captures, structure sets, and other segmentations."""

import copy
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RTStructureSetStorage,
    generate_uid,
)

from coread.dicom_files import write_files
from coread.dicom_sr.validation.problem import Problem, Severity
from coread.dicom_sr.validation.run import judge, subjects_in, validate_files
from tests.integration.test_validate import Harm, all_of, drop, put
from tests.support import enhanced, images_of, volume_in_plane

MAKER: dict[str, Any] = {
    "series_number": 900,
    "instance_number": 1,
    "manufacturer": "Somebody",
    "manufacturer_model_name": "something",
    "software_versions": "1",
    "device_serial_number": "1",
}
LIVER, ANATOMY = codes.SCT.Liver, Code("91723000", "SCT", "Anatomical Structure")


def with_uids() -> dict[str, Any]:
    return {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid()}


def completed(dataset: Dataset, source: Dataset) -> Dataset:
    """What highdicom leaves out, and the same dataset as its file holds it."""
    for keyword in ("StudyDescription", "PatientAge", "PatientSize", "PatientWeight", "BodyPartExamined"):
        if keyword in source and keyword not in dataset:
            dataset[keyword] = source[keyword]
    dataset.pop("IssuerOfPatientID", None)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


def a_map(images: list[Dataset]) -> Dataset:
    values = np.random.default_rng(1).random((len(images), images[0].Rows, images[0].Columns)).astype(np.float32)
    dataset = hd.pm.ParametricMap(
        source_images=images,
        pixel_array=values,
        **with_uids(),
        **MAKER,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            hd.pm.RealWorldValueMapping(
                lut_label="PROBABILITY",
                lut_explanation="probability",
                unit=codes.UCUM.NoUnits,
                value_range=(0.0, 1.0),
                slope=1.0,
                intercept=0.0,
                quantity_definition=Code("110854", "DCM", "Fractional Probabilistic Segmentation"),
            )
        ],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
        content_label="MAP",
        content_creator_name="Some^Body",
    )
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence, anatomy.FrameLaterality = Sequence([code(LIVER)]), "U"
    dataset.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = Sequence([anatomy])
    return completed(dataset, images[0])


def code(of: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = of.value, of.scheme_designator, of.meaning
    return item


def a_selection(images: list[Dataset]) -> Dataset:
    chosen = images[1:3]
    dataset = hd.ko.KeyObjectSelectionDocument(
        evidence=chosen,
        content=hd.ko.KeyObjectSelection(
            document_title=codes.DCM.OfInterest,
            referenced_objects=chosen,
            observer_person_context=hd.sr.ObserverContext(
                observer_type=codes.DCM.Person,
                observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(name="Some^Body"),
            ),
            description="the best",
        ),
        **with_uids(),
        series_number=900,
        instance_number=1,
        manufacturer="Somebody",
    )
    for item in dataset.ContentSequence:
        if item.ValueType == "IMAGE":
            del item.ConceptNameCodeSequence
    return completed(dataset, images[0])


def a_state(images: list[Dataset]) -> Dataset:
    layers = [
        hd.pr.GraphicLayer(layer_name=name, order=order, display_color=CIELabColor(50, 20, 20))
        for order, name in enumerate(("ONE", "TWO"), start=1)
    ]
    ring = np.array([[2.0, 3.0], [9.0, 3.0], [9.0, 12.0], [2.0, 12.0], [2.0, 3.0]])
    annotations = [
        hd.pr.GraphicAnnotation(
            referenced_images=[image],
            graphic_layer=layer,
            graphic_objects=[
                hd.pr.GraphicObject(
                    graphic_type=hd.pr.GraphicTypeValues.POLYLINE,
                    graphic_data=ring,
                    units=hd.pr.AnnotationUnitsValues.PIXEL,
                    tracking_id="ring",
                    tracking_uid=generate_uid(),
                )
            ],
            text_objects=[
                hd.pr.TextObject(
                    text_value="a ring", units=hd.pr.AnnotationUnitsValues.PIXEL, bounding_box=(1.0, 1.0, 9.0, 4.0)
                )
            ],
        )
        for image, layer in zip(images, layers, strict=False)
    ]
    dataset = hd.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=images[:2],
        **with_uids(),
        **MAKER,
        content_label="RINGS",
        graphic_annotations=annotations,
        graphic_layers=layers,
        content_creator_name="Some^Body",
    )
    for area in dataset.DisplayedAreaSelectionSequence:
        area.pop("PresentationPixelAspectRatio", None)
        area.PresentationPixelSpacing = images[0].PixelSpacing
    return completed(dataset, images[0])


def header_like(source: Dataset, class_uid: str, modality: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = class_uid, generate_uid()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime"),
        *("StudyID", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID"),
    ):
        setattr(dataset, keyword, source.get(keyword))
    dataset.PositionReferenceIndicator = ""
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = modality, generate_uid(), 900
    dataset.InstanceNumber, dataset.Manufacturer = 1, "Somebody"
    return dataset


def a_capture(images: list[Dataset]) -> Dataset:
    dataset = header_like(images[0], MultiFrameTrueColorSecondaryCaptureImageStorage, "OT")
    dataset.ConversionType, dataset.ImageType = "WSD", ["DERIVED", "SECONDARY"]
    dataset.ContentDate = dataset.ContentTime = dataset.PatientOrientation = ""
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "YES", "00"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = images[0].Rows, images[0].Columns, len(images)
    dataset.FrameIncrementPointer = Tag("PerFrameFunctionalGroupsSequence")
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = images[0].PixelSpacing, images[0].SliceThickness
    orientation.ImageOrientationPatient = images[0].ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence()
    for image in images:
        position, groups = Dataset(), Dataset()
        position.ImagePositionPatient = image.ImagePositionPatient
        groups.PlanePositionSequence = Sequence([position])
        dataset.PerFrameFunctionalGroupsSequence.append(groups)
    dataset.PixelData = bytes(len(images) * image.Rows * image.Columns * 3)
    return completed(dataset, images[0])


def reference_to(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def a_structure_set(images: list[Dataset]) -> Dataset:
    dataset = header_like(images[0], RTStructureSetStorage, "RTSTRUCT")
    dataset.StructureSetLabel, dataset.StructureSetDate, dataset.StructureSetTime = "AI", "", ""
    dataset.OperatorsName, dataset.ApprovalStatus = "", "UNAPPROVED"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ContourImageSequence = Sequence([reference_to(image) for image in images])
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", dataset.StudyInstanceUID
    study.RTReferencedSeriesSequence = Sequence([series])
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = images[0].FrameOfReferenceUID, Sequence([study])
    dataset.ReferencedFrameOfReferenceSequence = Sequence([frame])
    dataset.StructureSetROISequence = Sequence()
    dataset.ROIContourSequence, dataset.RTROIObservationsSequence = Sequence(), Sequence()
    for number in (1, 2):
        roi, contours, observation = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, f"region {number}", "AUTOMATIC"
        roi.ReferencedFrameOfReferenceUID = images[0].FrameOfReferenceUID
        contours.ROIDisplayColor, contours.ReferencedROINumber = [200, 80, 60], number
        contours.ContourSequence = Sequence([contour_on(image) for image in images[1:4]])
        observation.ObservationNumber = observation.ReferencedROINumber = number
        observation.RTROIInterpretedType = observation.ROIInterpreter = ""
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(contours)
        dataset.RTROIObservationsSequence.append(observation)
    return completed(dataset, images[0])


def contour_on(image: Dataset) -> Dataset:
    """A triangle."""
    origin, orientation = np.array(image.ImagePositionPatient, float), np.array(image.ImageOrientationPatient, float)
    points = [origin + a * orientation[:3] + b * orientation[3:] for a, b in ((3, 4), (15, 5), (8, 20))]
    contour = Dataset()
    contour.ContourImageSequence = Sequence([reference_to(image)])
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
    contour.ContourData = [f"{value:.3f}" for point in points for value in point]
    return contour


def segmentation(kind: str) -> Callable[[list[Dataset]], Dataset]:
    """Two segments, a square each."""

    def build(images: list[Dataset]) -> Dataset:
        labels = np.zeros((len(images), images[0].Rows, images[0].Columns), np.uint8)
        labels[1:4, 3:9, 2:8], labels[3:5, 10:14, 4:9] = 1, 2
        fractions = np.stack([(labels == number) * np.float32(0.6) for number in (1, 2)], axis=-1)
        dataset = hd.seg.Segmentation(
            source_images=images,
            pixel_array=fractions if kind == "FRACTIONAL" else labels,
            segmentation_type=kind,
            segment_descriptions=[
                hd.seg.SegmentDescription(
                    segment_number=number,
                    segment_label=f"segment {number}",
                    segmented_property_category=ANATOMY,
                    segmented_property_type=LIVER,
                    algorithm_type="AUTOMATIC",
                    algorithm_identification=hd.AlgorithmIdentificationSequence(
                        name="something", version="1", family=Code("123110", "DCM", "Artificial Intelligence")
                    ),
                    tracking_uid=generate_uid(),
                    tracking_id=f"segment {number}",
                    display_color=CIELabColor(50, 20, 20),
                )
                for number in (1, 2)
            ],
            **with_uids(),
            **MAKER,
            max_fractional_value=200,
            content_label="SEGMENTATION",
            content_creator_name="Some^Body",
        )
        return completed(dataset, images[0])

    return build


BUILDERS: Mapping[str, Callable[[list[Dataset]], Dataset]] = {
    "map": a_map,
    "selection": a_selection,
    "state": a_state,
    "capture": a_capture,
    "structure set": a_structure_set,
    "label map": segmentation("LABELMAP"),
    "fractional": segmentation("FRACTIONAL"),
    "binary": segmentation("BINARY"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Dataset], Path]:
    images, folder = images_of(volume_in_plane("oblique")), tmp_path_factory.mktemp("source")
    write_files(images, folder)
    return images, folder


@pytest.fixture(scope="module")
def objects(source: tuple[list[Dataset], Path]) -> dict[str, Dataset]:
    return {kind: build(source[0]) for kind, build in BUILDERS.items()}


def judged_by_us(dataset: Dataset, folder: Path, file: Path) -> list[Problem]:
    dataset.save_as(file, enforce_file_format=False)
    (subject,) = subjects_in([file], source=folder).values()
    assert subject
    return list(judge(subject))


@pytest.mark.parametrize("kind", BUILDERS)
def test_nothing_is_said_of_what_others_write_well(
    kind: str, source: tuple[list[Dataset], Path], objects: dict[str, Dataset], tmp_path: Path
) -> None:
    assert judged_by_us(objects[kind], source[1], tmp_path / "object.dcm") == []


@pytest.mark.parametrize("kind", ["label map", "fractional", "binary"])
def test_nothing_is_said_of_what_was_made_from_a_multi_frame_image(kind: str, tmp_path: Path) -> None:
    image = enhanced(images_of(volume_in_plane("oblique")))
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    write_files([image], tmp_path / "source")
    groups = image.PerFrameFunctionalGroupsSequence
    labels = np.zeros((len(groups), image.Rows, image.Columns), np.uint8)
    labels[1:4, 3:9, 2:8] = 1
    dataset = completed(
        hd.seg.Segmentation(
            source_images=[image],
            pixel_array=labels.astype(np.float32) if kind == "fractional" else labels,
            segmentation_type={"label map": "LABELMAP", "fractional": "FRACTIONAL", "binary": "BINARY"}[kind],
            segment_descriptions=[
                hd.seg.SegmentDescription(
                    segment_number=1,
                    segment_label="one",
                    segmented_property_category=ANATOMY,
                    segmented_property_type=LIVER,
                    algorithm_type="MANUAL",
                    tracking_uid=generate_uid(),
                    tracking_id="one",
                    display_color=CIELabColor(50, 20, 20),
                )
            ],
            **with_uids(),
            **MAKER,
            content_label="SEGMENTATION",
            content_creator_name="Some^Body",
        ),
        image,
    )
    assert judged_by_us(dataset, tmp_path / "source", tmp_path / "object.dcm") == []
    move_first_frame(dataset)
    assert "geometry" in {each.rule for each in judged_by_us(dataset, tmp_path / "source", tmp_path / "object.dcm")}


def move_first_frame(dataset: Dataset) -> None:
    position = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    x, y, z = (float(each) for each in position.ImagePositionPatient)
    position.ImagePositionPatient = [x, y, z + 1]


def at(path: str, change: Harm) -> Harm:
    """A change of the item at a path such as "StructureSetROISequence.0"."""

    def harm(dataset: Dataset) -> None:
        place: Any = dataset
        for step in path.split("."):
            place = place[int(step)] if step.isdigit() else place[step].value
        change(place)

    return harm


def mapping(change: Harm) -> Harm:
    def harm(dataset: Dataset) -> None:
        for groups in (dataset.SharedFunctionalGroupsSequence[0], *dataset.PerFrameFunctionalGroupsSequence):
            for item in groups.get("RealWorldValueMappingSequence", []):
                change(item)

    return harm


def first_value(value: float) -> Harm:
    def harm(dataset: Dataset) -> None:
        dataset.FloatPixelData = np.float32(value).tobytes() + dataset.FloatPixelData[4:]

    return harm


def moved(by_mm: float, *, frames: int | None = None) -> Harm:
    """Along z, all frames or the first ones."""

    def harm(dataset: Dataset) -> None:
        for groups in dataset.PerFrameFunctionalGroupsSequence[:frames]:
            position = groups.PlanePositionSequence[0]
            x, y, z = (float(value) for value in position.ImagePositionPatient)
            position.ImagePositionPatient = [f"{x:.4f}", f"{y:.4f}", f"{z + by_mm:.4f}"]

    return harm


def coded(keyword: str, value: str, scheme: str, meaning: str) -> Harm:
    return put(keyword, Sequence([code(Code(value, scheme, meaning))]))


PER_FRAME, SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
MAP_DEFECTS: dict[str, Harm] = {
    "10 mm up": moved(10),
    "one frame 1 mm up": moved(1, frames=1),
    "another frame of reference": put("FrameOfReferenceUID", "1.2.3"),
    "another study": put("StudyInstanceUID", "1.2.3"),
    "a source that is not there": at(
        f"{PER_FRAME}.0.DerivationImageSequence.0.SourceImageSequence.0", put("ReferencedSOPInstanceUID", "1.2.3")
    ),
    "a number that is none": first_value(float("nan")),
    "a number without end": first_value(float("inf")),
    "a number beyond the range that is mapped": first_value(7.0),
    "one frame too many stated": lambda dataset: put("NumberOfFrames", dataset.NumberOfFrames + 1)(dataset),
    "pixels cut short": lambda dataset: put("FloatPixelData", dataset.FloatPixelData[:-4])(dataset),
    "sixteen bits of float": put("BitsAllocated", 16),
    "no unit": mapping(drop("MeasurementUnitsCodeSequence")),
    "a unit of nobody's": mapping(coded("MeasurementUnitsCodeSequence", "1", "99X", "no units")),
    "a unit with the name of another": mapping(coded("MeasurementUnitsCodeSequence", "mm", "UCUM", "milliliter")),
    "a slope of 0": mapping(put("RealWorldValueSlope", 0.0)),
    "a range upside down": mapping(
        all_of(
            put("DoubleFloatRealWorldValueFirstValueMapped", 1.0), put("DoubleFloatRealWorldValueLastValueMapped", 0.0)
        )
    ),
    "an organ as quantity": mapping(
        at("QuantityDefinitionSequence.0", coded("ConceptCodeSequence", "10200004", "SCT", "Liver"))
    ),
    "no value mapping": lambda dataset: next(
        groups.pop("RealWorldValueMappingSequence", None)
        for groups in (dataset.SharedFunctionalGroupsSequence[0], *dataset.PerFrameFunctionalGroupsSequence)
    ),
    "an original image": put("ImageType", ["ORIGINAL", "PRIMARY"]),
    "no content label": drop("ContentLabel"),
    "twice the spacing between slices": lambda dataset: put("SpacingBetweenSlices", 10)(
        dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    ),
}


def in_image(change: Harm) -> Harm:
    """In the first item of a selection that is an image."""
    return lambda dataset: change(next(item for item in dataset.ContentSequence if item.ValueType == "IMAGE"))


def titled(value: str, meaning: str) -> Harm:
    return coded("ConceptNameCodeSequence", value, "DCM", meaning)


def modified_by(value: str, scheme: str, meaning: str) -> Harm:
    """Rejected, for a reason."""

    def harm(dataset: Dataset) -> None:
        titled("113001", "Rejected for Quality Reasons")(dataset)
        item = Dataset()
        item.RelationshipType, item.ValueType = "HAS CONCEPT MOD", "CODE"
        coded("ConceptNameCodeSequence", "113011", "DCM", "Document Title Modifier")(item)
        coded("ConceptCodeSequence", value, scheme, meaning)(item)
        dataset.ContentSequence.append(item)

    return harm


EVIDENCE = "CurrentRequestedProcedureEvidenceSequence.0.ReferencedSeriesSequence.0"
SELECTION_DEFECTS: dict[str, Harm] = {
    "a title that is none": titled("121058", "Procedure reported"),
    "no title": drop("ConceptNameCodeSequence"),
    "no template": drop("ContentTemplateSequence"),
    "another template": at("ContentTemplateSequence.0", put("TemplateIdentifier", "1500")),
    "a reason that is none": modified_by("10200004", "SCT", "Liver"),
    "nothing selected": lambda dataset: put(
        "ContentSequence", Sequence([item for item in dataset.ContentSequence if item.ValueType != "IMAGE"])
    )(dataset),
    "an object selected twice": lambda dataset: dataset.ContentSequence.append(
        copy.deepcopy(next(item for item in dataset.ContentSequence if item.ValueType == "IMAGE"))
    ),
    "an object that is not in the evidence": in_image(
        at("ReferencedSOPSequence.0", put("ReferencedSOPInstanceUID", "1.2.3"))
    ),
    "an object of another class": in_image(
        at("ReferencedSOPSequence.0", put("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.2"))
    ),
    "frame 3 of a single image": in_image(at("ReferencedSOPSequence.0", put("ReferencedFrameNumber", 3))),
    "an object that is inferred": in_image(put("RelationshipType", "INFERRED FROM")),
    "evidence that is not selected": lambda dataset: dataset.ContentSequence.remove(
        next(item for item in dataset.ContentSequence if item.ValueType == "IMAGE")
    ),
    "evidence that does not exist": at(f"{EVIDENCE}.ReferencedSOPSequence.0", put("ReferencedSOPInstanceUID", "1.2.3")),
    "evidence of another series": at(EVIDENCE, put("SeriesInstanceUID", "1.2.3")),
    "no evidence": drop("CurrentRequestedProcedureEvidenceSequence"),
    "a number in it": in_image(put("ValueType", "NUM")),
    "modality SR": put("Modality", "SR"),
}

ANNOTATION = "GraphicAnnotationSequence.0"
GRAPHIC = f"{ANNOTATION}.GraphicObjectSequence.0"
AREA = "DisplayedAreaSelectionSequence.0"
STATE_DEFECTS: dict[str, Harm] = {
    "a graphic outside the image": at(
        GRAPHIC, put("GraphicData", [2.0, 3.0, 40.0, 3.0, 9.0, 12.0, 2.0, 12.0, 2.0, 3.0])
    ),
    "a graphic above the image": at(
        GRAPHIC, put("GraphicData", [2.0, -3.0, 9.0, 3.0, 9.0, 12.0, 2.0, 12.0, 2.0, -3.0])
    ),
    "an odd number of coordinates": at(GRAPHIC, put("GraphicData", [2.0, 3.0, 9.0])),
    "another number of points": at(GRAPHIC, put("NumberOfGraphicPoints", 4)),
    "a line of one point": at(GRAPHIC, all_of(put("GraphicData", [2.0, 3.0]), put("NumberOfGraphicPoints", 1))),
    "a graphic of a type that there is not": at(GRAPHIC, put("GraphicType", "POLYGON")),
    "three dimensions": at(GRAPHIC, put("GraphicDimensions", 3)),
    "units that there are not": at(GRAPHIC, put("GraphicAnnotationUnits", "MM")),
    "pixels called display": at(GRAPHIC, put("GraphicAnnotationUnits", "DISPLAY")),
    "a layer that is not described": at(ANNOTATION, put("GraphicLayer", "THREE")),
    "a layer described twice": at("GraphicLayerSequence.1", put("GraphicLayer", "ONE")),
    "a layer without an order": at("GraphicLayerSequence.0", drop("GraphicLayerOrder")),
    "no layers": drop("GraphicLayerSequence"),
    "an image that is not there": at(
        "ReferencedSeriesSequence.0.ReferencedImageSequence.0", put("ReferencedSOPInstanceUID", "1.2.3")
    ),
    "an image of another class": at(
        "ReferencedSeriesSequence.0.ReferencedImageSequence.0",
        put("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.2"),
    ),
    "another series": at("ReferencedSeriesSequence.0", put("SeriesInstanceUID", "1.2.3")),
    "an annotation of another image": at(
        f"{ANNOTATION}.ReferencedImageSequence.0", put("ReferencedSOPInstanceUID", "1.2.3")
    ),
    "an annotation of nothing": at(ANNOTATION, all_of(drop("GraphicObjectSequence"), drop("TextObjectSequence"))),
    "a text outside the image": at(
        f"{ANNOTATION}.TextObjectSequence.0", put("BoundingBoxBottomRightHandCorner", [99.0, 4.0])
    ),
    "a text without a text": at(f"{ANNOTATION}.TextObjectSequence.0", put("UnformattedTextValue", "")),
    "no displayed area": drop("DisplayedAreaSelectionSequence"),
    "an area beside the image": at(
        AREA,
        all_of(
            put("DisplayedAreaTopLeftHandCorner", [100, 100]), put("DisplayedAreaBottomRightHandCorner", [120, 120])
        ),
    ),
    "an area upside down": at(AREA, put("DisplayedAreaBottomRightHandCorner", [-5, -5])),
    "an area with spacings exchanged": at(AREA, put("PresentationPixelSpacing", [2.25, 1.5])),
    "square pixels that are not": at(
        AREA,
        all_of(drop("PresentationPixelSpacing"), put("PresentationPixelAspectRatio", [1, 1])),
    ),
    "no grey values": drop("PresentationLUTShape"),
    "no label": drop("ContentLabel"),
    "turned by 45 degrees": put("ImageRotation", 45),
}

CAPTURE_DEFECTS: dict[str, Harm] = {
    "10 mm up": moved(10),
    "one frame 100 mm up": moved(100, frames=1),
    "another frame of reference": put("FrameOfReferenceUID", "1.2.3"),
    "one frame too many stated": lambda dataset: put("NumberOfFrames", dataset.NumberOfFrames + 1)(dataset),
    "pixels cut short": lambda dataset: put("PixelData", dataset.PixelData[:-2])(dataset),
    "one sample": put("SamplesPerPixel", 1),
    "grey values": put("PhotometricInterpretation", "MONOCHROME2"),
    "no planar configuration": drop("PlanarConfiguration"),
    "no conversion type": drop("ConversionType"),
    "an increment of nothing": put("FrameIncrementPointer", Tag("FrameTime")),
    "nothing said of what is burned in": drop("BurnedInAnnotation"),
    "another study": put("StudyInstanceUID", "1.2.3"),
}

CONTOUR = "ROIContourSequence.0.ContourSequence.0"


def along_normal(by_mm: float) -> Harm:
    """The first contour, out of its image's plane."""

    def harm(dataset: Dataset) -> None:
        contour = dataset.ROIContourSequence[0].ContourSequence[0]
        normal = np.cross((-0.64, 0.48, 0.6), (0.6, 0.8, 0.0)) * by_mm
        points = np.array(contour.ContourData, float).reshape(-1, 3) + normal
        contour.ContourData = [f"{value:.3f}" for value in points.ravel()]

    return harm


STRUCTURE_DEFECTS: dict[str, Harm] = {
    "a contour 1 mm off its image": along_normal(1.0),
    "a contour one slice off": along_normal(5.0),
    "a contour far away": at(CONTOUR, put("ContourData", ["500"] * 9)),
    "another number of points": at(CONTOUR, put("NumberOfContourPoints", 4)),
    "a coordinate too few": at(CONTOUR, lambda item: put("ContourData", list(item.ContourData)[:-1])(item)),
    "a contour of two points": at(
        CONTOUR,
        all_of(lambda item: put("ContourData", list(item.ContourData)[:6])(item), put("NumberOfContourPoints", 2)),
    ),
    "a contour of a type that there is not": at(CONTOUR, put("ContourGeometricType", "POLYGON")),
    "an image that is not there": at(f"{CONTOUR}.ContourImageSequence.0", put("ReferencedSOPInstanceUID", "1.2.3")),
    "an image of another class": at(
        f"{CONTOUR}.ContourImageSequence.0", put("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.2")
    ),
    "contours of a region that is not there": at("ROIContourSequence.0", put("ReferencedROINumber", 7)),
    "contours of one region twice": at("ROIContourSequence.0", put("ReferencedROINumber", 2)),
    "an observation of a region that is not there": at("RTROIObservationsSequence.0", put("ReferencedROINumber", 7)),
    "two regions of one number": at("StructureSetROISequence.0", put("ROINumber", 2)),
    "a region in another frame of reference": at(
        "StructureSetROISequence.0", put("ReferencedFrameOfReferenceUID", "1.2.3")
    ),
    "another frame of reference": all_of(
        at("ReferencedFrameOfReferenceSequence.0", put("FrameOfReferenceUID", "1.2.3")),
        at("StructureSetROISequence.0", put("ReferencedFrameOfReferenceUID", "1.2.3")),
        at("StructureSetROISequence.1", put("ReferencedFrameOfReferenceUID", "1.2.3")),
    ),
    "a colour that is none": at("ROIContourSequence.0", put("ROIDisplayColor", [300, 0, 0])),
    "no label": drop("StructureSetLabel"),
    "no way that it was made": at("StructureSetROISequence.0", drop("ROIGenerationAlgorithm")),
    "modality CT": put("Modality", "CT"),
}

LABEL_MAP_DEFECTS: dict[str, Harm] = {
    "a label that is not described": lambda dataset: put("PixelData", b"\x09" + dataset.PixelData[1:])(dataset),
    "one bit": put("BitsStored", 1),
    "binary by its name": put("SegmentationType", "BINARY"),
    "10 mm up": moved(10),
    "two frames in one place": lambda dataset: put(
        "PlanePositionSequence", copy.deepcopy(dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence)
    )(dataset.PerFrameFunctionalGroupsSequence[1]),
}
FRACTIONAL_DEFECTS: dict[str, Harm] = {
    "a value above the maximum": put("MaximumFractionalValue", 100),
    "a maximum of 0": put("MaximumFractionalValue", 0),
    "no maximum": drop("MaximumFractionalValue"),
    "no fractional type": drop("SegmentationFractionalType"),
    "a fractional type that there is not": put("SegmentationFractionalType", "CERTAINTY"),
    "twelve bits": put("BitsStored", 12),
    "10 mm up": moved(10),
}
DEFECTS = {
    "map": MAP_DEFECTS,
    "selection": SELECTION_DEFECTS,
    "state": STATE_DEFECTS,
    "capture": CAPTURE_DEFECTS,
    "structure set": STRUCTURE_DEFECTS,
    "label map": LABEL_MAP_DEFECTS,
    "fractional": FRACTIONAL_DEFECTS,
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, table in DEFECTS.items() for name in table])
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom says that a planted value is odd; it is
def test_a_planted_defect_is_found(
    kind: str, name: str, source: tuple[list[Dataset], Path], objects: dict[str, Dataset], tmp_path: Path
) -> None:
    dataset = copy.deepcopy(objects[kind])
    DEFECTS[kind][name](dataset)
    problems = judged_by_us(dataset, source[1], tmp_path / "object.dcm")
    assert [each for each in problems if each.severity is Severity.ERROR], "no rule of our own has found it"
    assert "structure" not in {each.rule for each in problems}, "found only because a rule broke"


@pytest.mark.parametrize(
    "title", [("113037", "Rejected for Patient Safety Reasons"), ("113001", "Rejected for Quality Reasons")]
)
def test_a_rejection_without_a_reason_is_worth_a_warning(
    title: tuple[str, str], source: tuple[list[Dataset], Path], objects: dict[str, Dataset], tmp_path: Path
) -> None:
    dataset = copy.deepcopy(objects["selection"])
    titled(*title)(dataset)
    dataset.ContentSequence = Sequence([each for each in dataset.ContentSequence if each.ValueType != "TEXT"])
    (problem,) = judged_by_us(dataset, source[1], tmp_path / "object.dcm")
    assert (problem.rule, problem.severity) == ("reason", Severity.WARNING)


def test_a_reason_of_the_titles_group_is_right(
    source: tuple[list[Dataset], Path], objects: dict[str, Dataset], tmp_path: Path
) -> None:
    dataset = copy.deepcopy(objects["selection"])
    modified_by("111207", "DCM", "Image artifact(s)")(dataset)
    assert judged_by_us(dataset, source[1], tmp_path / "object.dcm") == []


def test_the_public_programs_are_asked_and_find_nothing_wrong(
    source: tuple[list[Dataset], Path], objects: dict[str, Dataset], tmp_path: Path
) -> None:
    asked: dict[str, set[str]] = {}
    for kind in ("map", "binary", "fractional"):
        file = tmp_path / "object.dcm"
        objects[kind].save_as(file, enforce_file_format=True)
        (judgement,) = validate_files([file], source=source[1])
        asked[kind] = set(judgement.programs)
        assert [each for each in judgement.problems if each.severity is Severity.ERROR] == []
    missing = {each.where for each in judgement.problems if each.rule == "program"}
    assert {"dciodvfy", "dcentvfy", "paramap2itkimage"} <= asked["map"] | missing
    assert {"dciodvfy", "dcentvfy", "segimage2itkimage"} <= asked["binary"] | missing


def test_a_program_that_is_missing_is_said_once(
    source: tuple[list[Dataset], Path],
    objects: dict[str, Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    files = [tmp_path / f"{kind}.dcm" for kind in ("binary", "fractional")]
    for file in files:
        objects[file.stem].save_as(file, enforce_file_format=True)
    judgements = validate_files(files, source=source[1])
    said = [each.where for judgement in judgements for each in judgement.problems if each.rule == "program"]
    assert sorted(said) == ["dcentvfy", "dciodvfy", "segimage2itkimage"]
    assert not any(judgement.has_errors or judgement.programs for judgement in judgements)


def test_one_instance_in_two_files_is_wrong(
    source: tuple[list[Dataset], Path], objects: dict[str, Dataset], tmp_path: Path
) -> None:
    files = [tmp_path / "one.dcm", tmp_path / "other.dcm"]
    for file in files:
        objects["binary"].save_as(file, enforce_file_format=True)
    for subject in subjects_in(files, source=source[1]).values():
        assert subject
        assert "instance" in {each.rule for each in judge(subject)}


def test_what_is_lossy_stays_lossy(objects: dict[str, Dataset], tmp_path: Path) -> None:
    images = images_of(volume_in_plane("oblique"))
    for image in images:
        image.LossyImageCompression = "01"
        image.LossyImageCompressionRatio, image.LossyImageCompressionMethod = "10", "ISO_10918_1"
    write_files(images, tmp_path / "source")
    rules = {each.rule for each in judged_by_us(objects["binary"], tmp_path / "source", tmp_path / "object.dcm")}
    assert rules == {"lossy"}


def test_a_segment_of_the_other_side_is_wrong(objects: dict[str, Dataset], tmp_path: Path) -> None:
    images = images_of(volume_in_plane("oblique"))
    for image in images:
        image.Laterality = "L"
    write_files(images, tmp_path / "source")
    dataset = copy.deepcopy(objects["binary"])
    kind = dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    for side, expected in (
        (Code("7771000", "SCT", "Left"), set()),
        (Code("24028007", "SCT", "Right"), {"segment"}),
    ):
        kind.SegmentedPropertyTypeModifierCodeSequence = Sequence([code(side)])
        rules = {each.rule for each in judged_by_us(dataset, tmp_path / "source", tmp_path / "object.dcm")}
        assert rules == expected


@pytest.mark.parametrize(
    ("date", "mixed", "severity"),
    [("20160101", False, Severity.WARNING), ("20160101", True, Severity.ERROR), ("20260101", False, Severity.ERROR)],
)
def test_old_snomed_is_legacy_in_old_objects(
    date: str, mixed: bool, severity: Severity, objects: dict[str, Dataset], tmp_path: Path
) -> None:
    dataset = copy.deepcopy(objects["binary"])
    for keyword in ("ContentDate", "StudyDate", "InstanceCreationDate", "SeriesDate"):
        if keyword in dataset:
            setattr(dataset, keyword, date)
    for index, segment in enumerate(dataset.SegmentSequence):
        for keyword, old in (("Category", ("T-D000A", ANATOMY)), ("Type", ("T-62000", LIVER))):
            if not mixed or index == 0:
                item = segment[f"SegmentedProperty{keyword}CodeSequence"].value[0]
                item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = old[0], "SRT", old[1].meaning
    file = tmp_path / "object.dcm"
    dataset.save_as(file, enforce_file_format=False)
    (subject,) = subjects_in([file], source=None).values()
    assert subject
    found = [each for each in judge(subject) if each.rule == "code"]
    assert {each.severity for each in found} == {severity}

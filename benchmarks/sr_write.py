"""From findings in memory to the measurement report's file on disk, with 300 source images."""

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
from pydicom.dataset import Dataset

from coread.benchmarks.comparison import Result, Way, compare
from coread.benchmarks.samples import IDENTITY, Shape, ct_series, findings
from coread.dicom_sr.report import device_observer, encode_measurement_report, measurement_item, tracking
from coread.dicom_sr.segmentation import encode_segmentation
from coread.dicom_sr.source import Plane, Source
from coread.findings import Findings


def sr_write(folder: Path, *, segments: int, shape: Shape, repeats: int) -> Result:
    """Ours, the report that names every image (in its library and in each group), and the bytes written."""
    found = findings(segments, shape)
    images = ct_series(shape)
    planes = [Plane(image=image) for image in images]
    segmentation = encode_segmentation(found, Source(planes=planes, spacing_mm=1.5), IDENTITY)
    path = folder / "written.dcm"

    def ours() -> Path:
        source = Source(planes=planes, spacing_mm=1.5)  # its headers are mended once for all objects; here each time
        report = encode_measurement_report(found, source, IDENTITY, segmentation=segmentation)
        report.save_as(path, enforce_file_format=True)
        return path

    def every_image() -> Path:
        every_image_report(found, images, segmentation).save_as(path)
        return path

    ours()
    content = path.read_bytes()

    def floor() -> Path:
        path.write_bytes(content)
        return path

    ways = {
        "floor": Way(run=floor, note="the finished bytes written"),
        "coread": Way(run=ours, note="key images in the library, all images in the evidence"),
        "highdicom, every image": Way(run=every_image, note="all images in the library and in each group"),
    }
    return compare(ways, repeats=repeats)


def every_image_report(found: Findings, images: Sequence[Dataset], segmentation: Dataset) -> hd.sr.Comprehensive3DSR:
    """By highdicom, with every source image in the library and in each group."""
    sources = [hd.sr.SourceImageForSegmentation.from_source_image(image) for image in images]
    groups = [
        hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking(structure, IDENTITY),
            referenced_segment=hd.sr.ReferencedSegment(
                sop_class_uid=segmentation.SOPClassUID,
                sop_instance_uid=segmentation.SOPInstanceUID,
                segment_number=number,
                source_images=sources,
            ),
            finding_type=structure.type,
            measurements=[measurement_item(each) for each in structure.measurements],
        )
        for number, structure in enumerate(found.present, start=1)
    ]
    return hd.sr.Comprehensive3DSR(
        evidence=[*images, segmentation],
        content=hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=device_observer(IDENTITY)),
            procedure_reported=hd.sr.CodedConcept("363679005", "SCT", "Imaging procedure"),
            imaging_measurements=groups,
            referenced_images=images,
        ),
        series_instance_uid=IDENTITY.uid("series"),
        series_number=1,
        sop_instance_uid=IDENTITY.uid("instance"),
        instance_number=1,
        manufacturer="benchmark",
    )

"""From findings in memory to the measurement report's file on disk, with 300 source images."""

from pathlib import Path

import highdicom as hd

from coread.benchmarks.comparison import Row, Way, compare
from coread.benchmarks.samples import IDENTITY, ct_series, findings
from coread.dicom_sr.report import device_observer, encode_measurement_report, measurement_item, tracking
from coread.dicom_sr.segmentation import encode_segmentation
from coread.dicom_sr.source import Plane, Source


def sr_write(segments: int, folder: Path, *, repeats: int) -> list[Row]:
    """Ours, the report that names every image (in its library and in each group), and the bytes written."""
    found = findings(segments)
    images = ct_series()
    planes = [Plane(image=image) for image in images]
    segmentation = encode_segmentation(found, Source(planes=planes, spacing_mm=1.5), IDENTITY)
    path = folder / "written.dcm"

    def ours() -> Path:
        source = Source(planes=planes, spacing_mm=1.5)  # its headers are mended once for all objects; here each time
        report = encode_measurement_report(found, source, IDENTITY, segmentation=segmentation)
        report.save_as(path, enforce_file_format=True)
        return path

    def every_image() -> Path:
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
        report = hd.sr.Comprehensive3DSR(
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
        report.save_as(path)
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
    return compare(ways, floor="floor", repeats=repeats)

"""Findings → Key Object Selection (TID 2010): the images that show them best."""

import highdicom as hd
from pydicom.dataset import Dataset

from coread import codes
from coread.dicom_sr.header import in_series
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.report import device_observer
from coread.dicom_sr.source import Source
from coread.findings import Findings
from coread.objects import ObjectKind


def encode_key_objects(findings: Findings, source: Source, identity: ResultIdentity) -> Dataset:
    """The key slice of each structure that is present, titled Of Interest."""
    keys = sorted({findings.key_plane(structure) for structure in findings.present})
    images = {source.planes[index].image.SOPInstanceUID: source.image_of(source.planes[index]) for index in keys}
    names = ", ".join(structure.name for structure in findings.present)
    document = hd.ko.KeyObjectSelectionDocument(
        evidence=list(images.values()),
        content=hd.ko.KeyObjectSelection(
            document_title=codes.OF_INTEREST,
            referenced_objects=list(images.values()),
            observer_device_context=device_observer(identity),
            description=f"Largest extent of: {names}",
        ),
        **in_series(identity, ObjectKind.KOS),
    )
    for item in document.ContentSequence:
        if item.ValueType in ("IMAGE", "COMPOSITE"):
            del item.ConceptNameCodeSequence  # TID 2010 names none
    return document

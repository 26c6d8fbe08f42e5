"""The waveform that a group's statements were made of (PS3.16 TID 1501, row 10f).

highdicom (0.28) writes such items but cannot read them, and it reads every item again while it builds a document. So
they are put into the document afterwards.
"""

from collections.abc import Sequence

import highdicom as hd
from pydicom.dataset import Dataset

from coread import codes

MEASUREMENT_GROUP = "125007"


def refer_to_waveform(report: Dataset, waveform: Dataset, *, channels: Sequence[tuple[int, int]] | None) -> None:
    """Let each measurement group of a report name the waveform as its source, which the evidence must list.

    ``channels``: multiplex group and channel of each, numbered from 1 (PS3.3 C.18.5.1.1); None: all of them.
    """
    for container in report.ContentSequence:
        for group in container.get("ContentSequence") or []:
            if group.ConceptNameCodeSequence[0].CodeValue == MEASUREMENT_GROUP:
                item = hd.sr.WaveformContentItem(
                    name=codes.SOURCE_OF_MEASUREMENT,
                    referenced_sop_class_uid=waveform.SOPClassUID,
                    referenced_sop_instance_uid=waveform.SOPInstanceUID,
                    relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
                )
                if channels is not None:
                    pairs = [number for pair in channels for number in pair]
                    item.ReferencedSOPSequence[0].ReferencedWaveformChannels = pairs
                group.ContentSequence.append(item)

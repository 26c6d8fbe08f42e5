"""Texts that stay, without what leads back: UIDs and the job's id are replaced, Orthanc's ids go; so does a text that
names the patient.
"""

import re
from collections.abc import Collection

from coread.pseudonyms.key import Key

REMOVED = "REMOVED"
"""What stands in the place of a text."""

_ORTHANC_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}(?:-[0-9a-f]{8}){4}(?![0-9a-f])")
"""SHA-1 of PatientID and UIDs, which whoever has these can compute."""
_UID = re.compile(r"(?<![\w.])[0-2](?:\.(?:0|[1-9][0-9]*)){2,}(?!\w|\.[0-9])")
SHORTEST_UID = 16
"""Characters. What is shorter is a version, or an address."""


def cleaned(text: str, *, key: Key, traces: Collection[str] = (), job_id: str = "") -> str:
    """A text with pseudonyms in it; REMOVED if one of ``traces`` stands in it as a word, whatever its case."""
    if any(re.search(rf"(?<!\w){re.escape(trace)}(?!\w)", text, re.IGNORECASE) for trace in traces):
        return REMOVED
    if job_id:
        text = text.replace(job_id, key.job(job_id))
    text = _ORTHANC_ID.sub(REMOVED, text)
    return _UID.sub(lambda match: key.uid(match[0]) if len(match[0]) >= SHORTEST_UID else match[0], text)

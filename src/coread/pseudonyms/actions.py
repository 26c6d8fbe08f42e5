"""What the Basic Application Level Confidentiality Profile does to each attribute (PS3.15 Table E.1-1).

The table is dicom-anonymizer's, which keeps it with the standard's editions. What is done by it is our own
(`profile`): that package looks at the top of an object only, and gives new UIDs by chance.
"""

from enum import StrEnum
from functools import lru_cache

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from pydicom.tag import BaseTag

EDITION = "2026c"


class Action(StrEnum):
    """What is done to an attribute (PS3.15 Table E.1-1a). Where the table leaves a choice that depends on what the
    object must have, the one is taken that fits any object.
    """

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    """Another value of its kind."""
    INSIDE = "U*"
    """A sequence whose items stay, with new UIDs."""


_BY_LIST = (
    (table.X_TAGS, Action.REMOVE),
    (table.Z_TAGS, Action.EMPTY),
    (table.X_Z_TAGS, Action.EMPTY),
    (table.D_TAGS, Action.DUMMY),
    (table.Z_D_TAGS, Action.DUMMY),
    (table.X_D_TAGS, Action.DUMMY),
    (table.X_Z_D_TAGS, Action.DUMMY),
    (table.X_Z_U_STAR_TAGS, Action.INSIDE),
)
_OF_ONE = {BaseTag(tag[0] << 16 | tag[1]): action for tags, action in _BY_LIST for tag in tags if len(tag) == 2}
CURVES, OVERLAYS = 0x50, 0x60
"""The upper half of the numbers of repeating groups. The table names their data alone; without these nothing is left
that the rest of a group could describe.
"""


@lru_cache(maxsize=4096)
def action_of(tag: BaseTag) -> Action | None:
    """What is done to an attribute; None if the table does not name it. UIDs are none of this table's concern here:
    every one is replaced. Private attributes are removed.
    """
    if tag.is_private or tag.group >> 8 in (CURVES, OVERLAYS):
        return Action.REMOVE
    return _OF_ONE.get(tag)

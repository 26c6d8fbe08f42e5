"""Names that imaging models give to organs, structures and findings, and the codes that DICOM has for them.

The table stands in ``terminology.yaml``: SNOMED CT and DCM codes as PS3.16 lists them (categories CID 7150, types CID
7151, laterality CID 244). A name is found word for word or not at all: a wrong code is worse than none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from coread.models.manifest import CodeTriple, Strict
from coread.models.yaml_file import read_yaml

TERMINOLOGY = Path(__file__).with_name("terminology.yaml")

LATERALITY: Mapping[str, CodeTriple] = {
    "left": CodeTriple("SCT", "7771000", "Left"),
    "right": CodeTriple("SCT", "24028007", "Right"),
}
"""Word → code (CID 244)."""

BACKGROUND = CodeTriple("DCM", "125040", "Background")
"""The type of what is no structure (CID 7159)."""

NORMAL = CodeTriple("SCT", "17621005", "Normal")
"""The type of what is no finding (CID 7159)."""

_FILLERS = frozenset({"of", "the"})
"""Words that change no name. Not "and": a kidney and a tumor are no kidney tumor."""

_RIGHT_SHADE = 0.75
"""How bright the right one of a pair is beside the left one, so that they can be told apart where they meet."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """What a name means."""

    category: CodeTriple | None
    """Segmented property category (CID 7150); None: it is no segment, only a finding of a classifier."""
    type: CodeTriple
    """Segmented property type (CID 7151), or the finding."""
    anatomy: CodeTriple | None = None
    """Anatomic region, where the type does not already say it."""
    laterality: CodeTriple | None = None
    """Left or right (CID 244), where the type does not already say it."""
    value: CodeTriple | None = None
    """The answer, where the name is one of several that exclude each other and ``type`` is what they answer."""
    colour: tuple[int, int, int]
    """sRGB, 0 to 255."""


class Entry(Strict):
    """A term in the table."""

    names: tuple[str, ...]
    type: CodeTriple
    anatomy: CodeTriple | None = None
    value: CodeTriple | None = None
    paired: bool = False
    """Whether there is a left and a right one."""
    colour: tuple[int, int, int]


class Group(Strict):
    """The terms of one category."""

    category: CodeTriple | None = None
    terms: tuple[Entry, ...]


class Table(Strict):
    """The file ``terminology.yaml``."""

    spellings: Mapping[str, str]
    """Word → the words that it is taken for."""
    groups: tuple[Group, ...]


def lookup(name: str) -> Term | None:
    """The term called ``name``, None if there is none. Case, plural and the order of words do not matter, nor whether
    spaces are written as ``_`` or ``-``.
    """
    words = _words(name)
    found = _index().get(_key(words))
    if found:
        return _term(*found)
    sides = [word for word in words if word in LATERALITY]
    found = _index().get(_key(word for word in words if word not in LATERALITY))
    return _term(*found, side=sides[0]) if found and found[1].paired and len(sides) == 1 else None


def _term(category: CodeTriple | None, entry: Entry, side: str | None = None) -> Term:
    shade = _RIGHT_SHADE if side == "right" else 1
    red, green, blue = entry.colour
    return Term(
        category=category,
        type=entry.type,
        anatomy=entry.anatomy,
        laterality=LATERALITY[side] if side else None,
        value=entry.value,
        colour=(round(red * shade), round(green * shade), round(blue * shade)),
    )


@cache
def _table() -> Table:
    return read_yaml(TERMINOLOGY, Table)


@cache
def _index() -> Mapping[tuple[str, ...], tuple[CodeTriple | None, Entry]]:
    """The words of each name → category and entry."""
    return {
        _key(_words(name)): (group.category, entry)
        for group in _table().groups
        for entry in group.terms
        for name in entry.names
    }


def _key(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(words))


def _words(name: str) -> list[str]:
    """The words of a name in lower case and singular, each spelt as the table spells it."""
    words = [_singular(word) for word in name.casefold().replace("_", " ").replace("-", " ").split()]
    return [each for word in words if word not in _FILLERS for each in _table().spellings.get(word, word).split()]


def _singular(word: str) -> str:
    """English and Latin plurals as their singular; other words come out the same each time, if not as they are."""
    if word.endswith("ae"):  # vertebrae
        return word[:-1]
    if word.endswith("ies"):  # arteries
        return word[:-3] + "y"
    if word.endswith("sses"):  # masses
        return word[:-2]
    return word if word.endswith(("ss", "us", "is")) else word.removesuffix("s")

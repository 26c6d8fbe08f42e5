"""A first ``coread.yaml`` for a bundle, from what the bundle says of itself.

Metadata and inference configuration are read as plain data; no expression in them is evaluated. What they do not say
is left as ``TODO`` with a comment, and a manifest with a ``TODO`` in it does not load: nothing is guessed, and nothing
runs before a person has answered.
"""

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from coread.errors import ConfigurationError
from coread.leads import TWELVE_LEADS
from coread.models.manifest import CodeTriple, TaskKind
from coread.models.metadata import configurations_in, find_metadata, read_mapping
from coread.models.tasks import (
    Format,
    channels_of,
    inputs_of,
    modalities_of,
    outputs_of,
    refusal_of,
    sizes_of,
    task_of,
)
from coread.models.terminology import BACKGROUND, NORMAL, Term, lookup

TODO = "TODO"

PRESENT = CodeTriple("SCT", "52101004", "Present")
ABSENT = CodeTriple("SCT", "272519000", "Absent")
"""CID 240."""

PROJECTIONS = frozenset({"CR", "DX", "MG"})
"""Modalities of single images without a place in space."""

HEAD = """\
Drafted from the bundle's metadata and inference configuration. Read all of it: metadata are often wrong. What is left
open must be answered before this file loads. CIDs are the context groups of DICOM PS3.16, annex B:
https://dicom.nema.org/medical/dicom/current/output/chtml/part16/chapter_B.html
Not in the metadata: for whom the model was made. Say so under `population` (age_years, sex); else everybody is read."""

_TITLE_LENGTH = 46
_NAME_LENGTH = 64
_WIDTH = 118
_DISPLAYED = frozenset({"jpeg", "jpg", "png", "bmp"})
"""Kinds of file whose pixels are as displayed."""
_COLOURS = ({"r", "g", "b"}, {"red", "green", "blue"})
_COLOUR_CHANNELS = 3
_TURNS = frozenset({"Orientation", "Orientationd", "OrientationD", "OrientationDict"})
_ANY_IMAGE = frozenset({"", "image", "images", "img", "input"})
"""Names of a channel that say nothing."""
_TASK_WORDS = re.compile(
    r"2d|3d|anatomy|annotation|bundle|classifi(cation|er)|ct|detect(ion|or)|landmarks?|model|mri?|pet|regression"
    r"|segment(ation|ator)|template|us|x-?ray",
    re.IGNORECASE,
)
"""Words of a bundle's name that do not say what it is about."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What a bundle says of itself, as plain data."""

    folder: Path
    metadata: Mapping[str, Any]
    configuration: Mapping[str, Any]
    """For inference; empty if there is none."""

    @property
    def output(self) -> Format:
        return next(iter(outputs_of(self.metadata).values()), {})

    @property
    def subject(self) -> str:
        """What the bundle is about, by its name: "lung nodule" of ``lung_nodule_ct_detection``."""
        words = str(self.metadata.get("name") or self.folder.name).replace("_", " ").split()
        return " ".join(word for word in words if not _TASK_WORDS.fullmatch(word))

    @property
    def before(self) -> Sequence[Mapping[str, Any]]:
        """Every mapping in the configuration but for the postprocessing."""
        return [node for node, after in _nodes(self.configuration) if not after]

    @property
    def after(self) -> Sequence[Mapping[str, Any]]:
        """Every mapping in the postprocessing."""
        return [node for node, after in _nodes(self.configuration) if after]

    def meaning(self, name: str) -> Term | None:
        """The term called ``name``, alone or together with what the bundle is about."""
        return lookup(name) or lookup(f"{self.subject} {name}")


def draft_manifest(folder: Path) -> str:
    """The text of a ``coread.yaml`` for the bundle in ``folder``.

    Raises ConfigurationError if there are no metadata, or if they are of a model that Coread does not run.
    """
    bundle = _read_bundle(folder)
    refusal = refusal_of(bundle.metadata)
    if refusal:
        raise ConfigurationError(f"{folder}: {refusal}")
    task = task_of(bundle.metadata)
    blocks = (_head(bundle, task), _series(bundle), _orientation(bundle), _table(bundle, task), _limits(bundle))
    return "\n".join("\n".join((*block, "")) for block in blocks if block)


def _head(bundle: Bundle, task: TaskKind | None) -> Sequence[str]:
    name = re.sub(r"[^a-z0-9]+", "_", bundle.folder.name.casefold()).strip("_")
    said = bundle.metadata.get("name") or bundle.metadata.get("task")
    title = _one_line(str(said)) if said else _for_people(bundle.folder.name)
    described = bundle.metadata.get("description")
    return [
        *(f"# {line}" for line in HEAD.splitlines()),
        *(_comment(str(described)) if described else ()),
        f"name: {_flow((name if re.match('[a-z]', name) else f'model_{name}')[:_NAME_LENGTH])}",
        f"title: {_flow(textwrap.shorten(title, _TITLE_LENGTH, placeholder='') or title[:_TITLE_LENGTH])}",
        *(() if task else _todo(f"what the model does, one of {', '.join(TaskKind)}; the metadata do not tell")),
        f"task: {task or TODO}",
    ]


def _series(bundle: Bundle) -> Sequence[str]:
    if _is_waveform(bundle):
        return ["series:", *_indented(_ecg(bundle))]
    inputs = inputs_of(bundle.metadata)
    first: Format = next(iter(inputs.values()), {})
    channels = list(inputs) if len(inputs) > 1 else list(channels_of(first).values()) or [""]
    if {name.casefold() for name in channels} in _COLOURS:
        channels = [""]
    lines = ["series: # narrow it down by what the bundle's README asks for: plane, phase, contrast, slices, spacing"]
    if len(channels) == 1:
        return lines + _indented([*_nameless_channels(bundle, first), *_one_series(bundle, channels[0], keyed=False)])
    for name in channels:
        told = [*_todo("patterns (* and ?) by which it is told from the other series"), f"SeriesDescription: {TODO}"]
        entry = [*_one_series(bundle, name, keyed=len(inputs) > 1), *_indented(told)]
        lines += _indented([f"- {entry[0]}", *_indented(entry[1:])])
    return lines


def _ecg(bundle: Bundle) -> Sequence[str]:
    """What is read of an ECG. Metadata have no place for a sampling rate."""
    described = next(iter(inputs_of(bundle.metadata).values()))
    known = {lead.casefold(): lead for lead in TWELVE_LEADS}
    named = [known.get(name.casefold().removeprefix("lead").strip()) for name in channels_of(described).values()]
    whole = bool(named) and None not in named and len(named) == described.get("num_channels", len(named))
    order = f"in the order of the bundle's channels, of {', '.join(TWELVE_LEADS)}"
    leads = [f"leads: {_flow(named)}"] if whole else [*_todo(order), f"leads: {TODO}"]
    size = "x".join(map(str, described.get("spatial_shape") or ())) or "an unknown number of"
    rate = """samples a second of the recordings that the model was trained with. It gets mV; if it was trained in
        another unit, its preprocessing must make that of it"""
    return [
        "described_as: a 12-lead ECG",
        "must:",
        "  Modality: [ECG]",
        "waveform:",
        *_indented([*leads, *_todo(rate), f"sampling_rate_hz: {TODO}"]),
        *_indented([*_todo(f"how long a recording it takes; its input has {size} samples"), f"duration_s: {TODO}"]),
    ]


def _nameless_channels(bundle: Bundle, described: Format) -> Sequence[str]:
    """Asks for channels that have no name. A radiograph for a network that takes colours becomes three equal ones."""
    named = len(channels_of(described)) or 1
    number = described.get("num_channels", named)
    if number == named or (_is_projection(bundle) and number == _COLOUR_CHANNELS):
        return []
    question = f"""the network takes {number} channels, the metadata name {named} of them. If they are different series,
        list one for each; if the bundle makes the others by itself, delete the next line"""
    return [*_todo(question), f"{TODO}: channels"]


def _one_series(bundle: Bundle, channel: str, *, keyed: bool) -> Sequence[str]:
    modalities = modalities_of(bundle.metadata)
    kind = "radiograph" if _is_projection(bundle) else f"{modalities[0]} series" if modalities else "series"
    said = "" if channel.casefold() in _ANY_IMAGE else f"{channel} "
    displayed = str(bundle.metadata.get("data_type", "")).casefold() in _DISPLAYED
    return [
        f"described_as: {_flow(_one_line(_with_article(said + kind)))}",
        *([f"key: {_flow(channel)}"] if keyed else ()),
        *(["projection: true"] if _is_projection(bundle) else ()),
        *(["values: display"] if _is_projection(bundle) and displayed else ()),
        "must:",
        *(_indented(() if modalities else _todo("Modality as DICOM writes it, such as [CT] (PS3.3 C.7.3.1.1.1)"))),
        f"  Modality: {_flow(list(modalities)) if modalities else TODO}",
    ]


def _orientation(bundle: Bundle) -> Sequence[str]:
    """Axis directions, for a bundle that does not turn its input by itself."""
    if _is_projection(bundle) or _is_waveform(bundle) or _turns_its_input(bundle):
        return []
    question = """in which axis directions do the volumes lie that the model was trained with, such as RAS or LPS
        (nibabel.aff2axcodes tells it of a training image)? No Orientationd is in the preprocessing, so the network sees
        volumes as they are stored; with a wrong answer it sees a mirrored patient, and no error shows it"""
    return [*_todo(question), f"orientation: {TODO}"]


def _table(bundle: Bundle, task: TaskKind | None) -> Sequence[str]:
    match task:
        case TaskKind.SEGMENTATION:
            return _structures(bundle)
        case TaskKind.DETECTION:
            return _labels(bundle, _detected(bundle))
        case TaskKind.LANDMARKS:
            return _labels(bundle, _points(bundle))
        case TaskKind.CLASSIFICATION:
            return _classes(bundle)
        case TaskKind.REGRESSION:
            return _numbers(bundle)
        case None:
            return _todo("what the outputs mean, in the table that the task needs: `labels`, `classes` or `numbers`")


def _structures(bundle: Bundle) -> Sequence[str]:
    names = channels_of(bundle.output)
    structures = {number: name for number, name in names.items() if not _is_background(name)}
    lines = list(_labels(bundle, structures))
    doubt = _doubt(bundle, len(structures), background=len(structures) < len(names))
    if structures and doubt:
        lines[1:1] = _indented([*_todo(f"{doubt} Then delete the next line"), f"{TODO}: numbers"])
    return lines


def _doubt(bundle: Bundle, structures: int, *, background: bool) -> str | None:
    """What makes it doubtful that the numbers in the metadata are those that the bundle gives."""
    if re.search("lambda", str(bundle.after), re.IGNORECASE):
        return "compare the numbers with what the bundle gives: its postprocessing changes values by an expression."
    apart = _says(bundle.after, "sigmoid", "threshold") and not _says(bundle.after, "argmax")
    if background or (structures > 1 and apart):
        return None
    return "number the labels by value, or from 0 by channel if each has one of its own: no background is named."


def _detected(bundle: Bundle) -> Mapping[int, str]:
    """Label → name. A detector of one class finds what its bundle is about."""
    names = channels_of(bundle.output)
    classes = [node["num_classes"] for node in bundle.before if "num_classes" in node]
    return names or ({0: bundle.subject} if classes == [1] and lookup(bundle.subject) else {})


def _points(bundle: Bundle) -> Mapping[int, str]:
    """Number → name of each landmark. Metadata have no place for the names: they are where the author put them."""
    count = max(sizes_of(bundle.output)[-1:], default=0)
    numbers = {str(number) for number in range(count)}
    tables = (table for table in bundle.metadata.values() if isinstance(table, Mapping) and set(table) == numbers)
    named = next((table for table in tables if all(isinstance(name, str) for name in table.values())), None)
    return {number: named[str(number)] if named else f"landmark {number}" for number in range(count)}


def _labels(bundle: Bundle, names: Mapping[int, str]) -> Sequence[str]:
    if not names:
        return ["labels:", *_indented([*_todo("each label of the output; the metadata name none"), f"1: {TODO}"])]
    lines = ["labels:"]
    for number, name in names.items():
        term = bundle.meaning(name)
        lines += _indented([f"{number}:", *_indented(_label(name, term))])
    return lines


def _label(name: str, term: Term | None) -> Sequence[str]:
    lines = [f"name: {_flow(_for_people(name))}"]
    if term is None or term.category is None:
        question = f'codes of "{_one_line(name)}": category from CID 7150, type from CID 7151 with the groups in it'
        return [*lines, *_todo(question), f"category: {TODO}", f"type: {TODO}"]
    parts = {
        "category": term.category,
        "type": term.type,
        "anatomy": term.anatomy,
        "laterality": term.laterality,
        "colour": term.colour,
    }
    return [*lines, *_given(parts)]


def _classes(bundle: Bundle) -> Sequence[str]:
    names = channels_of(bundle.output)
    if not names:
        return ["classes:", *_indented([*_todo("each class of the output; the metadata name none"), f"0: {TODO}"])]
    # A class has no place for a side, and a finding that is absent on the left is not absent.
    known = {number: bundle.meaning(name) for number, name in names.items()}
    terms = {number: None if term and term.laterality else term for number, term in known.items()}
    exclusive = _excludes(bundle, list(terms.values()))
    asked = _asked(list(terms.values()))
    question = "whether exactly one of the classes holds (true) or any number of them (false)"
    lines = [*_todo(question), f"exclusive: {TODO}"] if exclusive is None else [f"exclusive: {_flow(exclusive)}"]
    lines.append("classes:")
    for number, name in names.items():
        answer = _answer(name, terms[number], asked) if exclusive else _finding(name, terms[number])
        lines += _indented([f"{number}:", *_indented([f"name: {_flow(_for_people(name))}", *answer])])
    return lines


def _excludes(bundle: Bundle, terms: Sequence[Term | None]) -> bool | None:
    """Whether exactly one class holds: all answer one question, or the bundle chooses one; None if it is not said."""
    questions = [term.type if term and term.value else None for term in terms]
    if questions[0] and len(set(questions)) == 1:
        return True
    if _says(bundle.after, "softmax", "argmax"):
        return True
    return False if _says(bundle.after, "sigmoid") else None


def _asked(terms: Sequence[Term | None]) -> Term | None:
    """The finding that is present in one of two classes, where the other one is normal."""
    findings = [term for term in terms if term and term.type != NORMAL]
    if len(terms) != 2 or None in terms or len(findings) != 1 or findings[0].value:
        return None
    return findings[0]


def _answer(name: str, term: Term | None, asked: Term | None) -> Sequence[str]:
    """Finding and value of a class that excludes the others."""
    if asked and term:
        return _coded(asked.type, ABSENT if term.type == NORMAL else PRESENT, asked.anatomy)
    if term and term.value:
        return _coded(term.type, term.value, term.anatomy)
    question = f"""what the question is, and the code of "{_one_line(name)}" as its answer; findings are in CID 6101 and
        6102 (chest), CID 6054 (breast) and others, Present and Absent in CID 240"""
    return [*_todo(question), f"finding: {TODO}", f"value: {_flow(term.type) if term else TODO}"]


def _finding(name: str, term: Term | None) -> Sequence[str]:
    """Finding of a class that is present or absent by itself."""
    if term and not term.value:
        return _coded(term.type, None, term.anatomy)
    question = f'code of the finding "{_one_line(name)}", from CID 6101 and 6102 (chest), CID 6054 (breast) or others'
    return [*_todo(question), f"finding: {TODO}"]


def _coded(finding: CodeTriple, value: CodeTriple | None, anatomy: CodeTriple | None) -> Sequence[str]:
    return _given({"finding": finding, "value": value, "anatomy": anatomy})


def _numbers(bundle: Bundle) -> Sequence[str]:
    count = math.prod(sizes_of(bundle.output)) or 1
    names = channels_of(bundle.output)
    lines = ["numbers:"]
    for number in range(count):
        name = names.get(number) or bundle.subject
        question = f'code of what "{_one_line(name)}" measures (CID 218 and others), and of its unit in UCUM (CID 82)'
        entry = [f"name: {_flow(_for_people(name))}", *_todo(question), f"concept: {TODO}", f"unit: {TODO}"]
        lines += _indented([f"{number}:", *_indented(entry)])
    return lines


def _limits(bundle: Bundle) -> Sequence[str]:
    said = bundle.metadata.get("intended_use")
    if isinstance(said, str) and said.strip():
        return [f"limits: {_flow(_one_line(said))}"]
    return [*_todo("one sentence for the report: what the model is not for"), f"limits: [{TODO}]"]


def _is_projection(bundle: Bundle) -> bool:
    modalities = modalities_of(bundle.metadata)
    return len(inputs_of(bundle.metadata)) == 1 and bool(modalities) and PROJECTIONS.issuperset(modalities)


def _is_waveform(bundle: Bundle) -> bool:
    return tuple(modalities_of(bundle.metadata)) == ("ECG",)


def _is_background(name: str) -> bool:
    term = lookup(name)
    return term is not None and term.type == BACKGROUND


def _turns_its_input(bundle: Bundle) -> bool:
    return any(
        str(node.get("_target_", "")).rpartition(".")[2] in _TURNS and not node.get("_disabled_")
        for node in bundle.before
    )


def _says(transforms: Iterable[Mapping[str, Any]], *arguments: str) -> bool:
    """Whether one of the arguments is given and not false; for several keys it is a list."""
    given = [transform.get(argument) for transform in transforms for argument in arguments]
    return any(any(value) if isinstance(value, list) else value for value in given)


def _nodes(raw: Any, *, after: bool = False) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Every mapping in a configuration, and whether it is in the postprocessing."""
    if isinstance(raw, Mapping):
        yield raw, after
        for key, child in raw.items():
            yield from _nodes(child, after=after or str(key).startswith("post"))
    elif isinstance(raw, list):
        for child in raw:
            yield from _nodes(child, after=after)


def _read_bundle(folder: Path) -> Bundle:
    metadata = find_metadata(folder)
    if not metadata:
        raise ConfigurationError(
            f"expected metadata of a MONAI bundle in {folder} (metadata.json, or a file with `network_data_format`), "
            "found none; name the bundle's own folder"
        )
    files = {path: read_mapping(path) for path in configurations_in(folder)}
    runs = [
        path for path, content in files.items() if content and (path.stem == "inference" or _has_evaluator(content))
    ]
    configuration = files[min(runs, key=_unlike_inference)] if runs else {}
    return Bundle(folder=folder.resolve(), metadata=metadata, configuration=configuration)


def _has_evaluator(content: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Mapping) and "val_data_loader" in value for value in content.values())


def _unlike_inference(path: Path) -> tuple[int, int]:
    """How far a configuration's name is from "inference": variants of it and other purposes come later."""
    words = ("infer", "predict", "test", "eval")
    rank = next((rank for rank, word in enumerate(words) if word in path.stem), 9 if "train" in path.stem else 5)
    return rank, len(path.stem)


def _flow(value: object) -> str:
    """A value in YAML, on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump([plain], default_flow_style=True, allow_unicode=True, width=math.inf).strip()[1:-1]


def _given(parts: Mapping[str, tuple[str | int, ...] | None]) -> list[str]:
    return [f"{key}: {_flow(value)}" for key, value in parts.items() if value is not None]


def _for_people(name: str) -> str:
    text = _one_line(name.replace("_", " "))
    return text[:1].upper() + text[1:]


def _with_article(thing: str) -> str:
    return f"an {thing}" if thing.startswith((*"AEIO", "MR", "XA")) else f"a {thing}"


def _one_line(text: str) -> str:
    """Also without what cannot be printed, which YAML does not allow in a comment."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _comment(text: str, mark: str = "# ") -> list[str]:
    return textwrap.wrap(_one_line(text), _WIDTH, initial_indent=mark, subsequent_indent="#   ", break_long_words=False)


def _todo(question: str) -> list[str]:
    return _comment(question, f"# {TODO}: ")


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]

"""What a bundle can execute, found without executing anything: its configurations are read as plain JSON and YAML.

A bundle is code. MONAI runs whatever its configurations name as ``_target_``, evaluates every string that begins with
``$`` (those of the metadata too), imports the Python files beside them, and fills in other files where a string begins
with ``%``. All of that is listed here for the person who is to approve the bundle; what would be read or run beyond
the files that are listed is refused.

``unusual`` holds what deserves a second look. Usual, and so not in it, are

- as ``_target_``: names in ``monai``, ``torch`` and ``ignite``, and MONAI's own classes without a dot;
- in an expression: references, names that it binds itself, ``HARMLESS_BUILTINS``, and ``KNOWN_MODULES`` with what is
  imported from them;

as long as no part of the name is among ``TOUCHES_THE_MACHINE`` or begins with an underscore. Everything else is
unusual, and so are plain strings that name something of Python's standard library (some of MONAI's arguments import
what they name), the arguments ``weights_only`` and ``allow_pickle``, and an expression that is no Python.

This is a guide for people and no sandbox: who wants to hide a call from it will find a way. What is approved is pinned
by its hashes (``coread.models.allowlist``), and runs without rights and network.

Light: no torch and no MONAI here.
"""

import ast
import builtins
import json
import os
import re
import stat
import sys
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

import yaml

from coread.errors import ConfigurationError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
PYTHON_SUFFIXES = _words(".py .so")
BYTE_CODE_SUFFIXES = _words(".pyc .pyo")
WEIGHT_SUFFIXES = _words(".pt .pth .ckpt .bin .safetensors .onnx .pkl .pickle .npy .npz .h5 .tar")
COMPILED_SUFFIXES = _words(".ts .engine .plan .trt")
"""TorchScript and TensorRT: programs, not only numbers."""

TARGET_ROOTS = _words("monai torch ignite")
KNOWN_MODULES = TARGET_ROOTS | _words("numpy np math random re copy itertools functools json glob os pathlib")
"""Of some, such as os, a part touches the machine; that part goes by one of the names in TOUCHES_THE_MACHINE."""
HARMLESS_BUILTINS = _words(
    "abs all any bool complex dict divmod enumerate filter float frozenset hash int isinstance issubclass iter len "
    "list map max min next pow print range repr reversed round set slice sorted str sum tuple zip"
)
TOUCHES_THE_MACHINE = frozenset(name for name in dir(os) if callable(getattr(os, name))) | _words(
    "os sys io subprocess socket shutil tempfile pickle marshal importlib builtins ctypes ctypeslib f2py runpy pdb "
    "requests urllib http environ write_text write_bytes touch symlink_to hardlink_to save savez savez_compressed "
    "savetxt tofile memmap dump download_url download_and_extract extractall hub jit package load_library "
    "cpp_extension run_cmd optional_import import_module locate load_from_mmar instantiate bundle auto3dseg "
    "AutoRunner BundleAlgo BundleGen MonaiAlgo ConfigParser ConfigComponent ConfigExpression ConfigWorkflow"
)
"""Attributes by which an innocent module or object leads to files, processes, the network, or any name at all."""
UNSAFE_ARGUMENTS = _words("weights_only allow_pickle")
"""They decide whether a file of numbers may bring code along."""

_TARGET = "_target_"
_REFERENCES = "__local_refs"
"""What MONAI makes of ``@name`` before it evaluates an expression: ``__local_refs['name']``."""
_MACRO_FILE = re.compile(r"(.*\.(?:json|yaml|yml))(?=::|$)", re.IGNORECASE)
"""The file in a macro, as MONAI finds it."""


class Found(NamedTuple):
    """Something that stands in a file of the bundle."""

    file: str
    """Path from the bundle's folder, with ``/``."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a bundle can execute. Files are paths from the bundle's folder, with ``/``, in alphabetical order."""

    targets: tuple[str, ...]
    """What is named as ``_target_``, each once, in alphabetical order."""
    expressions: tuple[Found, ...]
    """Strings that begin with ``$``."""
    macros: tuple[Found, ...]
    """Strings that begin with ``%``."""
    unusual: tuple[Found, ...]
    """The names of what deserves a second look, each once for a file."""
    python_files: tuple[str, ...]
    torchscript: tuple[str, ...]
    """TorchScript under whatever name, and TensorRT engines."""
    weights: Mapping[str, int]
    """File → bytes."""


class _Leaf(NamedTuple):
    """A value of a configuration that is no list and no mapping."""

    file: str
    keys: tuple[str, ...]
    value: object

    @property
    def text(self) -> str:
        """The value if it is a string, else nothing."""
        return self.value if isinstance(self.value, str) else ""


def inspect_bundle(folder: Path) -> Inspection:
    """What the bundle in ``folder`` can execute.

    Raises ConfigurationError if it holds what ``regular_files`` or ``read_config`` refuses, a macro that names no file
    of the bundle, or keys that would become code.
    """
    files = regular_files(folder)
    leaves = [
        _Leaf(name, keys, value)
        for name, path in files.items()
        if name.lower().endswith(CONFIG_SUFFIXES)
        for keys, value in _leaves(read_config(path))
    ]
    for leaf in leaves:
        _refuse_keys_that_become_code(leaf)
    expressions = tuple(Found(leaf.file, leaf.text) for leaf in leaves if leaf.text.startswith("$"))
    macros = tuple(Found(leaf.file, leaf.text) for leaf in leaves if leaf.text.startswith("%"))
    for macro in macros:
        _refuse_other_files(macro, files)
    torchscript = tuple(name for name, path in files.items() if _is_compiled(path))
    return Inspection(
        targets=tuple(sorted({str(leaf.value) for leaf in leaves if _is_target(leaf)})),
        expressions=expressions,
        macros=macros,
        unusual=tuple(sorted({*_unusual_values(leaves), *_unusual_names(expressions)})),
        python_files=tuple(name for name, path in files.items() if path.suffix.lower() in PYTHON_SUFFIXES),
        torchscript=torchscript,
        weights={
            name: path.stat().st_size
            for name, path in files.items()
            if path.suffix.lower() in WEIGHT_SUFFIXES and name not in torchscript
        },
    )


def regular_files(folder: Path) -> dict[str, Path]:
    """Path from ``folder``, with ``/`` → file, in alphabetical order.

    Raises ConfigurationError if there is a link, a device or the like, a name that cannot be printed, or Python byte
    code, which would run instead of the source that was looked at.
    """
    files: dict[str, Path] = {}
    for where, folders, names in os.walk(folder, onerror=_cannot_read):
        for path in (Path(where, name) for name in (*folders, *names)):
            mode = path.lstat().st_mode
            if not path.name.isprintable():
                raise ConfigurationError(f"expected file names that can be printed, found {str(path)!r}; rename it")
            if path.name == "__pycache__" or path.suffix.lower() in BYTE_CODE_SUFFIXES:
                raise ConfigurationError(f"expected no Python byte code in a bundle, found {path}; delete it")
            if stat.S_ISREG(mode):
                files[path.relative_to(folder).as_posix()] = path
            elif not stat.S_ISDIR(mode):
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "neither"
                raise ConfigurationError(
                    f"expected only regular files and folders in a bundle, but {path} is {kind}; "
                    "put a copy of the file in its place, or delete it"
                )
    return dict(sorted(files.items()))


def _cannot_read(error: OSError) -> NoReturn:
    raise ConfigurationError(
        f"expected a folder of a bundle, but {error.filename} cannot be read ({error.strerror}); "
        "correct its path or its rights"
    ) from error


def read_config(path: Path, *, called: str | None = None) -> Any:
    """The JSON or YAML file as plain values; nothing in it is resolved.

    Raises ConfigurationError, which names the file as ``called``, if it is not valid, gives a key twice (MONAI takes
    the last), has a YAML tag that is not plain data, or a YAML alias.
    """
    is_json = path.name.lower().endswith(".json")
    try:
        text = path.read_text(encoding="utf-8")
        if is_json:
            return json.loads(text, object_pairs_hook=_without_duplicates)
        _check_nodes(yaml.compose(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        found = " ".join(str(error).split())
        raise ConfigurationError(
            f"{called or path}: expected {'JSON' if is_json else 'YAML of plain data'} in UTF-8, found: {found}; "
            "correct the file"
        ) from error


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_duplicates([key for key, _ in pairs])
    return dict(pairs)


def _check_nodes(root: yaml.Node | None) -> None:
    """Raises ValueError for duplicate keys, and for aliases: they can hide what stands where, and grow without end."""
    seen: set[int] = set()
    waiting = [root] if root else []
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            raise ValueError(f"an alias for what stands in line {node.start_mark.line + 1}, which is to be written out")
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _refuse_duplicates([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _refuse_duplicates(keys: Sequence[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"the key {key!r} twice in one mapping")
        seen.add(key)


def _leaves(config: object) -> Iterator[tuple[tuple[str, ...], object]]:
    """Keys that lead to it, and value, of everything that is no list and no mapping, in the order of the file."""
    waiting: list[tuple[tuple[str, ...], object]] = [((), config)]
    while waiting:
        keys, value = waiting.pop()
        if isinstance(value, Mapping):
            parts = [((*keys, str(key)), part) for key, part in value.items()]
        elif isinstance(value, list | tuple | set):
            parts = [((*keys, str(index)), part) for index, part in enumerate(value)]
        else:
            yield keys, value
            continue
        waiting += reversed(parts)


def _is_target(leaf: _Leaf) -> bool:
    """Whether it is a ``_target_`` or part of one. A key may lead into another mapping: ``network#_target_``."""
    return any(key.endswith(_TARGET) for key in leaf.keys)


def _refuse_keys_that_become_code(leaf: _Leaf) -> None:
    """Raises ConfigurationError if a relative reference (``@#x``, ``%##x``) would bring keys that are no plain names
    into an expression or a path: MONAI puts the keys above it in its place.
    """
    if not leaf.text.startswith(("$", "%")) or not re.search(r"[@%](#|::)", leaf.text):
        return
    for key in leaf.keys:
        if not re.fullmatch(r"\+?[\w#:]+", key):
            raise ConfigurationError(
                f"{leaf.file}: expected keys of letters, digits and _ around the relative reference in {leaf.text!r}, "
                f"found {key!r}, which would become part of it; write the reference out"
            )


def _refuse_other_files(macro: Found, files: Collection[str]) -> None:
    """Raises ConfigurationError if a macro reads a file that is not one of the bundle's."""
    match = _MACRO_FILE.search(macro.text[1:].replace("#", "::"))
    if match and str(PurePosixPath(match[1])) not in files:
        raise ConfigurationError(
            f"{macro.file}: expected a macro to name a file of the bundle by its path from the bundle's folder, "
            f"found {macro.text!r}; put the file into the bundle and correct the path"
        )


def _is_compiled(path: Path) -> bool:
    """Whether it is a compiled program: by its suffix, or a ZIP as TorchScript writes it (it often ends in .pt)."""
    if path.suffix.lower() in COMPILED_SUFFIXES:
        return True
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(name).name == "constants.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return True  # torch's own reader may still take it


def _unusual_values(leaves: Sequence[_Leaf]) -> Iterator[Found]:
    """What is unusual outside of expressions."""
    for leaf in leaves:
        if _is_target(leaf) and not _is_usual_target(str(leaf.value)):
            yield Found(leaf.file, str(leaf.value))
        if _is_of_the_standard_library(leaf.text):
            yield Found(leaf.file, leaf.text)
        yield from (Found(leaf.file, key) for key in leaf.keys if key in UNSAFE_ARGUMENTS)


def _is_usual_target(name: str) -> bool:
    if not re.fullmatch(r"\w+(\.\w+)*", name):
        return False
    root, *parts = name.split(".")
    known = root in TARGET_ROOTS if parts else root[0].isupper()
    return known and not any(map(_is_suspicious, (root, *parts)))


def _is_of_the_standard_library(text: str) -> bool:
    return re.fullmatch(r"\w+(\.\w+)+", text) is not None and text.partition(".")[0] in sys.stdlib_module_names


def _is_suspicious(part: str) -> bool:
    return part in TOUCHES_THE_MACHINE or part.startswith("_")


def _unusual_names(expressions: Sequence[Found]) -> Iterator[Found]:
    """What is unusual in expressions."""
    trees = [(expression, _parsed(expression.text)) for expression in expressions]
    imported = {name for _, tree in trees if tree for name in _names_of_usual_imports(tree)}
    known = HARMLESS_BUILTINS | KNOWN_MODULES | {_REFERENCES} | imported
    for expression, tree in trees:
        names = _unusual_in(tree, known) if tree else (expression.text,)
        yield from (Found(expression.file, name) for name in names)


def _parsed(expression: str) -> ast.Module | None:
    """The Python that MONAI makes of an expression, or None if it is no Python."""
    source = re.sub(r"@(\w*(?:::\w*)*)", rf"{_REFERENCES}['\1']", expression[1:].replace("#", "::"))
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Full name of what is imported, and the name that it gets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            package = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                yield package + alias.name, alias.asname or alias.name.partition(".")[0]


def _is_usual_import(full_name: str) -> bool:
    root, *parts = full_name.split(".")
    return root in KNOWN_MODULES and not any(map(_is_suspicious, parts))


def _names_of_usual_imports(tree: ast.Module) -> Iterator[str]:
    return (name for full_name, name in _imports(tree) if _is_usual_import(full_name))


def _unusual_in(tree: ast.Module, known: Collection[str]) -> Iterator[str]:
    """The names in an expression that are not usual."""
    nodes = list(ast.walk(tree))
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound -= set(dir(builtins))  # bound in one place, they may still mean the built-in in another
    harmless = {id(node.func) for node in nodes if isinstance(node, ast.Call) and _sets_a_backend(node)}
    yield from (full_name for full_name, _ in _imports(tree) if not _is_usual_import(full_name))
    for node in nodes:
        if isinstance(node, ast.Name) and not (node.id in known or node.id in bound or id(node) in harmless):
            yield node.id
        elif isinstance(node, ast.Attribute) and _is_suspicious(node.attr):
            yield _dotted(node)
        elif isinstance(node, ast.keyword) and node.arg in UNSAFE_ARGUMENTS:
            yield node.arg


def _sets_a_backend(call: ast.Call) -> bool:
    """Whether it is ``setattr(torch.backends.…)``, by which bundles choose how torch computes."""
    return (
        isinstance(call.func, ast.Name)
        and call.func.id == "setattr"
        and bool(call.args)
        and _dotted(call.args[0]).startswith("torch.backends.")
    )


def _dotted(node: ast.expr) -> str:
    """The name as it is written; what is no name is shown as (…)."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join((node.id if isinstance(node, ast.Name) else "(…)", *reversed(parts)))

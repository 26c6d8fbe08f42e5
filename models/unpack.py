"""Takes a bundle out of a ZIP, or refuses it: what comes from elsewhere may lie about paths and sizes."""

import lzma
import re
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from coread.errors import ConfigurationError
from coread.models.inspection import CONFIG_SUFFIXES, read_config

MAX_ENTRIES = 10_000
MAX_BYTES = 20 * 1024**3
MAX_RATIO = 200
"""Bytes unpacked for each byte of the archive. Weights hardly shrink, and text seldom to less than a twentieth."""
SMALL_BYTES = 100 * 1024**2
"""So much may come out of any archive, whatever the ratio."""

_BLOCK_BYTES = 1024**2
_ENCRYPTED = 0x1
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError)
"""What Python's reader raises for an archive that is damaged or of a kind that it does not know."""


def unpack(archive: Path, into: Path) -> None:
    """Unpack the bundle's ZIP so that ``into``, which must be new or empty, is the bundle's folder.

    One folder around everything is left away. Raises ConfigurationError, and leaves ``into`` as it was, if the archive
    is damaged, encrypted or too large, holds a name that leads elsewhere or stands twice (upper and lower case count
    as the same), anything but files and folders, or no bundle.
    """
    try:
        if into.exists() and (not into.is_dir() or any(into.iterdir())):
            raise ConfigurationError(f"expected a new or empty folder to unpack into, found {into} full; delete it")
        into.parent.mkdir(parents=True, exist_ok=True)
        with (
            zipfile.ZipFile(archive) as source,
            tempfile.TemporaryDirectory(dir=into.parent, prefix=".unpack-") as temporary,
        ):
            folder = Path(temporary, "bundle")
            folder.mkdir()
            _extract(source, folder, archive, limit=_checked_limit(source, archive))
            _check_is_bundle(folder, archive)
            folder.rename(into)
    except _BROKEN as error:
        raise ConfigurationError(
            f"{archive}: expected a ZIP archive, found it damaged or of an unknown kind ({error}); fetch it again"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{archive}: expected to unpack it into {into}, but: {error}; correct that") from error


def _checked_limit(source: zipfile.ZipFile, archive: Path) -> int:
    """How many bytes may come out. Raises ConfigurationError if an entry, or what they declare together, may not be."""
    entries = source.infolist()
    if len(entries) > MAX_ENTRIES:
        raise _refusal(archive, f"at most {MAX_ENTRIES:,} entries", f"{len(entries):,}")
    for entry in entries:
        _check_entry(entry, archive)
    _check_names_differ([PurePosixPath(entry.filename) for entry in entries], archive)
    limit = min(MAX_BYTES, max(SMALL_BYTES, MAX_RATIO * archive.stat().st_size))
    declared = sum(entry.file_size for entry in entries)
    if declared > limit:
        raise _too_large(archive, limit)
    return limit


def _check_entry(entry: zipfile.ZipInfo, archive: Path) -> None:
    name = entry.orig_filename
    leads_elsewhere = re.search(r"[\\:]", name) or {"", ".", ".."}.intersection(name.removesuffix("/").split("/"))
    if leads_elsewhere or not name.isprintable() or name != entry.filename:
        raise _refusal(archive, "plain names inside of the bundle", repr(name))
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refusal(archive, "only files and folders", f"{name}, which is a link or a device")
    if entry.flag_bits & _ENCRYPTED:
        raise _refusal(archive, "no encryption", f"{name} encrypted")


def _check_names_differ(paths: Sequence[PurePosixPath], archive: Path) -> None:
    """Raises ConfigurationError if two entries, or their folders, would be one on some file system."""
    seen: set[PurePosixPath] = set()
    spelled: dict[str, str] = {}
    for path in paths:
        if path in seen:
            raise _refusal(archive, "every name once", f"{path} twice")
        seen.add(path)
        for each in map(str, (path, *path.parents)):
            first = spelled.setdefault(unicodedata.normalize("NFC", each).casefold(), each)
            if first != each:
                raise _refusal(archive, "names that differ in more than case", f"{first} and {each}")


def _extract(source: zipfile.ZipFile, folder: Path, archive: Path, *, limit: int) -> None:
    """Write the files into ``folder``. Raises ConfigurationError once more bytes come out than ``limit``."""
    left = limit
    for entry, path in _places(source.infolist()):
        target = folder / path
        if entry.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open(entry) as packed, target.open("xb") as unpacked:
            while block := packed.read(_BLOCK_BYTES):
                left -= len(block)
                if left < 0:
                    raise _too_large(archive, limit)
                unpacked.write(block)


def _places(entries: Sequence[zipfile.ZipInfo]) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Each entry with its path in the bundle: without the folder around everything, if there is one."""
    paths = [PurePosixPath(entry.filename) for entry in entries]
    tops = {path.parts[0] for path in paths}
    around = len(tops) == 1 and tops != {"configs"} and any(len(path.parts) > 1 for path in paths)
    return [
        (entry, PurePosixPath(*path.parts[1:]) if around else path) for entry, path in zip(entries, paths, strict=True)
    ]


def _check_is_bundle(folder: Path, archive: Path) -> None:
    """Raises ConfigurationError if there is no `configs`, or no metadata in it that says what goes in and comes out."""
    if not (folder / "configs").is_dir():
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise _refusal(archive, "a MONAI bundle with a folder `configs`", found)
    for path in sorted((folder / "configs").rglob("*")):
        if path.name.lower().endswith(CONFIG_SUFFIXES):
            config = read_config(path, called=f"{archive}: {path.relative_to(folder)}")
            if isinstance(config, Mapping) and "network_data_format" in config:
                return
    raise _refusal(archive, "a MONAI bundle whose metadata has `network_data_format`", "no file in `configs` with it")


def _too_large(archive: Path, limit: int) -> ConfigurationError:
    return _refusal(archive, f"at most {limit:,} bytes of files (in an archive of its size)", "more")


def _refusal(archive: Path, expected: str, found: str) -> ConfigurationError:
    return ConfigurationError(f"{archive}: expected {expected}, found {found}; have the bundle packed anew")

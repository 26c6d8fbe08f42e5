"""Takes a backup, part by part, in the order that makes the parts go together."""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from coread import __version__
from coread.backup.orthanc_files import copy_files, identity_of, names_in, remove_all_but
from coread.backup.postgresql import dump
from coread.backup.sqlite_files import copy_locked, copy_online
from coread.errors import ArchiveUnavailable, ConfigurationError
from coread.logs import logger
from coread.settings import Settings

ABOUT = "backup.json"
DATA, LEDGER_DUMP, INDEX_DUMP = "data", "ledger.dump", "orthanc.dump"
ORTHANC, INDEX = "orthanc", "index"

MADE_ANEW = frozenset({"broker", "logs", "prepared", "up.lock", "orthanc.json", ORTHANC})
"""What of a data folder is made anew at a start or by a command, and Orthanc's part, which is copied by itself."""
LIST_OF_STUDIES = "worklist.sqlite"
"""Made anew from Orthanc and the ledger."""
BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite has beside a database; a copy holds what is in it."""
SQLITE = b"SQLite format 3\0"
TRIES = 5
"""So often the index is copied again because files that it speaks of were deleted before they were copied."""


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What was taken, and from when."""

    version: str = __version__
    begun_at: str
    ended_at: str = ""
    """Empty: it was never taken to its end."""
    parts: tuple[str, ...] = ()
    """Files and folders below the backup's."""
    images: int = 0
    """Files of Orthanc's, those that an earlier backup had taken already included."""


def back_up(settings: Settings, folder: Path, *, settings_file: Path | None, say: Callable[[str], None]) -> Backup:
    """Take a backup into ``folder``; one that is there is brought up to date, and stays usable until then.

    Raises ConfigurationError if the settings or the folder do not allow it, LedgerUnavailable or ArchiveUnavailable if
    a part could not be copied, and OSError if there is no room.
    """
    _check(settings, folder)
    begun_at = datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # there are patients' images in it
    if not (folder / ABOUT).exists():
        _write_about(folder, Backup(begun_at=begun_at.isoformat(timespec="seconds")))
    with _alone_in(folder):
        _check_is_of_the_same_orthanc(settings, folder)
        parts = list(_parts(settings, folder, settings_file=settings_file, say=say))
        images = 0
        if (settings.data_folder / ORTHANC).exists():
            say("Orthanc: index and images")
            images = _back_up_orthanc(settings, folder)
            parts.append(f"{DATA}/{ORTHANC}")
        done = Backup(
            begun_at=begun_at.isoformat(timespec="seconds"),
            ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
            parts=tuple(parts),
            images=images,
        )
        _write_about(folder, done)
    return done


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep others from backing up into the folder meanwhile, if its file system has locks.

    Raises ConfigurationError if another one does.
    """
    with (folder / ABOUT).open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"expected to be alone in {folder}, found another backup being taken; wait for its end, or name "
                "another folder"
            ) from error
        except OSError as error:
            logger().warning("the backup's folder cannot be locked; nobody else is kept away", reason=str(error))
        yield


def _check_is_of_the_same_orthanc(settings: Settings, folder: Path) -> None:
    """Raises ConfigurationError if an earlier backup is of another Orthanc: of what was lost, it may be all there is.

    Only indexes in SQLite are asked.
    """
    ours, earlier = (data / ORTHANC / INDEX for data in (settings.data_folder, folder / DATA))
    if not ours.exists() or not earlier.exists():
        return
    expected, found = identity_of(earlier), identity_of(ours)
    if expected and not found:  # it may still be in the log beside the index
        copy = earlier.with_name(f"{INDEX}.new")
        copy_locked(ours, copy)
        found = identity_of(copy)
    if expected and found != expected:
        raise ConfigurationError(
            f"expected {folder} to have an earlier backup of this Orthanc, found one of another: its images would be "
            "removed; restore it, or name another folder"
        )


def _write_about(folder: Path, backup: Backup) -> None:
    partial = folder / f"{ABOUT}.part"
    partial.write_text(json.dumps(asdict(backup), indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / ABOUT)


def _check(settings: Settings, folder: Path) -> None:
    if settings.ledger_url.startswith(("http://", "https://")):
        raise ConfigurationError(
            "ledger.url is the plugin of another machine: expected the ledger itself; take the backup on that machine"
        )
    if folder.resolve().is_relative_to(settings.data_folder.resolve()):
        raise ConfigurationError(f"{folder} is in the data folder: expected a folder elsewhere, best on another disk")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ABOUT).exists():
        raise ConfigurationError(
            f"expected a new folder or an earlier backup, found other files in {folder}; name another one"
        )


def _parts(
    settings: Settings, folder: Path, *, settings_file: Path | None, say: Callable[[str], None]
) -> Iterator[str]:
    """Everything but Orthanc, the ledger first."""
    data = folder / DATA
    say("ledger")
    ledger = _file_of(settings.ledger_url)
    if ledger is None:
        dump(settings.ledger_url, folder / LEDGER_DUMP)
        yield LEDGER_DUMP
    elif ledger.exists():
        place = _place(ledger, settings.data_folder, data)
        copy_online(ledger, place)
        yield place.relative_to(folder).as_posix()
    say("data folder")
    for name in sorted(each.name for each in settings.data_folder.iterdir()):
        source = settings.data_folder / name
        is_copied = ledger is not None and source == ledger
        if name in MADE_ANEW or name.startswith(LIST_OF_STUDIES) or name.endswith(BESIDE) or is_copied:
            continue
        _copy(source, data / name)
        yield f"{DATA}/{name}"
    if not settings.models_home.is_relative_to(settings.data_folder) and settings.models_home.exists():
        _copy(settings.models_home, folder / "models")
        yield "models"
    if settings_file is not None and settings_file.exists():
        shutil.copy2(settings_file, folder / "coread.toml")
        yield "coread.toml"


def _file_of(url: str) -> Path | None:
    """The file of an SQLite database; None if it is a server's."""
    address = sa.make_url(url)
    return Path(str(address.database)) if address.get_backend_name() == "sqlite" else None


def _place(file: Path, home: Path, target: Path) -> Path:
    """Where a file of the data folder goes; one from elsewhere goes to where a data folder has it by default."""
    return target / (file.relative_to(home) if file.is_relative_to(home) else "ledger.sqlite")


def _copy(source: Path, target: Path) -> None:
    """A file or folder. A database is copied as it is at one moment, another file unless it is there as it is."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        try:
            there = {each.name for each in source.iterdir() if not each.name.endswith((*BESIDE, ".part"))}
        except FileNotFoundError:  # it was deleted meanwhile
            there = set()
        for name in sorted(there):
            _copy(source / name, target / name)
        for each in target.iterdir():
            if each.name not in there:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        return
    if not source.is_file():
        return
    try:
        with source.open("rb") as file:
            is_database = file.read(len(SQLITE)) == SQLITE
        if is_database:
            copy_online(source, target)
        elif not _is_same(source, target):
            shutil.copy2(source, target)
    except FileNotFoundError:  # it was deleted meanwhile
        target.unlink(missing_ok=True)


def _is_same(source: Path, target: Path) -> bool:
    if not target.exists():
        return False
    ours, theirs = source.stat(), target.stat()
    return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)


def _back_up_orthanc(settings: Settings, folder: Path) -> int:
    """The index as it is at one moment, and each file that it speaks of. How many files."""
    source, target = settings.data_folder / ORTHANC, folder / DATA / ORTHANC
    if settings.orthanc.index_url is not None:
        dump(settings.orthanc.index_url.get_secret_value(), folder / INDEX_DUMP)
        return _copy_all(source, target)
    if not (source / INDEX).exists():
        return 0
    index = target / f"{INDEX}.new"
    for _ in range(TRIES):
        copy_locked(source / INDEX, index)
        # The files take long, the index does not: with most of them there, few are deleted before they are copied.
        gone = copy_files(names_in(index), source, target)
        if not gone:
            break
    else:
        raise ArchiveUnavailable(
            f"expected each file that Orthanc's index names, found {len(gone)} deleted before they were copied; try "
            "again when less is deleted"
        )
    index.replace(target / INDEX)  # until now, the folder held the earlier backup
    names = set(names_in(target / INDEX))
    remove_all_but(names, target)
    return len(names)


def _copy_all(source: Path, target: Path) -> int:
    """Every file that is there: which of them the dump of the index names, is not looked up."""
    names = [path.name for path in source.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*")]
    copy_files(names, source, target)
    remove_all_but(set(names), target)
    return len(names)

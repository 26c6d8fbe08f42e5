"""A backup of files that others write to is one of a moment, and what must not be backed up to is refused."""

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from coread.backup.orthanc_files import copy_files, place_of
from coread.backup.postgresql import dump
from coread.backup.run import back_up
from coread.backup.sqlite_files import copy_locked, copy_online
from coread.errors import ArchiveUnavailable, ConfigurationError, LedgerUnavailable
from coread.ledger import Ledger
from coread.settings import LedgerSettings, Settings
from tests.services import PostgreSQL
from tests.support import NOW, a_job, program

WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for pragma in ("journal_mode=WAL", "locking_mode=EXCLUSIVE", "wal_autocheckpoint=20"):
    connection.execute(f"PRAGMA {pragma}").fetchall()
connection.execute("CREATE TABLE one (number INTEGER PRIMARY KEY, filling TEXT)")
connection.execute("CREATE TABLE other (number INTEGER PRIMARY KEY, filling TEXT)")
number = 0
while True:
    connection.execute("BEGIN")
    for _ in range(10):
        number += 1
        connection.execute("INSERT INTO one VALUES (?, ?)", (number, "x" * 500))
        connection.execute("INSERT INTO other VALUES (?, ?)", (number, "y" * 500))
    connection.execute("COMMIT")
    time.sleep(float(sys.argv[2]) if number % 100 == 0 else 0)
"""
"""Keeps a database locked as Orthanc does its index, and writes pairs of rows to it, in bursts."""


@pytest.fixture
def locked(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A database that another process keeps locked and writes to, with pauses of ``param`` seconds."""
    path = tmp_path / "index"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(request.param)]) as writer:
        while not path.exists() or path.stat().st_size < 100_000:
            assert writer.poll() is None
            time.sleep(0.01)
        yield path
        writer.kill()


@pytest.mark.parametrize("locked", [0.5], indirect=True)
def test_a_database_that_its_owner_keeps_locked_is_copied_as_it_was_at_one_moment(
    locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coread.backup.sqlite_files.BUSY_S", 0.1)
    with pytest.raises(ConfigurationError, match="locked"):
        copy_online(locked, tmp_path / "online")
    last = 0
    for number in range(3):
        target = tmp_path / f"copy{number}"
        copy_locked(locked, target)
        with closing(sqlite3.connect(target)) as copy:
            one = copy.execute("SELECT COUNT(*), MAX(number) FROM one").fetchone()
            other = copy.execute("SELECT COUNT(*), MAX(number) FROM other").fetchone()
            assert one == other, "a transaction is in it or not"
            assert one[0] == one[1]
            assert one[0] % 10 == 0
            assert one[0] >= last
            last = one[0]
        assert [path.name for path in tmp_path.glob(f"copy{number}*")] == [target.name]
    assert last > 0


@pytest.mark.parametrize("locked", [0.0], indirect=True)
def test_a_database_that_is_never_left_alone_is_not_copied_wrongly(
    locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coread.backup.sqlite_files.STILL_S", 30.0)  # a slow disk is no pause
    with pytest.raises(ArchiveUnavailable, match="try again when less is sent"):
        copy_locked(locked, tmp_path / "copy", patience_s=0.5)
    assert not (tmp_path / "copy").exists()


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("this is none, though it is long enough to be taken for one" * 20)
    with pytest.raises(ConfigurationError, match="expected a database in order"):
        copy_online(tmp_path / "ledger.sqlite", tmp_path / "copy")


def test_files_of_orthanc_are_copied_once_and_those_that_are_gone_are_told(tmp_path: Path) -> None:
    there = place_of(tmp_path / "from", "abcd")
    there.parent.mkdir(parents=True)
    there.write_bytes(b"pixels")
    assert copy_files(["abcd", "ffff"], tmp_path / "from", tmp_path / "to") == ["ffff"]
    place_of(tmp_path / "to", "abcd").write_bytes(b"pix")  # as of a file that was still being written
    assert copy_files(["abcd"], tmp_path / "from", tmp_path / "to") == []
    there.unlink()
    assert copy_files(["abcd"], tmp_path / "from", tmp_path / "to") == []
    assert place_of(tmp_path / "to", "abcd").read_bytes() == b"pixels"


def settings_in(folder: Path, **more: object) -> Settings:
    return Settings.model_validate({"data_folder": folder / "data", **more})


def quiet(_part: str) -> None:
    return


def test_a_backup_without_orthanc_has_the_ledger_and_what_belongs_to_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    ledger = Ledger(settings.ledger_url)
    ledger.migrate()
    home = settings.data_folder
    for name in ("models/one/model.pt", "logs/worker.log", "broker/message", "runs/r/rows.txt"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    file = tmp_path / "coread.toml"
    file.write_text("# settings")
    for _ in range(2):
        done = back_up(settings, tmp_path / "backup", settings_file=file, say=quiet)
        copied = {path.relative_to(tmp_path / "backup").as_posix() for path in (tmp_path / "backup").rglob("*.*")}
        assert copied == {
            "backup.json",
            "coread.toml",
            "data/ledger.sqlite",
            "data/models/one/model.pt",
            "data/runs/r/rows.txt",
        }
        assert done.parts == ("data/ledger.sqlite", "data/models", "data/runs", "coread.toml")
    (home / "runs" / "r" / "rows.txt").unlink()
    back_up(settings, tmp_path / "backup", settings_file=file, say=quiet)
    assert not (tmp_path / "backup" / "data" / "runs" / "r" / "rows.txt").exists()
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700
    ledger.close()


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with pytest.raises(ConfigurationError, match="is in the data folder"):
        back_up(settings, settings.data_folder / "backup", settings_file=None, say=quiet)
    with pytest.raises(ConfigurationError, match="found other files"):
        back_up(settings, Path(__file__).parent, settings_file=None, say=quiet)
    remote = settings.model_copy(update={"ledger": LedgerSettings.model_validate({"url": "https://orthanc.example"})})
    with pytest.raises(ConfigurationError, match="take the backup on that machine"):
        back_up(remote, tmp_path / "backup", settings_file=None, say=quiet)


@pytest.fixture
def with_orthanc(tmp_path: Path) -> Settings:
    """Of a data folder with a ledger, and with an Orthanc that has one image."""
    settings = settings_in(tmp_path)
    make_ledger(settings)
    write_orthanc(settings, identity="first", image="abcd")
    return settings


def make_ledger(settings: Settings) -> None:
    ledger = Ledger(settings.ledger_url)
    ledger.migrate()
    ledger.close()


def write_orthanc(settings: Settings, *, identity: str, image: str) -> None:
    """As Orthanc has it: in write-ahead mode, and with the name that the plugin gives the index."""
    folder = settings.data_folder / "orthanc"
    place_of(folder, image).parent.mkdir(parents=True)
    place_of(folder, image).write_bytes(b"pixels")
    with closing(sqlite3.connect(folder / "index", isolation_level=None)) as index:
        index.execute("PRAGMA journal_mode=WAL")
        index.execute("CREATE TABLE GlobalProperties (property INTEGER PRIMARY KEY, value TEXT)")
        index.execute("INSERT INTO GlobalProperties VALUES (4711, ?)", (identity,))
        index.execute("CREATE TABLE AttachedFiles (uuid TEXT)")
        index.execute("INSERT INTO AttachedFiles VALUES (?)", (image,))


def test_the_backup_of_what_was_lost_is_not_overwritten_with_what_stands_in_its_place(
    with_orthanc: Settings, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    for _ in range(2):
        assert back_up(with_orthanc, backup, settings_file=None, say=quiet).images == 1
    ledger = (backup / "data" / "ledger.sqlite").read_bytes()
    shutil.rmtree(with_orthanc.data_folder)
    make_ledger(with_orthanc)
    write_orthanc(with_orthanc, identity="second", image="ef01")
    with pytest.raises(ConfigurationError, match=r"found one of another: .* restore it, or name another folder"):
        back_up(with_orthanc, backup, settings_file=None, say=quiet)
    assert place_of(backup / "data" / "orthanc", "abcd").exists()
    assert (backup / "data" / "ledger.sqlite").read_bytes() == ledger


def test_an_orthanc_whose_name_is_still_in_its_log_is_known(with_orthanc: Settings, tmp_path: Path) -> None:
    back_up(with_orthanc, tmp_path / "backup", settings_file=None, say=quiet)
    index = with_orthanc.data_folder / "orthanc" / "index"
    with closing(sqlite3.connect(index)) as plain:
        written = "".join(plain.iterdump())
    index.unlink()
    with closing(sqlite3.connect(index)) as owner:
        owner.execute("PRAGMA journal_mode=WAL")
        owner.executescript(written)
        assert back_up(with_orthanc, tmp_path / "backup", settings_file=None, say=quiet).images == 1


def test_two_backups_at_a_time_do_not_write_to_one_folder(with_orthanc: Settings, tmp_path: Path) -> None:
    said: list[str] = []

    def say(part: str) -> None:
        said.append(part)
        with pytest.raises(ConfigurationError, match="found another backup being taken"):
            back_up(with_orthanc, tmp_path / "backup", settings_file=None, say=quiet)

    back_up(with_orthanc, tmp_path / "backup", settings_file=None, say=say)
    assert said


def test_a_ledger_in_postgresql_is_dumped_and_comes_back(postgresql: PostgreSQL, tmp_path: Path) -> None:
    restore = program("pg_restore")
    engine = sa.create_engine(postgresql.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in ("kept", "restored"):
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    url = postgresql.url.removesuffix("postgres")
    ledger = Ledger(f"{url}kept")
    ledger.migrate()
    ledger.note_arrivals({"study": 1}, archive_identity="orthanc", last_change=1, at=NOW)
    (study,) = ledger.arriving()
    ledger.settle(study, [a_job()], present_uids=(), at=NOW)
    ledger.close()
    dump(f"{url}kept", tmp_path / "ledger.dump")
    plain = f"{url}restored".replace("+psycopg", "")
    subprocess.run([restore, f"--dbname={plain}", str(tmp_path / "ledger.dump")], check=True, timeout=60)
    restored = Ledger(f"{url}restored")
    restored.check_version()
    assert [record.job.job_id for record in restored.jobs()] == ["a"]
    restored.close()
    with pytest.raises(LedgerUnavailable, match="is the server up"):
        dump(f"{url}nowhere", tmp_path / "nowhere.dump")
    assert not (tmp_path / "nowhere.dump").exists()

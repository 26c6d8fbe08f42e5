"""The ledger's database: SQLite in the data folder, or PostgreSQL. Every transaction goes through here."""

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import alembic.command
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import NullPool

from coread.errors import ConfigurationError, LedgerUnavailable

SQLITE_BUSY_TIMEOUT_S = 30
"""Writers take turns; the longest transaction is a fraction of a second."""

SQLITE_RETRY_S = 0.01

PRIMARY_CODE = 0xFF
"""The bits of an SQLite error code that say what happened; the others say where."""

PATIENCE: Mapping[str, int] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""libpq's parameters (s; tcp_user_timeout ms): a server whose machine is gone must not hold up anybody for long."""

STATEMENT_TIMEOUT_S = 30
"""PostgreSQL: nothing that the ledger asks takes a second; a lock that is never given must not hold up anybody."""

MIGRATIONS = Path(__file__).parent.parent / "migrations"


class Database:
    """A connection to the ledger's database. Safe to share between threads, not between processes."""

    def __init__(self, url: str) -> None:
        """Raises ConfigurationError if the URL is not one that SQLAlchemy can open."""
        try:
            self._engine = _engine(url)
        except (sa.exc.ArgumentError, ImportError) as error:
            raise ConfigurationError(
                f"the ledger's URL is not usable: {error}; expected for example sqlite:////var/lib/coread/ledger.sqlite"
            ) from error

    def close(self) -> None:
        """Let go of the connections. A ledger that is asked again opens new ones."""
        self._engine.dispose()

    def migrate(self) -> None:
        """Bring the database's tables to this version's form. One process does it, before the others start.

        Raises ConfigurationError if a later version of the program has given them theirs: there is no way back.
        """
        with self._transaction() as connection:
            found = _form_of(connection)
            _require_known(found)
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                if found not in (None, _forms()[0]):
                    # Who has looked at the form goes on with it: they end first, and the next ones look afterwards.
                    connection.execute(sa.text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
            config = _alembic_config()
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")

    def check_version(self) -> None:
        """Raises ConfigurationError unless the tables have this version's form."""
        with self._transaction() as connection:
            _require_this(_form_of(connection))

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """One transaction: all of it or nothing. Raises LedgerUnavailable if the database is away, full or locked."""
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """The same for looking only: with SQLite, nobody who writes has to wait for it."""
        with self._translated(), self._engine.execution_options(reads_only=True).begin() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
            # The statement and its values, which SQLAlchemy would quote, are left out.
            cause = str(error.orig if isinstance(error, sa.exc.DBAPIError) else error).partition("\n")[0]
            raise LedgerUnavailable(f"the ledger's database does not answer: {cause}; is it running?") from error


def upsert(
    connection: sa.Connection,
    table: sa.Table,
    key: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    new: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write ``values`` into the row with this key, which is made if there is none, then with the values of ``new``."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    insert = dialect.insert(table).values({**key, **values, **new})
    statement = (
        insert.on_conflict_do_update(index_elements=list(key), set_=dict(values))
        if values
        else insert.on_conflict_do_nothing(index_elements=list(key))
    )
    connection.execute(statement)


def require_this_form(connection: sa.Connection) -> None:
    """Raises ConfigurationError unless the tables, which there are, have this version's form."""
    _require_this(connection.scalar(sa.text("SELECT version_num FROM alembic_version")))


def _require_this(found: str | None) -> None:
    expected = _forms()[0]
    if found == expected:
        return
    _require_known(found)
    raise ConfigurationError(
        f"the ledger's tables are at version {found}, this program needs {expected}; start the plugin of this "
        "program first (`coread up`, or Orthanc), which migrates them"
    )


def _require_known(found: str | None) -> None:
    newest, *_ = forms = _forms()
    if found is not None and found not in forms:
        raise ConfigurationError(
            f"the ledger's tables are at version {found}, which is later than this program's ({newest}): expected an "
            "earlier one; install the version of Coread that they were last used with, or a later one, or restore the "
            "backup from before the upgrade"
        )


def _form_of(connection: sa.Connection) -> str | None:
    """Which migration the tables were brought to last; None: none."""
    return MigrationContext.configure(connection).get_current_revision()


@cache
def _forms() -> tuple[str, ...]:
    """All that this program knows, the newest first."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_alembic_config()).walk_revisions())


def _engine(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        engine = sa.create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=dict(PATIENCE))
        sa.event.listen(engine, "connect", _prepare_postgresql)
        return engine
    database = sa.make_url(url).database
    if database:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_S}
    )
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_immediately)
    return engine


def _prepare_postgresql(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'")
    connection.commit()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says, not at the first write
    _enter_wal(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch the database file to write-ahead logging, which stays so, and take part in its log.

    While another process does the same, or cleans up as the last to leave, SQLite says "locked" at once and heeds no
    busy timeout (https://sqlite.org/wal.html, "Sometimes Queries Return SQLITE_BUSY In WAL Mode"): it is waited here.
    """
    deadline = time.monotonic() + SQLITE_BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & PRIMARY_CODE == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(SQLITE_RETRY_S)


def _begin_immediately(connection: sa.Connection) -> None:
    # Taking the write lock first is what makes "look, then change" safe, and the busy timeout apply.
    reads_only = connection.get_execution_options().get("reads_only", False)
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config

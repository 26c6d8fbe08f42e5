import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from coread.ledger import Ledger
from tests.services import PostgreSQL


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server, started by the first test that wants one."""
    with PostgreSQL() as server:
        yield server
        server.kill()  # a clean end takes longer than the tests


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger: each test runs on both databases."""
    if request.param == "SQLite":
        ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    else:
        server: PostgreSQL = request.getfixturevalue("postgresql")
        schema = f"test_{uuid.uuid4().hex}"
        engine = sa.create_engine(server.url)
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema(schema))
        engine.dispose()
        ledger = Ledger(f"{server.url}?options=-csearch_path%3D{schema}")
    ledger.migrate()
    yield ledger
    ledger.close()

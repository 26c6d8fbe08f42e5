"""Dumps a ledger as this version really writes it: `python -m tests.ledger_fixture`, once before each release.

A Coread runs, reads a study, refuses one, is killed while it reads a third and has not begun a fourth. The dump goes to
`tests/resources`, where `tests/unit/test_migrations.py` has every later version read it.
"""

import socket
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import httpx
import pydicom
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from coread.phantom import write_unfit_study
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.services import kill_tree
from tests.system.conftest import SETTINGS, System
from tests.system.test_main_job import phantom_images

RESOURCES = Path(__file__).parent / "resources"
DESTINATION = """
[[route]]
name = "hearts"
models = ["left_ventricle_sax"]
destinations = ["archive"]
[[destination]]
name = "archive"
protocol = "dimse"
aet = "ARCHIVE"
host = "127.0.0.1"
port = 9
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = folder / "coread.toml"
        file.write_text(SETTINGS + DESTINATION)
        with Supervisor(load_settings(file), settings_file=file) as running:
            system = System(running, folder)
            with system.archive:
                write_to(system, folder)


def write_to(system: System, folder: Path) -> None:
    done = system.job(system.send(phantom_images("fixture done")))
    system.job(system.send([pydicom.dcmread(path) for path in write_unfit_study(folder / "unfit")]))
    url = f"{system.running.http_url}/coread/jobs/{done['job_id']}/review"
    httpx.post(url, json={"verdict": "accept", "name": "Curie^Marie"}, trust_env=False).raise_for_status()
    begun = system.send(phantom_images("fixture begun"))
    while [job["state"] for job in system.jobs(begun)] != ["running"]:
        pass
    kill_tree(system.process("worker").pid)
    waiting = system.send(phantom_images("fixture waiting"))
    # Nobody restarts the worker while nobody watches.
    while not system.jobs(waiting):
        pass
    path = system.running.settings.ledger_url.removeprefix("sqlite:///")
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        dump = "\n".join(connection.iterdump())
    target = RESOURCES / f"ledger-{revision}.sql"
    dump = dump.replace(socket.gethostname(), "reader7").replace(str(folder), "/var/lib/coread")
    target.write_text(dump + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

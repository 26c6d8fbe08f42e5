"""What goes through the broker, and what whoever can write to it can do: ring a bell, and no more."""

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from coread.broker import WORK, bell, make_app, queue_name
from coread.job import ANY_QUEUE
from coread.settings import Settings
from coread.workers.app import worker_app
from coread.workers.duty import Duty

WAIT_S = 30.0

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Celery's, at its end


class Bells:
    """Does no job, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.rung = threading.Semaphore(0)

    def run_next(self) -> None:
        self.rung.release()


class Harm:
    """What runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_folder=tmp_path / "data")


@pytest.fixture
def app(settings: Settings) -> Celery:
    return make_app(settings)


@pytest.fixture
def bells(settings: Settings) -> Iterator[Bells]:
    """A worker that listens as `coread worker` does, and has no job."""
    rung = Bells()
    app = worker_app(settings, Duty(rung))
    with start_worker(app, queues=[queue_name(ANY_QUEUE)], pool="solo", perform_ping_check=False, loglevel="critical"):
        yield rung


def put(app: Celery, body: object, *, serializer: str, headers: Mapping[str, str]) -> None:
    """Put a message into the worker's queue, past all that Coread would check."""
    with app.connection_for_write() as connection, connection.SimpleQueue(queue_name(ANY_QUEUE)) as queue:
        queue.producer.publish(body, serializer=serializer, headers=headers, routing_key=queue_name(ANY_QUEUE))


def test_a_message_that_could_run_something_runs_nothing_and_stops_nobody(
    app: Celery, bells: Bells, tmp_path: Path
) -> None:
    said = {"lang": "py", "task": WORK, "id": "1"}
    put(app, ([Harm(tmp_path / "mark")], {}, {}), serializer="pickle", headers=said)
    put(app, (["x"], {}, {}), serializer="json", headers={**said, "task": "os.system", "id": "2"})
    bell(app)(ANY_QUEUE, "0f")
    assert bells.rung.acquire(timeout=WAIT_S)
    assert not (tmp_path / "mark").exists()
    assert not bells.rung.acquire(timeout=0.3), "one bell alone was good"


def test_a_message_holds_the_jobs_id_and_nothing_else_that_is_ours(app: Celery, settings: Settings) -> None:
    bell(app)(ANY_QUEUE, "0f1e")
    (message,) = (settings.data_folder / "broker").rglob("*.msg")
    written = json.loads(message.read_text())
    arguments, named, _chain = json.loads(base64.b64decode(written["body"]))
    assert (arguments, named) == (["0f1e"], {})
    assert written["content-type"] == "application/json"
    assert {key: written["headers"][key] for key in ("task", "argsrepr")} == {"task": WORK, "argsrepr": "['0f1e']"}

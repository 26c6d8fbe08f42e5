"""The servers that other tests lean on: they start, lose what they should when they are killed, and come back."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from kombu.connection import Connection

from tests.services import PostgreSQL, RabbitMQ, Redis, Service, process_tree


def test_a_killed_postgresql_comes_back_with_what_was_committed() -> None:
    with PostgreSQL() as database:
        url = database.url.replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept (number int)")
            connection.execute("INSERT INTO kept VALUES (7)")
        database.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url, connect_timeout=2)
        database.restart()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]


def test_a_killed_redis_comes_back_empty() -> None:
    with Redis() as broker:
        with redis.Redis(port=broker.port) as client:
            client.set("key", "value")
        broker.kill()
        broker.restart()
        with redis.Redis(port=broker.port) as client:
            assert client.get("key") is None


def kombu_connection(url: str) -> Any:
    return Connection(url, connect_timeout=5)  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_a_killed_rabbitmq_takes_messages_again() -> None:
    with RabbitMQ() as broker:
        for _ in range(2):
            with kombu_connection(broker.url) as connection, connection.SimpleQueue("q") as queue:
                queue.put("message")
                assert queue.get(timeout=5).payload == "message"
            broker.kill()
            broker.restart()


@pytest.mark.parametrize("kind", [PostgreSQL, Redis])
def test_nothing_of_a_service_is_left(kind: Callable[[], Service]) -> None:
    with kind() as service:
        assert service._process is not None
        tree = process_tree(service._process.pid)
        folder = service.folder
    assert not folder.exists()
    assert not [pid for pid in tree if Path(f"/proc/{pid}").exists()]


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_a_service_dies_with_the_process_that_started_it() -> None:
    code = "from tests.services import Redis; s = Redis().__enter__(); print(s.port, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        with redis.Redis(port=port) as client:
            assert client.ping()
            parent.kill()
            parent.wait()
            while answers(client):
                pass

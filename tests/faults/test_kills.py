"""Everything is killed at random moments, for minutes, while studies arrive: each is read exactly once.

`COREAD_FAULT_MINUTES` sets how long, in sum over the two configurations (10); from 10 minutes on, 200 studies are sent
to each. `COREAD_FAULT_SEED` sets the seed; `COREAD_FAULT_REPORT` names a file for the summaries.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.harm import Fault
from tests.faults.trial import KNOWN_LEAKS, Trial
from tests.services import PostgreSQL, RabbitMQ, Redis, Service

MINUTES = float(os.environ.get("COREAD_FAULT_MINUTES", "10"))
SEED = int(os.environ.get("COREAD_FAULT_SEED", "20261"))
FULL_MINUTES, FULL_STUDIES, FEWEST_STUDIES = 10.0, 200, 20
STUDIES = max(FEWEST_STUDIES, round(FULL_STUDIES * min(1.0, MINUTES / FULL_MINUTES)))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(MINUTES * 60 + 900),
    *KNOWN_LEAKS,
]


@pytest.mark.parametrize("configuration", ["SQLite and files", "PostgreSQL and Redis"])
def test_each_study_is_read_exactly_once_whatever_dies(
    configuration: str, tmp_path: Path, say: Callable[[object], None]
) -> None:
    with ExitStack() as stack:
        database = broker = None
        if configuration == "PostgreSQL and Redis":
            database, broker = stack.enter_context(PostgreSQL()), stack.enter_context(Redis())
        trial = Trial(tmp_path, name=configuration, studies=STUDIES, seed=SEED, database=database, broker=broker)
        stack.enter_context(trial)
        kills = trial.kills(orthanc_s=12, worker_s=20, broker_s=12, database_s=20)
        summary = trial.run(kills, seconds=MINUTES * 60 / 2, sending_s=MINUTES * 60 / 2 * 0.9)
        say(summary)
        assert not summary.complaints, f"{summary}\n{trial.logs()}"
        assert all(summary.faults.get(fault.name) for fault in kills), "not everything was tried"


@pytest.mark.parametrize("kind", [Redis, RabbitMQ])
def test_a_minute_without_a_broker_delays_and_loses_nothing(
    kind: type[Service], tmp_path: Path, say: Callable[[object], None]
) -> None:
    with kind() as broker, Trial(tmp_path, name=f"no {kind.__name__}", studies=20, seed=SEED, broker=broker) as trial:

        def kill() -> str:
            broker.kill()
            return "broker killed"

        gone = Fault(name="broker", every_s=5, strike=kill, mend=broker.restart, away_s=(60, 60))
        summary = trial.run([gone], seconds=70, sending_s=55)
        say(summary)
        assert not summary.complaints, f"{summary}\n{trial.logs()}"

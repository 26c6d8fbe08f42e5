"""A ledger of an older version is brought to this one's form with what stands in it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import alembic.command
import sqlalchemy as sa
from alembic.config import Config

from coread.delivery import DeliveryState
from coread.ledger import ArrivingStudy, Ledger
from coread.ledger.database import MIGRATIONS
from tests.support import NOW


def test_studies_that_were_arriving_before_the_first_ledger_was_migrated_still_are(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0001")
        row = {"study": "a", "at": NOW.strftime("%Y-%m-%d %H:%M:%S.%f")}
        connection.execute(sa.text("INSERT INTO arriving_study VALUES (:study, 3, :at)"), row)
    engine.dispose()
    ledger = Ledger(url)
    ledger.migrate()
    assert ledger.arriving() == [ArrivingStudy(orthanc_id="a", last_change=3, last_arrival_at=NOW)]
    ledger.note_arrivals({"a": 4}, archive_identity="orthanc", last_change=4, at=NOW)
    assert [study.first_arrival_at for study in ledger.arriving()] == [NOW]


def test_deliveries_keep_what_they_hold_when_reviews_come_beside_them(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    ledger = Ledger(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("PRAGMA foreign_keys=ON"))
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0007")
        at = NOW.strftime("%Y-%m-%d %H:%M:%S.%f")
        job = {
            **dict.fromkeys(("job_id", "fingerprint", "revision", "orthanc_id", "model", "model_version"), "a"),
            "study_instance_uid": "1.2",
            "profiles": "[]",
            "destinations": "[]",
            "priority": "routine",
            "queue": "gpu",
            "state": "done",
            "reason": "",
            "attempts": 1,
            "silences": 0,
            "created_at": at,
            "not_before": at,
        }
        names = ", ".join(job)
        values = ", ".join(f":{name}" for name in job)
        connection.execute(sa.text(f"INSERT INTO job ({names}) VALUES ({values})"), job)  # noqa: S608  # names of ours
        row = "(7, 'a', 'pacs', '1.2', 'study', 'm', 'sent', 'why', '', 2, NULL, :at, :at, NULL)"
        connection.execute(sa.text(f"INSERT INTO delivery VALUES {row}"), {"at": at})  # noqa: S608  # as above
        connection.execute(sa.text("INSERT INTO delivery_object VALUES (7, '2.25.1', 0, '1.2.3', 'sent', '')"))
        connection.execute(sa.text("INSERT INTO delivery_event VALUES (1, 7, :at, NULL, 'waiting', 'x')"), {"at": at})
        connection.execute(sa.text("INSERT INTO commitment VALUES ('2.25.9', 7, :at)"), {"at": at})
    engine.dispose()
    ledger.migrate()
    ledger.check_version()
    (delivery,) = ledger.deliveries()
    assert (delivery.delivery_id, delivery.attempts, delivery.review_id) == (7, 2, "")
    assert (delivery.state, delivery.opened_at) == (DeliveryState.SENT, NOW)
    assert [each.sop_instance_uid for each in delivery.objects] == ["2.25.1"]
    assert [event.reason for event in ledger.delivery_history(7)] == ["x"]
    said: dict[str, Any] = {"kept": ["2.25.1"], "missing": [], "refused": {}}
    assert ledger.settle_commitment("2.25.9", **said, at=NOW, wait=lambda _attempts: timedelta(0))
    assert [each.state for each in ledger.deliveries()] == [DeliveryState.CONFIRMED]
    ledger.close()

"""A real Prometheus scrapes a running Coread with our configuration, and evaluates each rule and each panel's query."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from coread.job import JobState
from coread.ledger import Ledger
from coread.review import Verdict
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.services import Service
from tests.support import a_job, output_of, program
from tests.system.conftest import System

pytestmark = pytest.mark.slow

DOCKER = Path(__file__).parents[2] / "docker"
RULES = DOCKER / "prometheus" / "alerts.yml"

SETTINGS = """
data_folder = "data"
[orthanc]
http_port = 0
dicom_port = 0
password = "coread-secret"
[access.users.prometheus]
role = "monitor"
password = "prometheus-secret"
[worker]
processes = 0
"""


class Prometheus(Service):
    """Prometheus with our own files, but for the place of Coread and the intervals."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _prepare(self) -> None:
        config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (job,) = config["scrape_configs"]
        job["static_configs"] = [{"targets": [self._target]}]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (self.folder / RULES.name).write_text(RULES.read_text(encoding="utf-8"))
        (self.folder / job["basic_auth"]["password_file"]).write_text("prometheus-secret")

    def _command(self) -> Sequence[str]:
        files = [f"--config.file={self.folder / 'prometheus.yml'}", f"--storage.tsdb.path={self.folder / 'data'}"]
        return [program("prometheus"), *files, f"--web.listen-address=127.0.0.1:{self.port}"]

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def ask(self, path: str, **more: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=more, trust_env=False, timeout=30)
        said = answer.json()
        assert said["status"] == "success", f"{more}: {said}"
        return said["data"]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    program("Orthanc")
    folder = tmp_path_factory.mktemp("scraped")
    (folder / "coread.toml").write_text(SETTINGS)
    with Supervisor(load_settings(folder / "coread.toml"), settings_file=folder / "coread.toml") as running:
        system = System(running, folder)
        with system.archive:
            yield system


@pytest.fixture(scope="module")
def prometheus(system: System) -> Iterator[Prometheus]:
    fill(Ledger(system.running.settings.ledger_url))
    with Prometheus(f"127.0.0.1:{system.running.settings.orthanc.http_port}") as server:
        yield server


def fill(ledger: Ledger) -> None:
    """A job that is done and reviewed, with a delivery; and one that waits."""
    now = datetime.now(UTC)
    model = {"model": "left_ventricle_sax", "model_version": "1", "created_at": now}
    for name in ("a", "b"):
        ledger.note_arrivals({name: 1}, archive_identity="elsewhere", last_change=1, at=now)
        (study,) = (each for each in ledger.arriving() if each.orthanc_id == name)
        job = a_job(name * 32, orthanc_id=name, study_instance_uid="1.2", destinations=("pacs",), **model)
        ledger.settle(study, [job], present_uids=(), at=now)
    ledger.queue_due(at=now)
    job_taken = ledger.claim(worker="w", at=now, lease=timedelta(hours=1))
    assert job_taken is not None
    result = {"seconds": {"infer": 2.0}, "sop_instance_uids": ["1.2.3"]}
    assert ledger.start_storing(job_taken.job_id, worker="w", result=result, at=now)
    assert ledger.finish(job_taken.job_id, JobState.DONE, worker="w", result=result, at=now)
    assert ledger.review(job_taken.job_id, verdict=Verdict.ACCEPTED, at=now)
    ledger.close()


def test_every_rule_is_evaluated_without_an_error(system: System, prometheus: Prometheus) -> None:
    def scraped() -> bool:
        targets = prometheus.ask("targets")["activeTargets"]
        return [target["health"] for target in targets] == ["up"]

    def evaluated() -> list[dict[str, Any]]:
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    system.wait(scraped)
    rules = system.wait(evaluated)
    assert len(rules) > 25
    assert [rule["name"] for rule in rules if rule["health"] != "ok" or rule.get("lastError")] == []


def test_every_panel_s_query_is_answered_and_most_have_something_to_show(
    system: System, prometheus: Prometheus
) -> None:
    scraped_twice = 'increase(coread_reviews_total{verdict="accepted"}[1h]) and on () coread_review_objects > 0'
    system.wait(lambda: prometheus.ask("query", query=scraped_twice)["result"])
    board = json.loads((DOCKER / "grafana" / "dashboards" / "coread.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    empty = [query for query in queries if not prometheus.ask("query", query=query)["result"]]
    # Of what nothing has happened, nothing is shown: neither workers, nor GPUs, findings, workitems or notices.
    unseen = (
        "coread_process",
        "coread_gpu",
        "coread_worker_model",
        "coread_raises",
        "coread_studies_raised",
        "coread_workitems",
        "coread_notices",
        "coread_review_dice",
        "coread_job_reasons",
        "coread_delivery_seconds",
        "coread_deliveries_ended",
        "coread_job_attempts_failed",
        "coread_archive_studies",
        'state=~"running',
    )
    assert [query for query in empty if not any(word in query for word in (*unseen, "rate("))] == []


def rule_test(interval: str, series: dict[str, str], expected: dict[str, tuple[str, list[dict[str, str]]]]) -> Any:
    """A case of promtool's: at a time, which labels an alert fires with."""
    return {
        "interval": interval,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": len(labels)}],
            }
            for alert, (at, labels) in expected.items()
        ],
    }


FIRES, QUIET = [{}], []  # type: ignore[var-annotated]  # how many alerts there are, and no more
CASES = {
    "a stat job that waits": rule_test(
        "1m",
        {'coread_queue_oldest_seconds{queue="gpu", priority="stat"}': "0+60x10"},
        {"CoreadStatWaits": ("8m", FIRES), "CoreadRoutineWaits": ("8m", QUIET)},
    ),
    "a stat job that has not waited long": rule_test(
        "1m",
        {'coread_queue_oldest_seconds{queue="gpu", priority="stat"}': "0+60x4 0x6"},
        {"CoreadStatWaits": ("8m", QUIET)},
    ),
    "failures": rule_test(
        "1m",
        {'coread_jobs_ended_total{model="m", priority="routine", state="failed"}': "0x5 5x10"},
        {"CoreadFailuresRising": ("10m", FIRES)},
    ),
    "one failure": rule_test(
        "1m",
        {'coread_jobs_ended_total{model="m", priority="routine", state="failed"}': "0x5 1x10"},
        {"CoreadFailuresRising": ("10m", QUIET)},
    ),
    "no worker": rule_test(
        "1m",
        {
            'coread_queue_workers{queue="gpu"}': "0x10",
            'coread_queue_workers{queue="cpu"}': "0x10",
            'coread_queue_jobs{queue="gpu", priority="stat"}': "0x10",
            'coread_queue_jobs{queue="gpu", priority="batch"}': "3x10",
            'coread_queue_jobs{queue="cpu", priority="batch"}': "0x10",
        },
        {"CoreadNoWorker": ("6m", FIRES)},
    ),
    "a disk that fills": rule_test(
        "10m",
        {"coread_disk_free_bytes": "100e9-1e9x60", "coread_disk_needed_bytes": "1e9x60"},
        {"CoreadDiskFills": ("9h", FIRES), "CoreadDiskShort": ("9h", QUIET)},
    ),
    "deliveries that are stuck": rule_test(
        "10m",
        {'coread_delivery_oldest_seconds{destination="pacs"}': "0+600x20"},
        {"CoreadDeliveryStuck": ("2h", FIRES)},
    ),
    "two kinds of model files": rule_test(
        "10m",
        {
            'coread_worker_model_info{process="a", model="m", digest="1"}': "1x10",
            'coread_worker_model_info{process="b", model="m", digest="2"}': "1x10",
            'coread_worker_model_info{process="a", model="n", digest="3"}': "1x10",
            'coread_worker_model_info{process="b", model="n", digest="3"}': "1x10",
        },
        {"CoreadModelsDiffer": ("1h", FIRES)},
    ),
    "rejections that rise": rule_test(
        "12h",
        {
            'coread_reviews_total{model="m", verdict="accepted", source="page"}': "0+10x90",
            'coread_reviews_total{model="m", verdict="rejected", source="page"}': "0+1x70 70+8x20",
        },
        {"CoreadRejectionsRise": ("44d", FIRES), "CoreadAgreementLow": ("44d", FIRES)},
    ),
    "rejections as ever": rule_test(
        "12h",
        {
            'coread_reviews_total{model="m", verdict="accepted", source="page"}': "0+10x90",
            'coread_reviews_total{model="m", verdict="rejected", source="page"}': "0+1x90",
        },
        {"CoreadRejectionsRise": ("44d", QUIET), "CoreadAgreementLow": ("44d", QUIET)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rule_tells_of_what_it_is_for_and_of_nothing_else(case: str, tmp_path: Path) -> None:
    every = CASES[case]["interval"]
    text = yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": every, "tests": [CASES[case]]})
    (tmp_path / "test.yml").write_text(text)
    status, said = output_of("promtool", "test", "rules", tmp_path / "test.yml")
    assert status == 0, said


def test_promtool_finds_nothing_wrong_with_rules_and_configuration(tmp_path: Path) -> None:
    status, said = output_of("promtool", "check", "rules", RULES)
    assert status == 0, said
    for file in (RULES, DOCKER / "prometheus" / "prometheus.yml"):
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"))
    (tmp_path / "coread-password").write_text("x")
    status, said = output_of("promtool", "check", "config", tmp_path / "prometheus.yml")
    assert status == 0, said

"""The documentation, the alert rules and the dashboard speak of metrics and labels that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from coread.check import Verdict
from coread.metrics import catalogue
from coread.metrics.catalogue import Kind, Metric
from coread.reason_class import ReasonClass

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
RULES = ROOT / "docker" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "coread.json"

OF_PROMETHEUS = {"up", "le", "job", "instance"}
"""What Prometheus adds: a metric of its own, and labels."""


def rules() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def metric_of(name: str) -> Metric | None:
    """The metric that a sample of this name is of."""
    if name in catalogue.BY_NAME and catalogue.BY_NAME[name].kind is not Kind.HISTOGRAM:
        return catalogue.BY_NAME[name]
    base = catalogue.BY_NAME.get(re.sub(r"_(bucket|sum|count)$", "", name))
    return base if base is not None and base.kind is Kind.HISTOGRAM and base.name != name else None


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_each_query_is_of_metrics_and_labels_that_there_are(where: str, query: str) -> None:
    selectors = re.findall(r"\b((?:coread|process)_[a-z0-9_]+|up)\b(?:\{([^}]*)\})?", query)
    assert selectors, where
    known: set[str] = set(OF_PROMETHEUS)
    for name, matchers in selectors:
        metric = metric_of(name)
        assert metric or name in (*catalogue.OF_ORTHANC, *OF_PROMETHEUS), f"{where}: there is no {name}"
        labels = set(metric.labels if metric else ()) | OF_PROMETHEUS
        named = set(re.findall(r"([a-z_]+)\s*[=!]~?", matchers))
        assert named <= labels, f"{where}: {name} has no {named - labels}"
        known |= labels
    for grouped in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", query):
        asked = {label.strip() for label in grouped.split(",")}
        assert asked <= known, f"{where}: nothing has {asked - known}"


def test_a_query_of_a_metric_that_there_is_not_would_be_found() -> None:
    assert metric_of("coread_job_stage_seconds") is None, "only its parts are exported"
    assert metric_of("coread_job_stage_seconds_bucket") is catalogue.STAGE_SECONDS
    assert metric_of("coread_jobs_done") is None


def test_legends_and_summaries_name_labels_that_the_queries_leave() -> None:
    for rule in rules():
        used = set(re.findall(r"\$labels\.([a-z_]+)", rule["annotations"]["summary"]))
        labels = {label for name in re.findall(r"coread_[a-z_]+", rule["expr"]) for label in labels_of(name)}
        assert used <= labels, rule["alert"]
    for panel in panels():
        for target in panel["targets"]:
            used = set(re.findall(r"\{\{([a-z_]+)\}\}", target["legendFormat"]))
            grouped = re.findall(r"\bby\s*\(([^)]*)\)", target["expr"])
            left = {label.strip() for group in grouped for label in group.split(",")} or {
                label for name in re.findall(r"coread_[a-z_]+", target["expr"]) for label in labels_of(name)
            }
            assert used <= left, panel["title"]


def labels_of(name: str) -> tuple[str, ...]:
    metric = metric_of(name)
    return metric.labels if metric else ()


def test_every_metric_is_documented_with_its_kind_and_labels_and_no_other_is() -> None:
    rows = re.findall(r"^\| `(coread_[a-z_]+)` \| (\w+) \| ([^|]*) \|", PAGE, re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`([a-z_]+)`", labels))) for name, kind, labels in rows}
    assert documented == {metric.name: (metric.kind.value, metric.labels) for metric in catalogue.METRICS}
    assert [name for name in catalogue.OF_ORTHANC if f"`{name}`" not in PAGE] == []
    assert [reason for reason in ReasonClass if reason is not ReasonClass.NONE and f"`{reason}`" not in PAGE] == []


def test_every_metric_is_shown_or_watched() -> None:
    """A number that nobody looks at is not worth its query."""
    used = {metric_of(name) for _where, query in queries() for name in re.findall(r"coread_[a-z0-9_]+", query)}
    behind = {catalogue.INTAKE_UP, catalogue.COUNTING_BEHIND}
    assert [metric.name for metric in catalogue.METRICS if metric not in used | behind] == []


def test_it_is_said_of_every_alert_what_to_do() -> None:
    said = dict(re.findall(r"^\| `(Coread[A-Za-z]+)` \| (\w+) \|", PAGE, re.MULTILINE))
    assert said == {rule["alert"]: rule["labels"]["severity"] for rule in rules()}


def test_every_verdict_of_the_doctor_is_documented() -> None:
    assert [verdict for verdict in Verdict if f"`{verdict}`" not in PAGE] == []


def test_the_dashboard_is_whole() -> None:
    """Grafana is not in Debian: what is looked at is what it needs to provision a dashboard."""
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert (board["uid"], board["title"]) == ("coread", "Coread")
    assert isinstance(board["schemaVersion"], int)
    source = yaml.safe_load((ROOT / "docker/grafana/provisioning/datasources/coread.yml").read_text())["datasources"][0]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    places: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & places, f"{panel['title']} lies on another panel"
        places |= cells
    for panel in panels():
        assert panel["type"] in ("timeseries", "stat", "table")
        assert panel["targets"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {source["uid"]}
        assert panel["fieldConfig"]["defaults"]["unit"] in ("short", "s", "bytes", "percentunit")


def test_prometheus_is_told_of_one_target_and_the_rules() -> None:
    config = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert config["rule_files"] == [RULES.name]
    (job,) = config["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("coread", "/coread/metrics")
    assert "password" not in job["basic_auth"], "it stands in a file"

"""Prometheus and Grafana of ``docker/`` find what they are told of: each other, their files, each panel its source."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
GRAFANA = DOCKER / "grafana"
BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))


def provisioned(kind: str) -> list[dict[str, Any]]:
    """What Grafana is told of data sources or dashboards."""
    files = sorted((GRAFANA / "provisioning" / kind).iterdir())
    key = {"datasources": "datasources", "dashboards": "providers"}[kind]
    read = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    assert {each["apiVersion"] for each in read} == {1}
    return [entry for each in read for entry in each[key]]


def mounted(service: str) -> dict[str, str]:
    """Path in the container → path in ``docker/``, or volume."""
    return {each.split(":")[1]: each.split(":")[0] for each in COMPOSE["services"][service]["volumes"]}


def test_grafana_finds_its_dashboards_and_prometheus() -> None:
    for provider in provisioned("dashboards"):
        assert mounted("grafana")[provider["options"]["path"]] == "./grafana/dashboards"
    assert mounted("grafana")["/etc/grafana/provisioning"] == "./grafana/provisioning"
    sources = provisioned("datasources")
    assert [each["isDefault"] for each in sources].count(True) == 1
    assert len({each["uid"] for each in sources}) == len({each["name"] for each in sources}) == len(sources)
    for source in sources:
        url = httpx.URL(source["url"])
        service = COMPOSE["services"][url.host]
        assert set(service["networks"]) & set(COMPOSE["services"]["grafana"]["networks"]), "they meet on a network"
        assert set(service["profiles"]) == set(COMPOSE["services"]["grafana"]["profiles"])
        assert any(port.endswith(f":{url.port}") for port in service["ports"])


def panels_of(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels, those in rows that are folded, too."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", ())


def within(value: object) -> Iterator[dict[str, Any]]:
    """Every mapping in a JSON document."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from within(each)


@pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.name)
def test_a_dashboard_asks_only_what_grafana_is_told_of(file: Path) -> None:
    board = json.loads(file.read_text(encoding="utf-8"))
    assert re.fullmatch(r"[\w-]{1,40}", board["uid"]), "by which links know it"
    assert board["title"]
    assert [json.loads(each.read_text(encoding="utf-8"))["uid"] for each in BOARDS].count(board["uid"]) == 1
    known = {(each["type"], each["uid"]) for each in provisioned("datasources")}
    asked = [each["datasource"] for each in within(board) if each.get("datasource") is not None]
    assert {(each["type"], each["uid"]) for each in asked} == known
    variables = {each["name"] for each in board["templating"]["list"]}
    for panel in panels_of(board):
        if panel["type"] == "row":
            continue
        assert panel["title"], panel["id"]
        assert panel.get("datasource"), panel["title"]
        targets = panel["targets"]
        assert len({target["refId"] for target in targets}) == len(targets) > 0, panel["title"]
        for target in targets:
            assert target["datasource"] == panel["datasource"], panel["title"]
            named = set(re.findall(r"\$\{?(\w+)", target["expr"])) - {"__rate_interval", "__interval", "__range"}
            assert named <= variables, panel["title"]


def test_prometheus_finds_its_rules_and_its_password() -> None:
    settings = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    files = [*settings["rule_files"], *(each["basic_auth"]["password_file"] for each in settings["scrape_configs"])]
    beside = "/etc/prometheus"
    for name in files:
        path = name if name.startswith("/") else f"{beside}/{name}"
        assert path in mounted("prometheus"), name
    hosts = {target for each in within(settings) for target in each.get("targets", ())}
    assert {target.partition(":")[0] for target in hosts} <= COMPOSE["services"].keys()

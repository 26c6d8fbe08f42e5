import re
from pathlib import Path

import pytest

from coread.cli import coread
from coread.settings import ROUTABLE

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("command", sorted(coread.commands))
def test_every_command_and_option_is_documented(command: str) -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith(f"| `coread {command}"))
    for parameter in coread.commands[command].params:
        names = [name for name in parameter.opts if name.startswith("-")] or [parameter.opts[0].upper()]
        assert any(name in line for name in names), f"{names} is missing in: {line}"


def test_every_keyword_that_a_route_can_match_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert [keyword for keyword in ROUTABLE if keyword not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []

"""The documentation's site: every link and anchor in it leads somewhere, and it needs nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from coread.reference import commands, routes, settings

ROOT = Path(__file__).parents[2]


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Not quietly: mkdocs counts only warnings that it shows."""
    arguments = ["-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a link or an anchor that leads nowhere ends it."""
    folder = tmp_path_factory.mktemp("site")
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"", text)
        assert [each for each in loaded if "//" in each] == [], page.name
        assert 'class="mermaid"' not in text, "the theme would fetch a library from elsewhere for it"
    for style in site.rglob("*.css"):
        assert re.findall(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8")) == [], style.name


def test_the_reference_in_the_site_has_what_the_code_has(site: Path) -> None:
    shown = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    assert [table.heading for table in settings.tables() if table.heading not in shown] == []
    shown = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert [path for path, _command in commands.all_commands() if f"<code>{path}</code>" not in shown] == []
    shown = (site / "reference" / "routes.html").read_text(encoding="utf-8")
    assert [path for path in routes.openapi()["paths"] if path not in shown] == []
    assert (site / "reference" / "openapi.json").is_file()


def test_the_search_finds_what_pages_say(site: Path) -> None:
    assert "storage commitment" in (site / "search" / "search_index.json").read_text(encoding="utf-8").casefold()

"""The documentation says what there is, its links lead somewhere, and its snippets are understood."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import click
import pytest

from coread.cli import coread
from coread.reference import commands, settings, site
from coread.routes import COMPUTED, OF_THE_FILE, Route
from coread.settings import Settings, load_settings
from coread.settings_alerts import AlertSettings, Condition, WebhookSettings

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", *(ROOT / page for page in site.places_in_site(ROOT)), *DOCS]
SHELLS = ("", "console", "bash", "sh", "shell")
"""Languages of blocks that hold commands; a block without one is indented."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("command", sorted(coread.commands))
def test_every_command_and_option_is_documented(command: str) -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith(f"| `coread {command}"))
    for parameter in coread.commands[command].params:
        names = [name for name in parameter.opts if name.startswith("-")] or [parameter.opts[0].upper()]
        assert any(name in line for name in names), f"{names} is missing in: {line}"


def test_every_key_of_a_route_and_every_computed_keyword_is_documented() -> None:
    page = (ROOT / "docs" / "routing.md").read_text(encoding="utf-8")
    assert [keyword for keyword in COMPUTED | OF_THE_FILE if keyword not in page] == []
    assert [key for key in Route.model_fields if f"`{key}`" not in page] == []


def test_every_key_of_an_alert_is_documented() -> None:
    page = (ROOT / "docs" / "prioritisation.md").read_text(encoding="utf-8")
    keys = [key for of in (AlertSettings, Condition, WebhookSettings) for key in of.model_fields]
    assert [key for key in keys if f"`{key.replace('of_class', 'class')}`" not in page] == []


# Links and contents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", without_code(page.read_text(encoding="utf-8")))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_headings_lead_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", without_code(page.read_text(encoding="utf-8")))
    local = [(page.parent / target if target else page, anchor) for target, anchor in links if "://" not in target]
    assert [(target.name, anchor) for target, anchor in local if anchor not in anchors_of(target)] == []


def anchors_of(page: Path) -> list[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain]


def without_code(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_each_page_has_its_place_in_the_contents(page: Path) -> None:
    """One that fails here is to be added to a list in docs/README.md, which is the site's navigation, too."""
    contents = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    listed = [entry for chapter in site.navigation(contents) for entry in entries_of(chapter)]
    assert page.relative_to(ROOT / "docs").as_posix() in listed


def test_what_lies_elsewhere_has_its_place_in_the_contents() -> None:
    contents = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    listed = [entry for chapter in site.navigation(contents) for entry in entries_of(chapter)]
    assert sorted(set(site.places_in_site(ROOT).values()) - set(listed)) == []
    assert len(listed) == len(set(listed))


def entries_of(chapter: dict[str, object]) -> Iterator[str]:
    for entry in chapter.values():
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, list):
            yield from chain.from_iterable(map(entries_of, entry))


# Threats -----------------------------------------------------------------------------------------------------------


def named_tests(page: Path) -> list[tuple[str, str]]:
    """Each link to a test: its name, and the file that it leads to."""
    return re.findall(r"\[(test_\w+)\]\(([^)]+)\)", page.read_text(encoding="utf-8"))


def defined_tests(file: Path) -> set[str]:
    """The names of the functions that pytest collects from a file."""
    return {
        each.name
        for each in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
    }


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_each_test_that_a_page_names_exists(page: Path) -> None:
    named = named_tests(page)
    files = {target: defined_tests(page.parent / target) for _, target in named}
    assert [(name, target) for name, target in named if name not in files[target]] == []


def test_each_threat_has_a_test_or_says_that_it_has_none() -> None:
    """Each entry begins with the threat in bold; what no test shows is said to remain, or to be so on purpose."""
    page = (ROOT / "docs/threats.md").read_text(encoding="utf-8").partition("## DICOM")[2]
    entries = [entry for chapter in page.split("\n## ") for entry in chapter.split("\n- **")[1:]]
    assert len(entries) >= 40
    silent = [entry for entry in entries if "](../tests/" not in entry]
    assert [entry for entry in silent if "*Remains:*" not in entry and "Nothing keeps" not in entry] == []
    assert len(silent) <= 1


# The reference that is made from the code ---------------------------------------------------------------------------


def test_every_key_of_the_settings_says_what_it_means() -> None:
    assert [f"{table.heading} {key.name}" for table in settings.tables() for key in table.keys if not key.meaning] == []


def test_the_reference_has_every_table_and_key() -> None:
    keys = {key.name for table in settings.tables() for key in table.keys}
    headings = {table.heading for table in settings.tables()}
    for name, field in Settings.model_fields.items():
        assert name in keys or headings & {f"[{name}]", f"[[{name}]]"}, (name, field)


def test_every_command_says_what_it_does() -> None:
    assert [path for path, command in commands.all_commands() if not command.help] == []


def test_every_command_within_a_command_is_documented() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    words = [path.removeprefix("coread ") for path, command in commands.all_commands() if path.count(" ") == 2]
    missing = [
        path for path in words if f"`coread {path}" not in page and f"`{path.split()[1]}" not in chapter_of(page, path)
    ]
    assert missing == []


def chapter_of(page: str, path: str) -> str:
    """What a page says below the heading of a group of commands."""
    return page.partition(f"## `coread {path.split()[0]}`")[2].partition("\n## ")[0]


def test_links_out_of_the_docs_lead_to_their_place_in_the_site() -> None:
    text = "[a](../CHANGELOG.md) [b](../workers/pipeline.py) [c](settings.md#people) [d](gone.md) `[e](f)`"
    assert site.with_links_of_site(text, page="speed.md", root=ROOT) == (
        "[a](changelog.md) b [c](settings.md#people) [d](gone.md) `[e](f)`"
    )
    card = "[routes](../../../docs/routing.md), [the other](../../ecg_12_lead/docs/README.md)"
    assert site.with_links_of_site(card, page="cards/hippocampus_t1.md", root=ROOT) == (
        "[routes](../routing.md), [the other](ecg_12_lead.md)"
    )


# Snippets ----------------------------------------------------------------------------------------------------------


def blocks(language: str) -> list[tuple[str, str]]:
    """The blocks of a language in all pages, each with the place where it stands."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(rf"^( *)```{language}\b[^\n]*\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE):
            line = text[: block.start()].count("\n") + 1
            found.append((f"{name_of(page)}:{line}", re.sub(rf"^{block[1]}", "", block[2], flags=re.MULTILINE)))
    return found


@pytest.mark.parametrize(("place", "snippet"), blocks("toml"), ids=lambda text: text.partition("\n")[0][:40])
def test_snippets_of_settings_are_understood(
    place: str, snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself, with the secrets that it says the environment gives."""
    for variable in ("COREAD_ORTHANC__PASSWORD", *re.findall(r"COREAD_[A-Z_]+", snippet)):
        monkeypatch.setenv(variable, "a secret of many characters")
    file = tmp_path / "coread.toml"
    file.write_text(snippet, encoding="utf-8")
    load_settings(file)
    assert tomllib.loads(snippet).keys() <= Settings.model_fields.keys(), place


def commands_in_docs() -> list[tuple[str, str]]:
    """Each command line of ours in the pages, with the place where it stands."""
    found = []
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            is_of_block = re.match(r"^ {4,}(?:\$ )?(?:\.venv/bin/)?(coread .*)$|^ *\$ (coread .*)$", line)
            lines = [is_of_block[1] or is_of_block[2]] if is_of_block else re.findall(r"`(coread [a-z][^`]*)`", line)
            found += [(f"{name_of(page)}:{number}", each) for each in lines]
    return found


@pytest.mark.parametrize(("place", "line"), commands_in_docs(), ids=lambda text: text[:60])
def test_commands_in_the_pages_exist_with_their_options(place: str, line: str) -> None:
    words = shlex.split(re.sub(r"[\[\]…]", " ", line), comments=True)[1:]
    words = [word for each in words for word in each.replace("|", " ").split()]
    command: click.Command = coread
    context = click.Context(coread, info_name="coread")
    while isinstance(command, click.Group):
        if not words or words[0] in ("COMMAND", "-h", "--help", "--version"):
            return
        if words[0] == "--config":
            words = words[2:]
            continue
        named = command.get_command(context, words.pop(0))
        assert named is not None, f"{place}: there is no such command: {line}"
        command = named
    options = {name for each in command.params for name in [*each.opts, *each.secondary_opts]}
    given = [word.partition("=")[0] for word in words if word.startswith("-") and word != "-"]
    assert [name for name in given if name not in options | {"--help"}] == [], f"{place}: {line}"

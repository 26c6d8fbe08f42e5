"""The documentation's site: its order, the pages that it has beside those of docs/, and the links between them.

Pages are written for a reader of the repository: their links lead to files of it. Some of these are pages of the site
under another name, and the others are no part of it.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from coread.reference import commands, routes, settings

ELSEWHERE = ("benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "models/*/docs/README.md")
"""Pages of the repository that do not lie in docs/."""
MADE = {
    "Settings, all keys": "reference/settings.md",
    "Commands, all options": "reference/commands.md",
    "REST routes": "reference/routes.md",
}
"""Pages that are made from the code, for the reference."""

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_ENTRY = re.compile(r"^- \[([^\]]+)\]\(([^)]+)\)")


def generated_pages(root: Path) -> dict[str, str]:
    """Path in the site → content of what does not lie in docs/."""
    described = routes.openapi()
    elsewhere = {place: (root / source).read_text(encoding="utf-8") for source, place in places_in_site(root).items()}
    return {
        **elsewhere,
        "reference/settings.md": settings.page(),
        "reference/commands.md": commands.page(),
        "reference/routes.md": routes.page(described),
        "reference/openapi.json": json.dumps(described, indent=1),
    }


def places_in_site(root: Path) -> dict[str, str]:
    """File of the repository that does not lie in docs/ → where it stands in the site."""
    files = [path.relative_to(root) for pattern in ELSEWHERE for path in sorted(root.glob(pattern))]
    return {file.as_posix(): _place(file) for file in files}


def _place(file: Path) -> str:
    if file.parts[0] == "models":
        return f"cards/{file.parts[1]}.md"
    return f"{file.parent.name or file.stem.lower()}.md"


def navigation(contents: str) -> list[dict[str, Any]]:
    """The site's order, from the lists of links in docs/README.md: its headings are the chapters."""
    chapters: dict[str, list[dict[str, str]]] = {}
    chapter = ""
    for line in contents.splitlines():
        if line.startswith("## "):
            chapter = line.removeprefix("## ")
            chapters[chapter] = []
        elif found := _ENTRY.match(line):
            chapters[chapter].append({found[1]: _page_of(found[2])})
    chapters["Reference"] += [{title: path} for title, path in MADE.items()]
    return [{"Coread": "README.md"}, *({title: entries} for title, entries in chapters.items() if entries)]


def _page_of(link: str) -> str:
    """The page of the site that a link in docs/README.md leads to."""
    path = normpath(f"docs/{link}")
    return path.removeprefix("docs/") if path.startswith("docs/") else _place(Path(path))


def with_links_of_site(markdown: str, *, page: str, root: Path) -> str:
    """A page's text, with each link out of docs/ leading to the target's place in the site. If it has none, the link's
    text is left; a link to what does not exist stays, so that it is found.
    """
    places = places_in_site(root)
    sources = {place: source for source, place in places.items()}
    folder = PurePosixPath(sources.get(page, f"docs/{page}")).parent
    is_made = page in MADE.values()

    def lead(found: re.Match[str]) -> str:
        text, (target, _, anchor) = found[1], found[2].partition("#")
        if is_made or "://" in target or not target:
            return found[0]
        path = normpath(str(folder / target))
        if not (root / path).exists():
            return found[0]
        place = places.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if place is None or (root / path).is_dir():
            return text
        there = relpath(place, str(PurePosixPath(page).parent))
        return f"[{text}]({there}{'#' + anchor if anchor else ''})"

    return _outside_code(markdown, lead)


def _outside_code(markdown: str, lead: Callable[[re.Match[str]], str]) -> str:
    """The text with each link replaced that stands in no block of code."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _LINK.sub(lead, part) for part in parts)

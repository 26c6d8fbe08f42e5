"""What mkdocs is told beside mkdocs.yml: the order of pages, those that are made, and where links lead."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from coread.reference import site

ROOT = Path(__file__).parents[1]
GENERATED = site.generated_pages(ROOT)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The lists in docs/README.md, and what is made, are the site's navigation."""
    config.nav = site.navigation((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what is made from the code, and what lies elsewhere in the repository."""
    for path, content in GENERATED.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_more: Any) -> str:
    """Lead links out of docs/ to where their targets stand in the site."""
    return site.with_links_of_site(markdown, page=page.file.src_uri, root=ROOT)

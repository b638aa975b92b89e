"""What `mkdocs.yml` leaves to be generated: reference pages, pages of files beside `docs/`, links.

MkDocs finds the functions by their names. What is wrong is logged as a warning, and the strict
build ends with an error after any warning.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from command_pages import build_command_page
from library_pages import build_library_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from pages import Page
from repository_links import build_document_pages, build_source_pages, rewrite_links
from rest_pages import build_rest_pages, load_openapi

logger = logging.getLogger("mkdocs.hooks.excise")

ROOT = Path(__file__).resolve().parents[2]
_LATER_FOUND = "---\nsearch:\n  boost: 0.5\n---\n\n"
"""Generated pages come after guides and decisions in what the search finds."""
_FOREIGN_HOSTS = re.compile(r"https://(?:unpkg\.com|api\.github\.com)/")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the decisions and the generated pages to the navigation."""
    pages = [build_command_page(), *build_rest_pages(load_openapi())]
    library = build_library_pages(str(ROOT))
    config.extra["pages"] = [*pages, *library, *build_document_pages(ROOT)]
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert config.nav is not None
    config.nav += [
        {"Reference": [*map(_link, pages), {"Python": [*map(_link, library)]}]},
        {"Decisions": [f"decisions/{path.name}" for path in decisions]},
        {"Deployment": [{"Installing it for others": "deploy.md"}, {"The Helm chart": "helm.md"}]},
        {"Results": "results.md"},
        {"Examples": "examples.md"},
        {"Changelog": "changelog.md"},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and say what is undocumented on them."""
    pages: list[Page] = config.extra["pages"]
    written = {
        file.src_uri: rewrite_links(file.content_string, f"docs/{file.src_uri}", file.src_uri, ROOT)
        for file in files.documentation_pages()
    }
    sources = build_source_pages(ROOT, written | {page.path: page.text for page in pages})
    for page in pages:
        for name in page.undocumented:
            logger.warning("%s: nothing is said about the public name %s", page.path, name)
        files.append(File.generated(config, page.path, content=_LATER_FOUND + page.text))
    for page in sources:
        hidden = InclusionLevel.NOT_IN_NAV
        text = _LATER_FOUND + page.text
        files.append(File.generated(config, page.path, content=text, inclusion=hidden))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Make links out of `docs/` lead to the pages of what they name."""
    path = page.file.src_uri
    if page.file.generated_by:
        return markdown
    return rewrite_links(markdown, f"docs/{path}", path, ROOT)


def on_post_build(config: MkDocsConfig) -> None:
    """Take the addresses out of the theme's scripts from which they load what we have no use for.

    A diagram in a page would make them ask for Mermaid, an old browser for a polyfill.
    """
    for script in (Path(config.site_dir) / "assets" / "javascripts").rglob("*.js"):
        script.write_text(_FOREIGN_HOSTS.sub("", script.read_text("utf-8")), "utf-8")


def _link(page: Page) -> dict[str, str]:
    """The navigation's entry for a generated page."""
    return {page.title: page.path}

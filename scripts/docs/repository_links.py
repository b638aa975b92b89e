"""Links that lead out of `docs/`: to pages made of the repository's files."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from pages import Page

DOCUMENTS = {
    "CHANGELOG.md": ("changelog.md", "Changelog"),
    "benchmarks/RESULTS.md": ("results.md", "Results"),
    "deploy/README.md": ("deploy.md", "Running Excise for others"),
    "deploy/helm/excise/README.md": ("helm.md", "The Helm chart"),
    "examples/README.md": ("examples.md", "Examples"),
}
"""Documents beside `docs/` that are pages of the site: path → page and title."""
_SOURCES = "source"
"""Folder of the pages that show a file of the repository as it is."""
_LANGUAGES = {".py": "python", ".json": "json", ".yaml": "yaml", ".toml": "toml", ".sh": "bash"}
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")


def build_document_pages(root: Path) -> list[Page]:
    """The pages of `DOCUMENTS`, their links rewritten."""
    return [
        Page(page, title, rewrite_links((root / path).read_text("utf-8"), path, page, root))
        for path, (page, title) in DOCUMENTS.items()
    ]


def build_source_pages(root: Path, pages: dict[str, str]) -> list[Page]:
    """A page for each file of the repository that a page links to; `pages` are texts by path.

    Looks at links as `rewrite_links` writes them.
    """
    found = set()
    for path, text in pages.items():
        for target, _ in _LINK.findall(text):
            full = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if full.startswith(f"{_SOURCES}/") and full.endswith(".md"):
                found.add(full.removeprefix(f"{_SOURCES}/").removesuffix(".md"))
    return [_build_source_page(root, name) for name in sorted(found)]


def rewrite_links(text: str, path: str, page: str, root: Path) -> str:
    """The text of the repository's `path`, its links leading where they should from `page`.

    Links to files that do not exist stay as they are, for the strict build to find.
    """

    def rewrite(match: re.Match[str]) -> str:
        target, anchor = match.group(1), match.group(2) or ""
        full = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if not (root / full).exists():
            return match.group(0)
        if full.startswith("docs/"):
            inside = full.removeprefix("docs/")
        elif full in DOCUMENTS:
            inside = DOCUMENTS[full][0]
        else:
            inside = f"{_SOURCES}/{full}.md"
        return posixpath.relpath(inside, posixpath.dirname(page) or ".") + anchor

    return _LINK.sub(rewrite, text)


def _build_source_page(root: Path, name: str) -> Page:
    """A file of the repository as it is, or the names in a folder."""
    path = root / name
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("_"))
        shown = "\n".join(f"- `{entry}`" for entry in names)
    else:
        language = _LANGUAGES.get(path.suffix, "text")
        shown = f"`````{language}\n{path.read_text('utf-8')}\n`````"
    return Page(f"{_SOURCES}/{name}.md", name, f"# {name}\n\n{shown}\n")

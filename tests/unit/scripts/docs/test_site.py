"""`make docs`: the whole site is built strictly, asks no other host, and mistakes end the build."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]
_LOADED = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//""")
_LINKED = re.compile(r"""<link\b[^>]*\bhref=["']?(?:https?:)?//""")
_ASKED = re.compile(r"unpkg\.com|jsdelivr\.net|api\.github\.com|googleapis")
_STYLED = re.compile(r"""@import|url\(\s*["']?(?:https?:)?//""")


def build_site(config: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The site of a configuration, built as `make docs` builds it."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once: most of a minute on one core."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    result = build_site(ROOT / "mkdocs.yml", folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_the_site_has_guides_decisions_and_references(site: Path) -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        assert (site / path.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), path
    reference = site / "reference"
    assert "excise patch inspect" in (reference / "commands.html").read_text("utf-8")
    assert "/v1/jobs/{job_id}/cancel" in (reference / "rest.html").read_text("utf-8")
    assert 'id="correctionspec"' in (reference / "rest-objects.html").read_text("utf-8")
    pruning = (reference / "python" / "workers.pruning.html").read_text("utf-8")
    assert 'id="workers.pruning.patch.apply_patch"' in pruning


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not _LOADED.search(text), page
        assert not _LINKED.search(text), page
    for style in site.rglob("*.css"):
        assert not _STYLED.search(style.read_text("utf-8")), style
    for script in site.rglob("*.js"):
        assert not _ASKED.search(script.read_text("utf-8")), script


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("[nowhere](nowhere.md)", "nowhere.md"),
        ("[no such part](#nowhere)", "#nowhere"),
        ("[absolute](/index.html)", "/index.html"),
        ("[a file](../workers/nowhere.py)", "nowhere.py"),
    ],
)
def test_a_broken_link_ends_the_build(tmp_path: Path, page: str, said: str) -> None:
    """With the site's own rules, on one page."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# A page\n\n{page}\n", "utf-8")
    config = tmp_path / "mkdocs.yml"
    changes = {"docs_dir": str(docs), "nav": [{"A page": "index.md"}], "theme": "mkdocs"}
    nothing: dict[str, list[str]] = {"hooks": [], "plugins": [], "extra_css": []}
    config.write_text(yaml.safe_dump({"INHERIT": str(ROOT / "mkdocs.yml"), **changes, **nothing}))
    result = build_site(config, tmp_path / "site")
    assert result.returncode != 0
    assert said in result.stderr

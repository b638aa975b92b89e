"""The generators of the site: what they say, what they find missing, where their links lead."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

ROOT = Path(__file__).resolve().parents[4]


def test_a_table_leaves_out_what_no_row_fills() -> None:
    from pages import build_table

    rows = [("a", "", "b | c"), ("d", "", "")]
    assert build_table(("x", "y", "z"), rows) == (
        "| x | z |\n| --- | --- |\n| a | b \\| c |\n| d |  |"
    )
    assert build_table(("x", "y"), []) == ""


def test_the_picture_shows_the_house_as_it_stands() -> None:
    from draw_house import PICTURE, draw_house

    drawn = PICTURE.read_text("utf-8")
    assert drawn == draw_house(ROOT), "run: python scripts/docs/draw_house.py"


def test_every_room_is_described() -> None:
    from draw_house import list_rooms, read_floors

    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    first = " ".join(row.split("|")[1] for row in rows)
    rooms = {room for floor in read_floors(ROOT) for room in floor}
    for package in ("excise", "service"):
        rooms |= set(list_rooms(ROOT / package))
    missing = {room for room in rooms if f"`{room}`" not in first and f"/{room}`" not in first}
    assert not missing


def test_every_command_is_described_and_documented() -> None:
    from command_pages import build_command_page

    page = build_command_page()
    assert page.undocumented == ()
    assert "## excise submit" in page.text
    assert "## excise patch inspect" in page.text
    assert "| `--output <path>` |" in page.text


def test_a_silent_option_is_found() -> None:
    from command_pages import find_undocumented

    app = typer.Typer()

    @app.command()
    def run(loud: bool = typer.Option(False, help="Said."), silent: bool = False) -> None:
        """Run it."""

    assert find_undocumented("run", typer.main.get_command(app)) == ["run: silent"]


def test_every_call_and_object_of_the_api_is_described_and_documented() -> None:
    from rest_pages import build_rest_pages, list_operations, load_openapi

    document = load_openapi()
    calls, objects = build_rest_pages(document)
    for method, path, _ in list_operations(document):
        assert f"`{method} {path}`" in calls.text
    assert "## CorrectionSpec { #correctionspec }" in objects.text
    assert (
        "Largest mean of KL(base ‖ corrected), nats per token." in objects.text
    )  # a field's docstring
    assert calls.undocumented == objects.undocumented == ()


def test_a_silent_call_or_parameter_is_found() -> None:
    from rest_pages import find_undocumented

    silent = {"name": "limit", "in": "query"}
    parameters = [silent, {"name": "id", "in": "path"}, {**silent, "description": "How many."}]
    document = {"paths": {"/x": {"get": {"parameters": parameters}}}}
    assert list(find_undocumented(document)) == ["GET /x", "GET /x: limit"]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 9}, "integer, ≥ 1, ≤ 9"),
        ({"type": "number", "minimum": 0.0, "maximum": 1e6}, "number, ≥ 0, ≤ 1,000,000"),
        ({"type": "array", "items": {"type": "string"}}, "list of string"),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, "number or null"),
        ({"enum": ["a", "b"], "type": "string"}, '`"a"` or `"b"`'),
        ({"$ref": "#/components/schemas/JobView"}, "[JobView](rest-objects.md#jobview)"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "object of string"),
        ({}, "any JSON value"),
    ],
)
def test_types_are_said_in_words(schema: dict, words: str) -> None:
    from rest_pages import describe_type

    assert describe_type(schema) == words


def test_a_silent_name_of_a_package_is_found(tmp_path: Path) -> None:
    import griffe
    from library_pages import find_undocumented

    package = tmp_path / "house"
    package.mkdir()
    (package / "__init__.py").write_text('"""A house."""\nfrom os import path\n')
    (package / "room.py").write_text(
        '"""A room."""\ndef silent() -> None: ...\ndef _private() -> None: ...\n'
        'class Box:\n    """A box."""\n    def open(self) -> None: ...\n'
    )
    loaded = griffe.GriffeLoader(search_paths=[str(tmp_path)]).load("house")
    assert list(find_undocumented(loaded)) == []
    found = list(find_undocumented(loaded["room"]))
    assert found == ["house.room.silent", "house.room.Box.open"]


def test_the_packages_of_the_library_are_documented() -> None:
    from library_pages import ROOTS, build_library_pages

    overview, *pages = build_library_pages(str(ROOT))
    assert not [name for page in pages for name in page.undocumented]
    titles = {page.title for page in pages}
    assert {*ROOTS, "excise.specs", "excise.client"} <= titles
    assert "excise.cli" not in titles
    assert all(f"({title}.md)" in overview.text for title in titles)


def test_what_is_undocumented_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    import site_hooks
    from pages import Page

    page = Page("reference/x.md", "X", "# X", ("x.silent",))
    config = SimpleNamespace(extra={"pages": [page]})
    files = SimpleNamespace(documentation_pages=list, append=lambda _: None)
    with pytest.MonkeyPatch.context() as patching, caplog.at_level(logging.WARNING, "mkdocs"):
        patching.setattr(site_hooks.File, "generated", lambda *_, **__: None)
        site_hooks.on_files(files, config)
    assert "nothing is said about the public name x.silent" in caplog.text


@pytest.mark.parametrize(
    ("path", "page", "link", "rewritten"),
    [
        ("docs/guides/api.md", "guides/api.md", "serving.md#rest", "serving.md#rest"),
        ("docs/guides/api.md", "guides/api.md", "../../benchmarks/RESULTS.md", "../results.md"),
        ("benchmarks/RESULTS.md", "results.md", "../docs/index.md", "index.md"),
        ("docs/index.md", "index.md", "../mkdocs.yml", "source/mkdocs.yml.md"),
        ("docs/index.md", "index.md", "nowhere.md", "nowhere.md"),
        ("docs/index.md", "index.md", "https://a.example/b", "https://a.example/b"),
        ("docs/index.md", "index.md", "#part", "#part"),
    ],
)
def test_links_out_of_the_docs_lead_to_pages(
    path: str, page: str, link: str, rewritten: str
) -> None:
    from repository_links import rewrite_links

    text = rewrite_links(f"See [there]({link}).", path, page, ROOT)
    assert text == f"See [there]({rewritten})."


def test_a_linked_source_is_shown_as_it_is() -> None:
    from repository_links import build_source_pages

    text = "[a](source/mkdocs.yml.md) [b](source/tests/reference.md)"
    folder, file = sorted(build_source_pages(ROOT, {"index.md": text}), key=lambda p: -len(p.path))
    assert "site_name: Excise" in file.text
    assert "- `test_whole_model.py`" in folder.text

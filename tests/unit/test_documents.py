"""README, guides and examples: the specs they show are valid, the commands and links exist."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import TypeAdapter

from excise.cli.app import app
from excise.intake.prompt_sets import parse_prompts
from excise.names import BehaviourKind
from excise.specs import SPECS, parse_spec
from excise.specs.behaviours import BehaviourSpec
from workers.commands.gate.config import load_config
from workers.commands.gate.files import GateFiles
from workers.scorers.built_in import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        EXAMPLES / "README.md",
        *sorted((ROOT / "docs" / "guides").glob("*.md")),
        *sorted((ROOT / "docs" / "runbooks").glob("*.md")),
        *sorted((ROOT / "deploy").rglob("README.md")),
    )
}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|[\s(`])(?:\.venv/bin/)?excise((?: +[^\s`)]+)+)", re.MULTILINE)
_SPAN = re.compile(r"`excise ([^`]+)`")
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def find_blocks(*languages: str) -> Iterator[tuple[str, str]]:
    """Yield the document's name and the text of every fenced block of the languages."""
    for name, content in DOCUMENTS.items():
        for language, text in _BLOCK.findall(content):
            if language in languages:
                yield name, text


def find_specs(kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    """Every JSON document of these kinds that a block shows in full, each ellipsis numbered."""
    texts = [text for _, text in find_blocks("json") if "{…}" not in text]
    numbers = count()
    filled = [re.sub("…", lambda _: str(next(numbers)), text) for text in texts]
    documents = [json.loads(text) for text in filled if '"kind": ' in text]
    return [document for document in documents if document["kind"] in kinds]


def find_commands() -> Iterator[tuple[str, bool]]:
    """Yield the arguments of every `excise` command, and whether they are all there."""
    for _, text in find_blocks("", "sh", "yaml"):
        for arguments in _COMMAND.findall(text.replace("\\\n", " ")):
            yield arguments, True
    for content in DOCUMENTS.values():
        for arguments in _SPAN.findall(_BLOCK.sub("", content)):
            yield arguments, False


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.job.json")), ids=lambda path: path.name)
def test_the_example_jobs_are_valid(path: Path) -> None:
    spec = parse_spec(json.loads(path.read_text(encoding="utf-8")))
    assert path.name.startswith(("repetition", "toxicity", spec.kind))


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.txt")), ids=lambda path: path.name)
def test_the_example_texts_are_prompts(path: Path) -> None:
    assert len(parse_prompts(path.read_bytes(), "text")) >= 12


def test_the_example_gate_asks_for_files_that_are_there() -> None:
    config, files = load_config(EXAMPLES / "gate.yaml"), GateFiles(EXAMPLES)
    asked = [part for part in vars(config).values() if getattr(part, "prompts", None)]
    assert len(asked) == 5
    for part in [*asked, *config.behaviours]:
        assert files.load_prompts(part.prompts)


def test_the_guides_jobs_are_valid() -> None:
    specs = [parse_spec(document) for document in find_specs(SPECS)]
    assert {spec.kind for spec in specs} == set(SPECS)


def test_the_guide_names_every_built_in_scorer() -> None:
    text = (ROOT / "docs" / "guides" / "corrections.md").read_text(encoding="utf-8")
    assert [name for name in BUILT_IN if f"`{name}` (" not in text] == []


def test_the_guides_behaviours_are_valid() -> None:
    documents = find_specs(tuple(BehaviourKind))
    assert documents
    for document in documents:
        TypeAdapter(BehaviourSpec).validate_json(json.dumps(document))


def test_the_guides_yaml_is_yaml() -> None:
    for _, text in find_blocks("yaml"):
        assert isinstance(yaml.safe_load(text), dict)


COMMANDS = sorted(set(find_commands()))


@pytest.mark.parametrize(("arguments", "is_whole"), COMMANDS)
def test_every_command_shown_exists_with_its_options(arguments: str, is_whole: bool) -> None:
    command: Any = typer.main.get_command(app)
    context = command.context_class(command, info_name="excise")
    rest = shlex.split(arguments, comments=True)
    while rest and not rest[0].startswith("-") and hasattr(command, "get_command"):
        command = command.get_command(context, rest[0])
        assert command is not None, rest[0]
        rest = rest[1:]
        context = command.context_class(command, parent=context)
    if rest == ["--help"]:
        return
    given, superfluous, _ = command.make_parser(context).parse_args(rest)
    assert not superfluous
    if is_whole:
        assert {param.name for param in command.params if param.required} <= given.keys()


def test_the_index_of_the_runbooks_lists_every_page() -> None:
    pages = {path.name for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"index.md"}
    assert set(_LINK.findall(DOCUMENTS["docs/runbooks/index.md"])) >= pages


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    for target in _LINK.findall(DOCUMENTS[name]):
        assert (folder / target).exists(), target

"""The reference of the command line, from the parsers that read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from pages import Page, build_table, join_blocks, join_lines

from excise.cli.app import app

PATH = "reference/commands.md"
_INTRODUCTION = """\
Generated from the parsers of this release. `excise COMMAND --help` says the same.

Exit status of commands that end with a verdict: 0 passed, 100 gates not met, 1 anything else;
130 where Ctrl-C ended them. What a command needs beyond `pip install excise` it names itself."""


def build_command_page() -> Page:
    """Every command with its arguments and options, groups one after another."""
    root: Any = typer.main.get_command(app)
    context = root.context_class(root, info_name="excise")
    commands = list(list_commands(root, context))
    blocks = ["# The command line", _INTRODUCTION]
    for name, command, own_context in commands:
        blocks += describe_command(name, command, own_context)
    undocumented = tuple(
        missing for name, command, _ in commands for missing in find_undocumented(name, command)
    )
    return Page(PATH, "Command line", join_blocks(blocks), undocumented)


def list_commands(command: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the full name, parser and context of every command below `command`."""
    if not hasattr(command, "list_commands"):
        yield context.command_path, command, context
        return
    for name in sorted(command.list_commands(context)):
        child = command.get_command(context, name)
        yield from list_commands(child, child.context_class(child, info_name=name, parent=context))


def describe_command(name: str, command: Any, context: Any) -> list[str]:
    """The heading, usage, help, arguments and options of one command."""
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    records = [(param, param.get_help_record(context)) for param in command.params]
    tables = [
        build_table(
            (kind, "meaning"),
            [
                (f"`{written}`", said)
                for param, (written, said) in records
                if param.param_type_name == kind
            ],
        )
        for kind in ("argument", "option")
    ]
    return [f"## {name}", join_lines(command.help or ""), f"```text\n{usage}\n```", *tables]


def find_undocumented(name: str, command: Any) -> list[str]:
    """The command, its arguments and options that no help is given for."""
    missing = [] if command.help else [name]
    return missing + [f"{name}: {param.name}" for param in command.params if not param.help]

"""`excise examples` and `excise version`: content and version of this installation."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from excise.cli.output import CommandError, print_line, printed_after_work
from excise.installation import EXAMPLES, find_version
from excise.intake.new_folders import building_folder


def examples(
    output: Annotated[
        Path, typer.Option(file_okay=False, help="Folder to write; must not exist yet.")
    ] = Path("examples"),
) -> None:
    """Write the example jobs, prompts and texts that the guides use into a folder."""
    if output.exists():
        raise CommandError(f"{output} exists already. Set --output to another folder.")
    with building_folder(output) as folder:
        shutil.copytree(EXAMPLES, folder)
    with printed_after_work(output):
        print_line(f"wrote {output}; its README.md says what is in it")


def version() -> None:
    """Print the version."""
    print_line(f"excise {find_version() or '(not installed, run from a checkout)'}")

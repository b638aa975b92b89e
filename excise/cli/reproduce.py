"""`excise reproduce`: runs the job of a manifest again and compares the files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from excise.cli.connection import DEFAULT_URL, JsonOption, UrlOption, open_client
from excise.cli.job_files import require_room
from excise.cli.jobs import OutputOption, end_of_job, follow_to_end, require_sendable
from excise.cli.output import CommandError, build_console, clean, show
from excise.client import Client
from excise.intake.duplicates import DuplicateKeyError
from excise.intake.json_documents import load_json
from excise.intake.local_files import read_file
from excise.names import JobFile, PromptSetFormat, Verdict
from excise.resources.jobs import JobView

_CONTENT_TYPES = {
    PromptSetFormat.TEXT: "text/plain",
    PromptSetFormat.JSONL: "application/jsonl",
    PromptSetFormat.ROWS: "application/jsonl",
}
FORMAT_VERSION = 2
"""Version of the manifests that this release reads."""

_MAX_FILE_BYTES = 8 * 1024 * 1024
"""Larger files are skipped, because the service accepts no larger prompt set."""


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NamedSet(BaseModel):
    """A prompt set as named in a manifest: by its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    format: PromptSetFormat


class Manifest(BaseModel):
    """The parts of manifest.json that another run needs."""

    format_version: int = Field(strict=True)
    verdict: Verdict
    spec: dict[str, Any]
    sha256: dict[str, Sha256]


def reproduce(
    manifest: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST.json", exists=True, dir_okay=False, help="A job's manifest.json."
        ),
    ],
    prompts_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the files of the prompt sets.", exists=True, file_okay=False
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait, and compare the files.")] = False,
    output: OutputOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Submit the job of a manifest again, with the same spec and prompt sets of the same content.

    Sets that the service has are reused; the others are uploaded from --prompts-dir, where files
    are recognised by their SHA-256. Nothing is published. With --wait the exit code is the verdict
    of the new job, and every file is compared with the manifest.
    """
    if output is not None and manifest.resolve() == (output / JobFile.MANIFEST).resolve():
        raise CommandError(
            f"{manifest} lies in the folder for the new job's files. Give another --output."
        )
    before = load_manifest(manifest)
    require_room(output if wait else None)
    with open_client(url, is_waiting=wait) as client:
        sets = provide_sets(client, list_sets(before.spec), prompts_dir)
        job = client.create_job(build_spec(before.spec, sets))
        if wait:
            console = build_console(to_stderr=as_json, is_aside=True)
            job = follow_to_end(client, job, console, output, as_json=as_json)
            if job.verdict is not None:
                compare_files(client, job, before, console)
            end_of_job(job)
    show(job, as_json, lambda made: print(made.id))


def load_manifest(path: Path) -> Manifest:
    """Return the manifest in a file. Raises `CommandError`."""
    try:
        content = read_file(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
    found = parse_manifest(content, str(path))
    require_sendable(found.spec)
    return found


def parse_manifest(content: bytes, name: str) -> Manifest:
    """Return the manifest, called `name` in messages. Raises `CommandError`."""
    wrong = f"{name} is not a manifest"
    try:
        document = load_json(content)
        version = document.get("format_version") if isinstance(document, dict) else None
        if type(version) is int and version != FORMAT_VERSION:
            raise CommandError(
                f"{name} is a manifest of format {version}; this version reads format "
                f"{FORMAT_VERSION}."
            )
        return Manifest.model_validate(document)
    except DuplicateKeyError as error:
        raise CommandError(f"{name}: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "its JSON"
        raise CommandError(
            f"{wrong}: {place}: {first['msg']}. Give the manifest.json of a job."
        ) from None
    except (ValueError, RecursionError):
        raise CommandError(f"{wrong}: it is not JSON. Give the manifest.json of a job.") from None


def list_sets(value: object) -> list[NamedSet]:
    """Return the prompt sets that a manifest's spec names, each once."""
    return list(dict.fromkeys(_find_sets(value)))


def _find_sets(value: object) -> Iterator[NamedSet]:
    if (named := _read_set(value)) is not None:
        yield named
    elif isinstance(value, dict):
        for child in value.values():
            yield from _find_sets(child)
    elif isinstance(value, list):
        for child in value:
            yield from _find_sets(child)


def _read_set(value: object) -> NamedSet | None:
    """Return the set that a value of the spec names; None if it names none."""
    try:
        return NamedSet.model_validate(value)
    except ValidationError:
        return None


def build_spec(spec: dict[str, Any], ids: dict[NamedSet, str]) -> dict[str, Any]:
    """Return the spec with sets replaced by their ids and without `publish`."""

    def fill_in(value: object) -> object:
        if (named := _read_set(value)) is not None:
            return ids[named]
        if isinstance(value, dict):
            return {key: fill_in(child) for key, child in value.items()}
        return [fill_in(child) for child in value] if isinstance(value, list) else value

    return {key: fill_in(value) for key, value in spec.items() if key != "publish"}


def provide_sets(client: Client, sets: list[NamedSet], folder: Path | None) -> dict[NamedSet, str]:
    """Return set → its id on the service; missing sets are uploaded.

    Raises `CommandError`, naming every set whose content neither the service nor the folder has.
    """
    ids: dict[NamedSet, str] = {}
    for held in client.iter_prompt_sets():
        if len(ids) == len(sets):
            break
        found = (held.name, held.sha256, held.format)  # with its name, because the report shows it
        ids |= {one: held.id for one in sets if (one.name, one.sha256, one.format) == found}
    lacking = [one for one in sets if one not in ids]
    files = _hash_files(folder, {one.sha256 for one in lacking}) if folder and lacking else {}
    if missing := [one for one in lacking if one.sha256 not in files]:
        raise CommandError(_explain_missing(missing, folder))
    for one in lacking:
        content = read_file(files[one.sha256], _MAX_FILE_BYTES)
        kind, is_rows = _CONTENT_TYPES[one.format], one.format is PromptSetFormat.ROWS
        uploaded = client.upload_prompts(content, one.name, kind, is_rows=is_rows)
        if uploaded.sha256 != one.sha256:
            raise CommandError(f"{files[one.sha256]} changed while it was read. Try again.")
        ids[one] = uploaded.id
    return ids


def _hash_files(folder: Path, wanted: set[str]) -> dict[str, Path]:
    """Return SHA-256 → file below the folder, for hashes in `wanted`. Raises `CommandError`."""
    found: dict[str, Path] = {}
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.stat().st_size <= _MAX_FILE_BYTES:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if digest in wanted:
                    found.setdefault(digest, path)
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be read: {error.strerror}.") from None
    return found


def _explain_missing(missing: list[NamedSet], folder: Path | None) -> str:
    names = ", ".join(f"{clean(one.name)} (SHA-256 {clean(one.sha256)[:12]}…)" for one in missing)
    where = f"{folder} has no file with that content" if folder else "no --prompts-dir was given"
    return (
        f"The service lacks {names}, and {where}. Give --prompts-dir the folder with the files as "
        "they were uploaded."
    )


def compare_files(client: Client, job: JobView, before: Manifest, console: Console) -> None:
    """Print which files of the manifest the new job reproduced exactly."""
    after = _fetch_manifest(client, job)
    names = sorted(before.sha256.keys() | after.sha256.keys())
    differing = [name for name in names if before.sha256.get(name) != after.sha256.get(name)]
    if differing:
        console.print(f"Not the same bytes: {clean(', '.join(differing))}.")
    else:
        console.print(f"Reproduced: all {len(names)} files are the same, byte for byte.")
    if before.verdict != after.verdict:
        console.print(f"The verdict was {before.verdict}; now it is {after.verdict}.")


def _fetch_manifest(client: Client, job: JobView) -> Manifest:
    content = client.fetch_artifact(job.id, JobFile.MANIFEST)
    return parse_manifest(content, "the new job's manifest.json")

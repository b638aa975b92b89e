"""`excise demo`: the whole product on one machine, from an empty folder to a verdict."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from excise.cli.job_files import clear_job_files
from excise.cli.jobs import explain_end, load_spec
from excise.cli.output import CommandError, ExitCode, build_console, clean, exit_code_of
from excise.cli.progress import follow_job, format_seconds
from excise.cli.report_summary import print_report, require_own_verdict
from excise.client import Client, ClientError, build_set_name
from excise.installation import EXAMPLES, find_checkout
from excise.names import JobFile, KeyScope, Verdict
from excise.reports import Report, read_report
from excise.resources.jobs import JobView
from service.database import Database
from service.embedded import EmbeddedStack
from service.keys.operations import create_tenant_key

MODEL = "smollm2-135m-instruct"
FILES = tuple(JobFile)

_PROGRESS_BAR = re.compile(r"\d+%\|")  # tqdm's progress bars, which suit terminals but flood a log
_FETCH_SECONDS = 1800.0
_PATIENCE_SECONDS = 120.0
_CANCEL_SECONDS = 3.0
_REDUCED_PROMPTS = 48
_REDUCED_REFERENCE = 24
_REDUCED_ROUNDS = 2
_REDUCED_ITEMS = 10
_PARAGRAPH_BYTES = 400  # shorter lines of WikiText are headings and list entries
_REDUCED_PERPLEXITY = {"context": 128, "sequences": 6}


@dataclass(frozen=True)
class DemoOptions:
    """Settings of the demo."""

    home: Path
    output: Path
    is_reduced: bool = False
    data: Path | None = None
    """Folder that may hold `wikitext2_test.txt`; by default `../shared/data` beside a checkout."""
    examples: Path = EXAMPLES
    model: str = MODEL


@dataclass(frozen=True)
class DemoInputs:
    """The job spec without prompt-set ids, and the files with the prompts."""

    spec: dict[str, Any]
    undesired: Path
    reference: Path
    more_reference: Path | None
    """WikiText-2 valid, if the data folder has it; perplexity is then measured on test."""
    perplexity: Path


def run_demo(options: DemoOptions) -> ExitCode:
    """Run the demo; return the exit code. Raises the errors of its parts."""
    console = build_console()
    started = time.monotonic()
    inputs = find_inputs(options)

    def say(line: str) -> None:
        stamp = format_seconds(time.monotonic() - started)
        console.print(Text(f"[{stamp}] {clean(line)}"))

    say(f"Excise demo{' (reduced)' if options.is_reduced else ''}, home {options.home}")
    with EmbeddedStack(options.home, report=say) as stack:
        say(f"the service answers at {stack.url}")
        fetch_model(stack, options.model, say)
        key = create_throwaway_key(stack.database_url)
        with Client(stack.url, key, patience_seconds=_PATIENCE_SECONDS) as client:
            job = submit_demo_job(client, inputs, options)
            say(f"submitted {job.id}: correct {job.model}")
            job = follow_demo_job(client, job, console, started)
            return _conclude(client, job, options, console)


def find_inputs(options: DemoOptions) -> DemoInputs:
    """Return the example files. Raises `CommandError` if one is missing."""
    corpus, more = find_corpora(options.data)
    inputs = DemoInputs(
        spec=load_spec(options.examples / "repetition.job.json"),
        undesired=options.examples / "repetition_prompts.txt",
        reference=options.examples / "reference.txt",
        more_reference=more,
        perplexity=corpus or options.examples / "perplexity.txt",
    )
    for path in (inputs.undesired, inputs.reference, inputs.perplexity):
        if not path.is_file():
            raise CommandError(f"{path} is missing. It is a part of Excise: install it again.")
    return inputs


def find_corpora(data: Path | None) -> tuple[Path | None, Path | None]:
    """Return WikiText-2 test, and valid from the same folder; None for what is missing.

    The default folder is the one beside the checkout, if this is a checkout.
    """
    checkout = find_checkout()
    folder = data or (checkout and checkout.parent / "shared" / "data")
    if folder is None or not (test := folder / "wikitext2_test.txt").is_file():
        return None, None
    valid = folder / "wikitext2_valid.txt"
    return test, valid if valid.is_file() else None


def build_spec(
    inputs: DemoInputs, options: DemoOptions, undesired: str, reference: str, perplexity: str
) -> dict[str, Any]:
    """Return the job to submit: the example's spec with the ids of the prompt sets filled in."""
    spec = json.loads(json.dumps(inputs.spec))
    try:
        spec.setdefault("kind", "correction")
        spec["model"] = options.model
        spec["behaviours"][0]["prompts"] = undesired
        spec["reference"] = reference
        spec["perplexity"] = {**(spec.get("perplexity") or {}), "prompts": perplexity}
        if options.is_reduced:
            spec["perplexity"].update(_REDUCED_PERPLEXITY)
            spec["search"] = {"rounds": _REDUCED_ROUNDS}
            spec["gates"] = {**(spec.get("gates") or {}), "abilities": {"items": _REDUCED_ITEMS}}
            spec["protect"] = None
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        path = options.examples / "repetition.job.json"
        raise CommandError(f"{path} is not a correction job: {error!r}.") from None
    return dict(spec)


def read_prompts(path: Path, limit: int | None) -> bytes:
    """Return the file's content, or its first `limit` non-blank lines. Raises `CommandError`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
    if limit is None:
        return content
    lines = [line for line in content.splitlines() if line.strip()]
    return b"\n".join(lines[:limit]) + b"\n"


def read_reference(inputs: DemoInputs, limit: int | None) -> bytes:
    """Return the example's reference texts, alternating with WikiText's paragraphs if available.

    The reference text, which the correction must preserve, should resemble the text on which damage
    is measured.
    """
    own = read_prompts(inputs.reference, limit)
    if inputs.more_reference is None:
        return own
    lines = own.splitlines()
    paragraphs = [
        line.strip()
        for line in read_prompts(inputs.more_reference, None).splitlines()
        if len(line) >= _PARAGRAPH_BYTES
    ]
    pairs = zip(lines, paragraphs, strict=False)
    return b"\n".join(line for pair in pairs for line in pair) + b"\n"


def fetch_model(stack: EmbeddedStack, model: str, say: Callable[[str], None]) -> None:
    """Convert the bundled model unless that has been done. Raises `StackError`."""
    say(f"fetching {model} (converted once, kept in {stack.home / 'models'})")
    arguments = [sys.executable, "-P", "-m", "workers.commands.app", "models", "fetch", model]

    def show(line: str) -> None:
        if line.strip() and not _PROGRESS_BAR.search(line):
            say(line)

    stack.run(arguments, "fetch-model", on_line=show, timeout_seconds=_FETCH_SECONDS)


def create_throwaway_key(database_url: str) -> str:
    """Return a new key for this run only; it is never stored outside the database."""
    database = Database(database_url, pool_size=1, max_overflow=0)
    try:
        with database.transaction() as session:
            name = f"demo-{secrets.token_hex(4)}"
            return create_tenant_key(session, "demo", name, [KeyScope.SUBMIT])
    finally:
        database.dispose()


def check_files(job: JobView, report: Report, folder: Path) -> None:
    """Raise `CommandError` unless the downloaded files are complete and agree with the job."""
    expected = set(JobFile)
    if job.verdict is not Verdict.PASSED:
        expected.remove(JobFile.PATCH)
    if missing := sorted(name for name in expected if not (folder / name).is_file()):
        raise CommandError(f"The job produced no {', '.join(missing)}.")
    require_own_verdict(report, job)
    try:
        json.loads((folder / JobFile.MANIFEST).read_bytes())
    except ValueError as error:
        raise CommandError(f"manifest.json is not JSON: {error}.") from None


def submit_demo_job(client: Client, inputs: DemoInputs, options: DemoOptions) -> JobView:
    """Upload the prompts and submit the job."""
    reduced = options.is_reduced
    undesired = read_prompts(inputs.undesired, _REDUCED_PROMPTS if reduced else None)
    reference = read_reference(inputs, _REDUCED_REFERENCE if reduced else None)
    name = build_set_name(inputs.reference)
    if inputs.more_reference is not None:
        name += f" and {build_set_name(inputs.more_reference)}"
    ids = [
        client.upload_prompts(undesired, build_set_name(inputs.undesired)).id,
        client.upload_prompts(reference, name).id,
        client.upload_prompts(
            read_prompts(inputs.perplexity, None), build_set_name(inputs.perplexity)
        ).id,
    ]
    return client.create_job(build_spec(inputs, options, *ids))


def follow_demo_job(client: Client, job: JobView, console: Console, started: float) -> JobView:
    """Follow the job to its end; if interrupted, cancel it before everything is stopped."""
    try:
        return follow_job(client, job, console, started=started)
    except KeyboardInterrupt:
        console.print(Text("interrupted; cancelling the job and stopping everything"))
        with contextlib.suppress(ClientError):
            _cancel(client, job)
        raise


def _cancel(client: Client, job: JobView) -> None:
    """Cancel the job and wait a moment for it to stop."""
    client.patience_seconds = 0
    client.cancel_job(job.id)
    deadline = time.monotonic() + _CANCEL_SECONDS
    while client.get_job(job.id).status.is_open and time.monotonic() < deadline:
        time.sleep(0.2)


def _conclude(client: Client, job: JobView, options: DemoOptions, console: Console) -> ExitCode:
    """Download the files, show the result, and return the exit code."""
    code = exit_code_of(job)
    if code is ExitCode.ERROR:
        raise CommandError(f"{explain_end(job)} Logs: {options.home / 'logs'}")
    clear_job_files(options.output)
    for artifact in job.artifacts:
        if artifact.name in FILES:
            client.download_artifact(job.id, artifact, options.output)
    if not (options.output / JobFile.REPORT).is_file():
        raise CommandError("The job produced no report.json.")
    report = read_report((options.output / JobFile.REPORT).read_bytes())
    check_files(job, report, options.output)
    print_report(report, console)
    console.print()
    console.print(Text(f"Files (hashes checked), in {options.output.absolute()}:"))
    for name in FILES:
        if (options.output / name).is_file():
            console.print(Text(f"  {name}"))
    if options.is_reduced:
        console.print(Text("Reduced run: it finished and its files agree; any verdict will do."))
        return ExitCode.PASSED
    return code

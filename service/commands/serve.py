"""`excise serve`: publishes the demo's correction and serves it beside its base."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from excise.cli.jobs import explain_end
from excise.cli.output import CommandError, ExitCode, build_console, clean
from excise.cli.progress import format_seconds
from excise.cli.tables import print_table
from excise.client import Client
from excise.names import Split
from excise.reports import CorrectionReport, read_report
from excise.resources.jobs import JobView
from excise.resources.serving import VersionView
from service.commands.demo import (
    DemoInputs,
    DemoOptions,
    find_inputs,
    follow_demo_job,
    submit_demo_job,
)
from service.database import Database
from service.embedded import EmbeddedStack, ServingOptions
from service.embedded.vllm import find_vllm
from service.keys.operations import create_tenant_key

ALIAS = "smollm2@production"
TENANT = "demo"
SCOPES = ("submit", "publish", "infer")
MAX_TOKENS = 40

_PATIENCE_SECONDS = 120.0
_FETCH_SECONDS = 1800.0
_LIVE_SECONDS = 900.0
_ANSWER_SECONDS = 180.0
_LOOK_SECONDS = 0.5
_ENDED = {"failed", "retired"}

Say = Callable[[str], None]


@dataclass(frozen=True)
class ServeOptions:
    """Settings of `excise serve`."""

    demo: DemoOptions
    exit_after_snippet: bool = False


@dataclass(frozen=True)
class Snippets:
    """Two ways to call the gateway, as a user would type them, that keep the key from proxies."""

    url: str
    base: str
    alias: str
    prompt: str
    environment: dict[str, str] = field(repr=False)
    """Environment of the snippets; it holds the key, which appears on no command line."""

    @property
    def curl(self) -> str:
        """A shell command."""
        body = {
            "model": self.alias,
            "prompt": self.prompt,
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
        }
        return (
            f"curl -s --noproxy '*' {self.url}/v1/completions \\\n"
            '  -H "Authorization: Bearer $EXCISE_API_KEY" -H "Content-Type: application/json" \\\n'
            f"  -d {shlex.quote(json.dumps(body))}"
        )

    @property
    def python(self) -> str:
        """A script that uses the official client and prints one JSON object per model."""
        return (
            "import json, os\n"
            "from openai import DefaultHttpxClient, OpenAI\n\n"
            "client = OpenAI(\n"
            f'    base_url="{self.url}/v1", api_key=os.environ["EXCISE_API_KEY"],\n'
            "    http_client=DefaultHttpxClient(trust_env=False),  # no proxy sees the key\n"
            ")\n"
            f"for model in ({self.base!r}, {self.alias!r}):\n"
            f"    answer = client.completions.create(\n"
            f"        model=model, prompt={self.prompt!r},\n"
            f"        max_tokens={MAX_TOKENS}, temperature=0,\n"
            "    )\n"
            "    print(json.dumps({'model': model, 'text': answer.choices[0].text}))\n"
        )


def run_serve(options: ServeOptions) -> ExitCode:
    """Serve until interrupted, or until the snippets have run; return the exit code."""
    console, started = build_console(), time.monotonic()

    def say(line: str) -> None:
        console.print(Text(f"[{format_seconds(time.monotonic() - started)}] {clean(line)}"))

    demo = options.demo
    find_vllm(os.environ)  # before anything slow
    check_snippet_client()
    inputs = find_inputs(demo)
    say(f"Excise serve, home {demo.home}")
    fetch_model_files(demo.home, demo.model, say)
    serving = ServingOptions(demo.model)
    with EmbeddedStack(demo.home, serving=serving, report=say) as stack:
        say(f"the service answers at {stack.url}")
        key = create_key(stack.database_url)
        with Client(stack.url, key, patience_seconds=_PATIENCE_SECONDS) as client:
            job = find_corrected_job(client, demo.model)
            if job is None:
                job = _correct(client, inputs, demo, console, started)
            if job.verdict != "passed":
                say(f"not served: {explain_end(job)}")
                return ExitCode.GATES_NOT_MET
            version = publish(client, job, say)
            say(f"{ALIAS} is {version.id}, a {version.kind}; its canary has passed")
            prompt = choose_prompt(client, job)
        environment = {**os.environ, "EXCISE_API_KEY": key}
        show(Snippets(stack.url, demo.model, ALIAS, prompt, environment), console)
        if not options.exit_after_snippet:
            console.print(Text(describe_next_steps(stack)))
            stack.wait()
    say("stopped")
    return ExitCode.PASSED


def check_snippet_client() -> None:
    """Raise `CommandError` unless the client that one of the snippets uses is installed."""
    if importlib.util.find_spec("openai") is None:
        raise CommandError(
            "`excise serve` also uses the openai client, which is not installed. "
            "Run: pip install openai"
        )


def fetch_model_files(home: Path, model: str, say: Say) -> None:
    """Convert the bundled model unless that has been done; vLLM needs its files to start."""
    if (home / "models" / model / "config.json").is_file():
        return
    say(f"converting {model} (once, kept in {home / 'models'})")
    arguments = [sys.executable, "-P", "-m", "workers.commands.app", "models", "fetch", model]
    environment = {**os.environ, "EXCISE_HOME": str(home.absolute())}
    try:
        subprocess.run(
            arguments,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=_FETCH_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        last = str(error.stderr).strip().splitlines()[-1:] or ["no reason given"]
        raise CommandError(f"{model} could not be fetched: {last[0]}") from None
    except subprocess.TimeoutExpired:
        raise CommandError(f"{model} was not fetched within {_FETCH_SECONDS:.0f} s.") from None


def create_key(database_url: str) -> str:
    """Return a new key of the demo's tenant for this run only; it is never stored in a file."""
    database = Database(database_url, pool_size=1, max_overflow=0)
    try:
        with database.transaction() as session:
            return create_tenant_key(session, TENANT, "serve", SCOPES)
    finally:
        database.dispose()


def find_corrected_job(client: Client, model: str) -> JobView | None:
    """Return the demo's latest correction that passed, or None."""
    after = None
    while True:
        page = client.list_jobs(after=after, limit=100)
        for job in page.data:
            if (job.kind, job.model, job.verdict) == ("correction", model, "passed"):
                return client.get_job(job.id)
        if not page.has_more:
            return None
        after = page.data[-1].id


def publish(client: Client, job: JobView, say: Say) -> VersionView:
    """Return the job's version once it is live and the alias points to it. Raises `CommandError`.

    A version published by an earlier run is brought up again, not published twice.
    """
    pointed_at = client.find_alias_target(ALIAS)
    version = client.publish(job.id, alias=None if pointed_at is not None else ALIAS)
    status = ""
    deadline = time.monotonic() + _LIVE_SECONDS
    while version.status != "live":
        if version.status != status:
            status = version.status
            say(f"{version.id} is {status}")
        if status in _ENDED:
            raise CommandError(f"{version.id} is not served: {version.error}")
        if time.monotonic() > deadline:
            raise CommandError(
                f"{version.id} is still {status} after {_LIVE_SECONDS:.0f} s"
                f"{f' ({version.error})' if version.error else ''}. See the logs."
            )
        time.sleep(_LOOK_SECONDS)
        version = client.get_version(version.id)
    if client.find_alias_target(ALIAS) != version.id:
        client.promote(ALIAS, version.id)
    return version


def choose_prompt(client: Client, job: JobView) -> str:
    """Return the report's held-out prompt on which the correction has the largest effect."""
    report = read_report(client.fetch_report(job.id))
    given = report.samples if isinstance(report, CorrectionReport) else []
    samples = [sample for sample in given if sample.split is Split.HELD_OUT] or given
    if not samples:
        raise CommandError("The job's report has no samples to ask about.")
    return samples[0].prompt  # a report lists the largest improvements first


def show(snippets: Snippets, console: Console) -> None:
    """Print both snippets, run them and print their output."""
    console.print(Text(f"\nWith curl:\n\n{snippets.curl}\n"))
    answer = _run(["bash", "-c", snippets.curl], snippets, "curl")
    console.print(Text(clean(_read_text(answer), keep_lines=True)))
    console.print(Text(f"\nWith the openai client:\n\n{snippets.python}"))
    lines = _run([sys.executable, "-c", snippets.python], snippets, "openai").splitlines()
    table = Table("base", "corrected", title=clean(snippets.prompt), show_lines=True)
    texts = [str(json.loads(line)["text"]) for line in lines]
    table.add_row(*(Text(clean(text, keep_lines=True)) for text in texts))
    print_table(table, console)


def describe_next_steps(stack: EmbeddedStack) -> str:
    """Return what a user types in another terminal to continue."""
    return (
        "\nIt continues to answer. In another terminal:\n"
        f"  export EXCISE_HOME={stack.home} EXCISE_URL={stack.url}\n"
        f"  export EXCISE_API_KEY=$(excise keys create --tenant {TENANT} --scope infer)\n"
        f"Logs: {stack.home / 'logs'}. Ctrl-C stops everything."
    )


def _correct(
    client: Client,
    inputs: DemoInputs,
    demo: DemoOptions,
    console: Console,
    started: float,
) -> JobView:
    """Run the demo's job to its end and return it."""
    job = submit_demo_job(client, inputs, demo)
    console.print(Text(f"no correction here yet; submitted {job.id}, as `excise demo` does"))
    job = follow_demo_job(client, job, console, started)
    if job.verdict is None:
        raise CommandError(explain_end(job))
    return job


def _run(arguments: list[str], snippets: Snippets, what: str) -> str:
    """Return what a snippet prints. Raises `CommandError` if it fails."""
    try:
        done = subprocess.run(
            arguments,
            env=snippets.environment,
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"The {what} snippet did not run: {type(error).__name__}.") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise CommandError(f"The {what} snippet failed: {last[0]}")
    return done.stdout


def _read_text(answer: str) -> str:
    """Return the text of a completion. Raises `CommandError` with the answer if it has none."""
    try:
        return str(json.loads(answer)["choices"][0]["text"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise CommandError(f"The gateway answered: {answer.strip()[:500]}") from None

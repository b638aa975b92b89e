"""`excise publish`, `aliases`, `versions`, `pools`: what is served, and under which name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.table import Table

from excise.cli.ability_summary import count_kept, describe_kept
from excise.cli.connection import DEFAULT_URL, JsonOption, UrlOption, open_client
from excise.cli.output import CommandError, build_console, clean, print_json, print_more
from excise.names import VersionStatus
from excise.resources.serving import AliasView, ServingEventList, VersionView

aliases_app = typer.Typer(no_args_is_help=True, help="Names that applications call.")
versions_app = typer.Typer(no_args_is_help=True, help="Published corrections.")

AliasArgument = Annotated[str, typer.Argument(metavar="ALIAS", help="Such as smollm2@production.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="A version's id.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Why; kept in the events.")]


def publish(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="A job that passed.")],
    alias: Annotated[
        str | None, typer.Option(help="The alias that moves to it once its canary has passed.")
    ] = None,
    reason: ReasonOption = None,
    override: Annotated[
        str | None,
        typer.Option(help="An admin's reason to publish what did not pass; no alias takes it."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is live.")] = False,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Publish a job's correction. With --wait the exit code is 0 when it went live, 1 otherwise."""
    with open_client(url, is_waiting=wait) as client:
        version = client.publish(job_id, alias=alias, reason=reason, override=override)
        print(_describe_abilities(version), file=sys.stderr, flush=True)
        if wait:
            print(f"version {version.id}", file=sys.stderr, flush=True)
            version = client.wait_until_settled(version.id, _report_status)
    if as_json:
        _print_model(version)
    else:
        print(version.id)
    if wait and version.status is not VersionStatus.LIVE:
        raise CommandError(f"{version.id} is {version.status}: {version.error or 'no reason'}")


@aliases_app.command("list")
def list_aliases(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Show every alias and what it points at."""
    with open_client(url) as client:
        found = client.list_aliases()
    if as_json:
        _print_model(found)
        return
    table = Table("alias", "version", "before", "split", "changed", box=None)
    for alias in found.data:
        split = f"{alias.split.percent} % {alias.split.version}" if alias.split else "-"
        changed = alias.updated_at.strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(alias.name, alias.version, alias.previous or "-", split, changed)
    build_console().print(table)


@aliases_app.command("promote")
def promote_alias(
    alias: AliasArgument,
    version: VersionArgument,
    reason: ReasonOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Point an alias at a live version."""
    with open_client(url) as client:
        _show_alias(client.promote(alias, version, reason), as_json)


@aliases_app.command("rollback")
def roll_back_alias(
    alias: AliasArgument,
    reason: ReasonOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Undo an alias's latest change: end its split, or go back to the version before."""
    with open_client(url) as client:
        _show_alias(client.roll_back(alias, reason), as_json)


@aliases_app.command("split")
def split_alias(
    alias: AliasArgument,
    percent: Annotated[int, typer.Argument(min=0, max=99, help="0 ends the split.")],
    version: Annotated[
        str | None,
        typer.Argument(metavar="VERSION", help="The second version; none to end the split."),
    ] = None,
    reason: ReasonOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Send a share of an alias's requests to a second version."""
    with open_client(url) as client:
        _show_alias(client.split(alias, version, percent, reason), as_json)


@aliases_app.command("events")
def show_alias_events(
    alias: AliasArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Show what happened to an alias: who, when, why."""
    with open_client(url) as client:
        _show_events(client.list_alias_events(alias), as_json)


@versions_app.command("list")
def list_versions(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many to list.")] = 20,
    after: Annotated[str | None, typer.Option(help="The last id of the page before.")] = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """List versions, newest first."""
    with open_client(url) as client:
        page = client.list_versions(after=after, limit=limit)
    if as_json:
        _print_model(page)
        return
    _show_versions(page.data)
    for version in page.data:
        if version.abilities is not None and version.abilities.lost:
            print(f"{version.id} {_describe_abilities(version)}")
    if page.has_more:
        print_more(page.data[-1].id)


@versions_app.command("show")
def show_version(
    version: VersionArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Show one version and what happened to it."""
    with open_client(url) as client:
        found = client.get_version(version)
        events = client.list_version_events(version)
    if as_json:
        _print_model(found)
        return
    _show_versions([found])
    print(_describe_abilities(found))
    if found.error:
        print(clean(found.error))
    _show_events(events, as_json=False)


@versions_app.command("retire")
def retire_version(
    version: VersionArgument,
    reason: ReasonOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Take a version that no alias points at off its server."""
    with open_client(url) as client:
        found = client.retire(version, reason)
    if as_json:
        _print_model(found)
    else:
        print(found.status)


def list_pools(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Show the servers corrections are published to."""
    with open_client(url) as client:
        found = client.list_pools()
    if as_json:
        _print_model(found)
        return
    table = Table("pool", "base", "kind", "status", "vLLM", "holds at most", "detail", box=None)
    for pool in found.data:
        version, capacity = pool.server_version or "-", str(pool.capacity)
        row = (pool.name, pool.base_model, pool.kind, pool.status, version, capacity, pool.detail)
        table.add_row(*map(clean, row))
    build_console().print(table)


def _report_status(version: VersionView) -> None:
    """One line for a version that has got further."""
    print(f"  {version.status}", file=sys.stderr, flush=True)


def _describe_abilities(version: VersionView) -> str:
    return clean(f"abilities: {describe_kept(version.abilities)}")


def _show_alias(alias: AliasView, as_json: bool) -> None:
    if as_json:
        _print_model(alias)
        return
    split = f", {alias.split.percent} % {alias.split.version}" if alias.split else ""
    print(f"{alias.name} {alias.version}{split}")


def _show_versions(versions: Sequence[VersionView]) -> None:
    table = Table(
        "id", "status", "verdict", "abilities", "kind", "rank", "base", "job", "created", box=None
    )
    for version in versions:
        created = version.created_at.strftime("%Y-%m-%d %H:%M:%S")
        rank = "-" if version.rank is None else str(version.rank)
        kept = count_kept(version.abilities)
        row = (version.id, version.status, version.verdict, kept, version.kind, rank)
        table.add_row(*row, clean(version.base_model), version.job, created)
    build_console().print(table)


def _show_events(events: ServingEventList, as_json: bool) -> None:
    if as_json:
        _print_model(events)
        return
    table = Table("when", "what", "who", "message", "why", box=None)
    for event in events.data:
        when = event.created_at.strftime("%Y-%m-%d %H:%M:%S")
        why = clean(event.reason or "-")
        table.add_row(when, event.kind, event.by or "-", clean(event.message), why)
    build_console().print(table)


def _print_model(model: BaseModel) -> None:
    print_json(model.model_dump(mode="json"))

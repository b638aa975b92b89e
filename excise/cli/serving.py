"""`excise publish`, `aliases`, `versions`, `pools`: serving corrections under names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from excise.cli.ability_summary import count_kept, describe_kept
from excise.cli.connection import (
    DEFAULT_URL,
    AfterOption,
    JsonOption,
    LimitOption,
    UrlOption,
    open_client,
)
from excise.cli.output import (
    CommandError,
    build_console,
    clean,
    format_time,
    print_aside,
    show,
    show_page,
)
from excise.cli.tables import print_table
from excise.names import VersionStatus
from excise.resources.serving import (
    AliasList,
    AliasView,
    PoolList,
    ServingEventList,
    VersionList,
    VersionView,
)

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
        typer.Option(
            help="An admin's reason to publish what did not pass; no alias may point at it."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is live.")] = False,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Publish a job's correction. With --wait the exit code is 0 if it went live, 1 otherwise."""
    with open_client(url, is_waiting=wait) as client:
        version = client.publish(job_id, alias=alias, reason=reason, override=override)
        print_aside(_describe_abilities(version))
        if wait:
            print_aside(f"version {version.id}")
            version = client.wait_until_settled(version.id, _report_status)
    show(version, as_json, lambda made: print(made.id))
    if wait and version.status is not VersionStatus.LIVE:
        raise CommandError(f"{version.id} is {version.status}: {version.error or 'no reason'}")


@aliases_app.command("list")
def list_aliases(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """List the aliases, each with the version it points to."""
    with open_client(url) as client:
        found = client.list_aliases()
    show(found, as_json, _print_aliases)


@aliases_app.command("promote")
def promote_alias(
    alias: AliasArgument,
    version: VersionArgument,
    reason: ReasonOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Point an alias to a live version."""
    with open_client(url) as client:
        show(client.promote(alias, version, reason), as_json, _print_alias)


@aliases_app.command("rollback")
def roll_back_alias(
    alias: AliasArgument,
    reason: ReasonOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Undo an alias's latest change: end its split, or restore the previous version."""
    with open_client(url) as client:
        show(client.roll_back(alias, reason), as_json, _print_alias)


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
        show(client.split(alias, version, percent, reason), as_json, _print_alias)


@aliases_app.command("events")
def show_alias_events(
    alias: AliasArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Show the history of an alias: who changed it, when and why."""
    with open_client(url) as client:
        show(client.list_alias_events(alias), as_json, _print_events)


@versions_app.command("list")
def list_versions(
    limit: LimitOption = 20,
    after: AfterOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """List versions, newest first."""
    with open_client(url) as client:
        page = client.list_versions(after=after, limit=limit)
    show_page(page, as_json, _print_page)


@versions_app.command("show")
def show_version(
    version: VersionArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Show one version and its history."""
    with open_client(url) as client:
        found = client.get_version(version)
        events = client.list_version_events(version)
    show(found, as_json, lambda version: _print_version(version, events))


@versions_app.command("retire")
def retire_version(
    version: VersionArgument,
    reason: ReasonOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Take a version that no alias points to off its server."""
    with open_client(url) as client:
        found = client.retire(version, reason)
    show(found, as_json, lambda version: print(version.status))


def list_pools(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Show the servers that corrections are published to."""
    with open_client(url) as client:
        found = client.list_pools()
    show(found, as_json, _print_pools)


def _report_status(version: VersionView) -> None:
    """Print one line about a version whose status has changed."""
    print_aside(f"  {version.status}")


def _describe_abilities(version: VersionView) -> str:
    return clean(f"abilities: {describe_kept(version.abilities)}")


def _print_aliases(aliases: AliasList) -> None:
    table = Table("alias", "version", "before", "split", "changed", box=None)
    for alias in aliases.data:
        changed, split = format_time(alias.updated_at), _describe_split(alias) or "-"
        table.add_row(alias.name, alias.version, alias.previous or "-", split, changed)
    print_table(table, build_console())


def _print_alias(alias: AliasView) -> None:
    split = f", {found}" if (found := _describe_split(alias)) else ""
    print(f"{alias.name} {alias.version}{split}")


def _describe_split(alias: AliasView) -> str:
    return f"{alias.split.percent} % {alias.split.version}" if alias.split else ""


def _print_page(page: VersionList) -> None:
    _print_versions(page.data)
    for version in page.data:
        if version.abilities is not None and version.abilities.lost:
            print(f"{version.id} {_describe_abilities(version)}")


def _print_version(version: VersionView, events: ServingEventList) -> None:
    _print_versions([version])
    print(_describe_abilities(version))
    if version.error:
        print(clean(version.error))
    _print_events(events)


def _print_versions(versions: Sequence[VersionView]) -> None:
    table = Table(
        "id", "status", "verdict", "abilities", "kind", "rank", "base", "job", "created", box=None
    )
    for version in versions:
        rank = "-" if version.rank is None else str(version.rank)
        kept, created = count_kept(version.abilities), format_time(version.created_at)
        row = (version.id, version.status, version.verdict, kept, version.kind, rank)
        table.add_row(*row, clean(version.base_model), version.job, created)
    print_table(table, build_console())


def _print_pools(pools: PoolList) -> None:
    table = Table("pool", "base", "kind", "status", "vLLM", "holds at most", "detail", box=None)
    for pool in pools.data:
        version, capacity = pool.server_version or "-", str(pool.capacity)
        row = (pool.name, pool.base_model, pool.kind, pool.status, version, capacity, pool.detail)
        table.add_row(*map(clean, row))
    print_table(table, build_console())


def _print_events(events: ServingEventList) -> None:
    table = Table("when", "what", "who", "message", "why", box=None)
    for event in events.data:
        when, why = format_time(event.created_at), clean(event.reason or "-")
        table.add_row(when, event.kind, event.by or "-", clean(event.message), why)
    print_table(table, build_console())

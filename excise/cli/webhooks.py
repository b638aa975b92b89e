"""`excise webhooks`: manage the receivers of job and version events, and their deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from excise.cli.connection import (
    DEFAULT_URL,
    AfterOption,
    JsonOption,
    LimitOption,
    UrlOption,
    open_client,
)
from excise.cli.output import (
    build_console,
    clean,
    format_time,
    print_aside,
    print_done,
    print_line,
    show,
    show_page,
    shown_once,
)
from excise.cli.tables import print_table
from excise.names import WebhookEvent, WebhookStatus
from excise.resources.webhooks import DeliveryList, DeliveryView, NewWebhookView, WebhookView

app = typer.Typer(no_args_is_help=True, help="Receivers of the events of jobs and versions.")

WebhookArgument = Annotated[str, typer.Argument(metavar="WEBHOOK", help="A webhook's id.")]
EventOption = Annotated[
    list[WebhookEvent] | None,
    typer.Option("--event", help="Event to send; repeatable, all events by default."),
]


@app.command("create")
def create(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Where messages are posted.")],
    event: EventOption = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Create a webhook; print its id and, only now, its secret."""
    with open_client(url) as client:
        made = client.create_webhook(address, event or None, description)
    _show_secret(made, as_json)


@app.command("list")
def list_webhooks(
    limit: LimitOption = 20,
    after: AfterOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """List webhooks, newest first."""
    with open_client(url) as client:
        page = client.list_webhooks(after=after, limit=limit)
    show_page(page, as_json, lambda page: _print_webhooks(page.data))


@app.command("show")
def show_webhook(
    webhook: WebhookArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Show one webhook and the events it receives."""
    with open_client(url) as client:
        found = client.get_webhook(webhook)
    show(found, as_json, _print_webhook)


@app.command("change")
def change(
    webhook: WebhookArgument,
    address: Annotated[str | None, typer.Option(help="Where messages are posted.")] = None,
    event: EventOption = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    status: Annotated[
        WebhookStatus | None, typer.Option(help="Switch it off, or on again.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Change a webhook; options that are not given stay as they are."""
    wanted = {"url": address, "events": event or None, "description": description, "status": status}
    changes = {name: value for name, value in wanted.items() if value is not None}
    with open_client(url) as client:
        found = client.change_webhook(webhook, **changes)
    show(found, as_json, _print_webhook)


@app.command("delete")
def delete(webhook: WebhookArgument, url: UrlOption = DEFAULT_URL) -> None:
    """Delete a webhook and its deliveries."""
    with open_client(url) as client:
        client.delete_webhook(webhook)
    print_done("deleted")


@app.command("rotate")
def rotate(
    webhook: WebhookArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Give a webhook a new secret, printed only now; the old one keeps signing for a day."""
    with open_client(url) as client:
        _show_secret(client.rotate_webhook_secret(webhook), as_json)


@app.command("ping")
def ping(
    webhook: WebhookArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Send a test message; `deliveries` shows how it went."""
    with open_client(url) as client:
        show(client.ping_webhook(webhook), as_json, _print_id)


@app.command("deliveries")
def deliveries(
    webhook: WebhookArgument,
    limit: LimitOption = 20,
    after: AfterOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """List a webhook's deliveries and their results, newest first."""
    with open_client(url) as client:
        page = client.list_deliveries(webhook, after=after, limit=limit)
    show_page(page, as_json, _print_deliveries)


@app.command("retry")
def retry(
    webhook: WebhookArgument,
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="A delivery's id.")],
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Send a message again."""
    with open_client(url) as client:
        show(client.retry_delivery(webhook, delivery), as_json, _print_id)


def _describe_last(delivery: DeliveryView) -> str:
    """Return the result of the last attempt."""
    if not delivery.attempts:
        return "-"
    last = delivery.attempts[-1]
    return last.error or str(last.status_code)


def _show_secret(made: NewWebhookView, as_json: bool) -> None:
    with shown_once(f"Run: excise webhooks rotate {made.id}"):
        show(made, as_json, _print_secret)


def _print_secret(made: NewWebhookView) -> None:
    print_line(f"{made.id}\n{made.secret}")
    print_aside("the secret is shown only once: store it where the receiver can read it")


def _print_webhook(webhook: WebhookView) -> None:
    _print_webhooks([webhook])
    print(f"events: {', '.join(webhook.events)}")
    if webhook.status_reason:
        print(clean(webhook.status_reason))


def _print_webhooks(webhooks: Sequence[WebhookView]) -> None:
    table = Table("id", "status", "failing since", "address", "description", box=None)
    for one in webhooks:
        since = format_time(one.failing_since)
        table.add_row(one.id, one.status, since, clean(one.url), clean(one.description))
    print_table(table, build_console())


def _print_deliveries(page: DeliveryList) -> None:
    table = Table("id", "event", "status", "attempts", "last answer", "created", box=None)
    for one in page.data:
        attempts, answer = str(len(one.attempts)), clean(_describe_last(one))
        table.add_row(one.id, one.type, one.status, attempts, answer, format_time(one.created_at))
    print_table(table, build_console())


def _print_id(delivery: DeliveryView) -> None:
    print(delivery.id)

"""Links of the OpenAPI document: which calls take what another one answered with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_ID = "$response.body#/id"
_FIRST_ID = "$response.body#/data/0/id"
_FIRST_NAME = "$response.body#/data/0/name"


@dataclass(frozen=True)
class Link:
    """Calls that go on from an answer, and what of it each of them takes."""

    targets: tuple[str, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    """A whole body for the call; expressions in it stand for parts of the answer."""


_OF_JOB = (
    *("get_job", "cancel_job", "get_events", "get_report", "get_patch", "publish"),
    *("delete_artifacts", "delete_job"),
)
_OF_PROMPT_SET = ("get_prompt_set", "delete_prompt_set")
_OF_VERSION = ("get_version", "list_version_events")
_OF_ALIAS = ("get_alias", "list_alias_events", "roll_back_alias")
_OF_WEBHOOK = (
    *("get_webhook", "change_webhook", "rotate_secret", "ping_webhook", "list_deliveries"),
    "delete_webhook",
)
_LINKS: Mapping[str, tuple[Link, ...]] = {
    "list_models": (Link(("get_model",), {"model_id": _FIRST_ID}),),
    "submit_job": (Link(_OF_JOB, {"job_id": _ID}),),
    "list_jobs": (
        Link(("get_job", "get_events", "cancel_job"), {"job_id": _FIRST_ID}),
        Link(
            ("submit_job",),
            body={"kind": "circuit", "model": "$response.body#/data/0/model", "task": "ioi"},
        ),
    ),
    "cancel_job": (Link(("get_job", "delete_artifacts", "delete_job"), {"job_id": _ID}),),
    "create_prompt_set": (Link(_OF_PROMPT_SET, {"prompt_set_id": _ID}),),
    "list_prompt_sets": (Link(_OF_PROMPT_SET, {"prompt_set_id": _FIRST_ID}),),
    "create_key": (Link(("revoke_key",), {"key_id": _ID}),),
    "create_webhook": (Link(_OF_WEBHOOK, {"webhook_id": _ID}),),
    "list_webhooks": (Link(_OF_WEBHOOK, {"webhook_id": _FIRST_ID}),),
    "ping_webhook": (
        Link(("retry_delivery",), {"webhook_id": "$request.path.webhook_id", "delivery_id": _ID}),
    ),
    "publish": (Link((*_OF_VERSION, "retire_version"), {"version_id": _ID}),),
    "list_versions": (
        Link(_OF_VERSION, {"version_id": _FIRST_ID}),
        Link(("promote_alias",), {"alias": "smollm2@production"}, {"version": _FIRST_ID}),
    ),
    "promote_alias": (Link(_OF_ALIAS, {"alias": "$response.body#/name"}),),
    "list_aliases": (Link(_OF_ALIAS, {"alias": _FIRST_NAME}),),
}
"""Call → the links in its answer. Schemathesis follows every one."""


def add_links(operations: Mapping[str, Any]) -> None:
    """Say in the document which calls go on from an answer."""
    for name, links in _LINKS.items():
        described = {target: _describe(target, link) for link in links for target in link.targets}
        for status, response in operations[name]["responses"].items():
            if status.startswith("2"):
                response["links"] = described


def _describe(target: str, link: Link) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": target}
    if link.parameters:
        described["parameters"] = dict(link.parameters)
    if link.body is not None:
        described["requestBody"] = dict(link.body)
        described["x-schemathesis"] = {"merge_body": False}  # or it adds fields of other kinds
    return described

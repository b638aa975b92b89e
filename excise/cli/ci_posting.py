"""A comment on a GitHub pull or GitLab merge request, written once and updated by later runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from excise.cli.output import CommandError
from excise.intake.local_files import read_file
from excise.outgoing.proxies import goes_past_proxies

PER_PAGE = 100
MOST_PAGES = 50
"""Pages of comments searched for an earlier one of ours: 5,000 comments. In longer threads, a new
comment is written. Chosen by hand."""

_TIMEOUT = httpx.Timeout(30.0)
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")


@dataclass
class GitHubThread:
    """A pull request on GitHub."""

    url: str
    """URL of the API."""
    headers: Mapping[str, str]
    """Request headers, with the token."""
    repository: str
    number: str
    author: str
    """Author of our comments; others may copy our first line, but theirs are not ours."""
    update: str = "PATCH"
    """HTTP method that updates a comment."""

    @property
    def path(self) -> str:
        """Path of the comments; on GitHub, pull requests are issues."""
        return f"/repos/{self.repository}/issues/{self.number}/comments"

    def is_own(self, comment: Mapping[str, Any], client: httpx.Client) -> bool:  # noqa: ARG002
        """Return whether a comment is ours, by its author's name.

        (A workflow's token cannot ask for its owner.)
        """
        user = comment.get("user")
        return isinstance(user, dict) and user.get("login") == self.author

    def address(self, comment: Mapping[str, Any]) -> str:
        """Return the path of one comment."""
        return f"/repos/{self.repository}/issues/comments/{int(comment['id'])}"


@dataclass
class GitLabThread:
    """A merge request on GitLab."""

    url: str
    headers: Mapping[str, str]
    project: str
    number: str
    update: str = "PUT"
    _own_id: int | None = None

    @property
    def path(self) -> str:
        """Path of the comments, which GitLab calls notes."""
        return f"/projects/{self.project}/merge_requests/{self.number}/notes"

    def is_own(self, comment: Mapping[str, Any], client: httpx.Client) -> bool:
        """Return whether a comment is ours: whether its author is the token's owner."""
        if self._own_id is None:
            self._own_id = int(_ask(client, "GET", "/user")["id"])
        author = comment.get("author")
        return isinstance(author, dict) and author.get("id") == self._own_id

    def address(self, comment: Mapping[str, Any]) -> str:
        """Return the path of one note."""
        return f"{self.path}/{int(comment['id'])}"


def find_thread(environment: Mapping[str, str], author: str) -> GitHubThread | GitLabThread | None:
    """Return the pull or merge request of this pipeline; None if it has none.

    Raises `CommandError` if the environment is not that of a pipeline or has no token.
    """
    if environment.get("GITHUB_ACTIONS") == "true":
        return _find_on_github(environment, author)
    if environment.get("GITLAB_CI") == "true":
        return _find_on_gitlab(environment)
    raise CommandError(
        "This is neither a GitHub nor a GitLab pipeline. Print the text with "
        "`excise ci comment` and post it yourself."
    )


def post_comment(
    thread: GitHubThread | GitLabThread,
    marker: str,
    body: str,
    transport: httpx.BaseTransport | None = None,
) -> str:
    """Replace our earlier comment by `body`, which begins with `marker`, or write a new one.

    Returns a line that says which of the two was done. Raises `CommandError`.
    """
    if transport is None and goes_past_proxies(thread.url):
        transport = httpx.HTTPTransport()
    with httpx.Client(
        base_url=thread.url, headers=dict(thread.headers), timeout=_TIMEOUT, transport=transport
    ) as client:
        for comment in _list_comments(client, thread.path):
            if _is_marked(comment, marker) and thread.is_own(comment, client):
                _ask(client, thread.update, thread.address(comment), {"body": body})
                return "updated the comment"
        _ask(client, "POST", thread.path, {"body": body})
        return "wrote a comment"


def _find_on_github(environment: Mapping[str, str], author: str) -> GitHubThread | None:
    number = _read_number(environment.get("GITHUB_EVENT_PATH"))
    if number is None:
        return None
    repository = environment.get("GITHUB_REPOSITORY", "")
    if not _REPOSITORY.fullmatch(repository):
        raise CommandError("GITHUB_REPOSITORY is not owner/name.")
    token = _require(environment, "GITHUB_TOKEN")
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    url = environment.get("GITHUB_API_URL", "https://api.github.com")
    return GitHubThread(url, headers, repository, number, author)


def _read_number(path: str | None) -> str | None:
    """Return the pull request's number from the event that started the workflow."""
    try:
        event = json.loads(read_file(Path(path))) if path else {}
    except (OSError, ValueError):
        raise CommandError("GITHUB_EVENT_PATH does not name a JSON file.") from None
    request = event.get("pull_request") if isinstance(event, dict) else None
    number = str(request.get("number", "")) if isinstance(request, dict) else ""
    return number if _NUMBER.fullmatch(number) else None


def _find_on_gitlab(environment: Mapping[str, str]) -> GitLabThread | None:
    number = environment.get("CI_MERGE_REQUEST_IID", "")
    if not _NUMBER.fullmatch(number):
        return None
    project = environment.get("CI_MERGE_REQUEST_PROJECT_ID") or environment.get("CI_PROJECT_ID", "")
    if not _NUMBER.fullmatch(project):
        raise CommandError("CI_PROJECT_ID is not a number.")
    headers = {"PRIVATE-TOKEN": _require(environment, "EXCISE_GITLAB_TOKEN")}
    url = environment.get("CI_API_V4_URL", "https://gitlab.com/api/v4")
    return GitLabThread(url, headers, project, number)


def _require(environment: Mapping[str, str], name: str) -> str:
    token = environment.get(name, "").strip()
    if not token or not token.isascii() or not token.isprintable():
        raise CommandError(f"{name} is not set to a token that may write comments.")
    return token


def _list_comments(client: httpx.Client, path: str) -> Iterator[Mapping[str, Any]]:
    for page in range(1, MOST_PAGES + 1):
        found = _ask(client, "GET", f"{path}?per_page={PER_PAGE}&page={page}")
        yield from (comment for comment in found if isinstance(comment, dict))
        if len(found) < PER_PAGE:
            return


def _is_marked(comment: Mapping[str, Any], marker: str) -> bool:
    """Return whether the comment's first line is the marker; later lines may be anyone's text."""
    body = comment.get("body")
    return isinstance(body, str) and body.split("\n", 1)[0].strip() == marker


def _ask(client: httpx.Client, method: str, path: str, body: object = None) -> Any:
    """Return the host's JSON answer. Raises `CommandError`, which never contains the token."""
    try:
        response = client.request(method, path, json=body)
    except httpx.HTTPError as error:
        raise CommandError(f"{client.base_url.host} failed: {type(error).__name__}.") from None
    if not response.is_success:
        remedy = (
            " Give the token the right to write comments (`pull-requests: write`, or scope api)."
            if response.status_code in {401, 403, 404}
            else ""
        )
        raise CommandError(f"{client.base_url.host} answered {response.status_code}.{remedy}")
    try:
        return response.json()
    except ValueError:
        raise CommandError(f"{client.base_url.host} did not answer with JSON.") from None

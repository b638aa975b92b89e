"""Building scorers from descriptions, which come from a job spec or a gate.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from excise.names import Direction
from excise.outgoing.endpoints import OutgoingError, parse_endpoint, resolve_endpoint
from excise.outgoing.posts import Credentials, Poster, SecretUse
from workers.scorers.custom import HttpScorer, load_plugin
from workers.scorers.detoxify import load_detoxify
from workers.scorers.errors import ScorerUnavailableError
from workers.scorers.phrases import Phrases, PhraseScorer
from workers.scorers.scorer import BehaviourScorer


@dataclass(frozen=True)
class PluginDescription:
    """A scorer without arguments, built in or installed, and the direction it must have."""

    name: str
    direction: Direction


@dataclass(frozen=True)
class DetoxifyDescription:
    """A Detoxify checkpoint by name: a published variant or a local folder."""

    checkpoint: str


@dataclass(frozen=True)
class PhraseDescription:
    """Phrases to search for, and the scorer's name in the report."""

    name: str
    phrases: Phrases


@dataclass(frozen=True)
class HttpDescription:
    """A scorer behind a URL."""

    name: str
    url: str
    direction: Direction


ScorerDescription = PluginDescription | DetoxifyDescription | PhraseDescription | HttpDescription


@dataclass(frozen=True)
class TrustedHost:
    """A host on which the operator allows scorers, and the secret to send to it.

    It may be in a private network and may use http.
    """

    host: str
    """`host` or `host:port`; the secret is sent to exactly this host and no other."""
    secret_variable: str | None = None
    """Name of the operator's environment variable that holds the secret."""
    secret_use: SecretUse = SecretUse.BEARER


@dataclass(frozen=True)
class ScorerSurroundings:
    """The operator's settings for scorers; a job cannot influence them."""

    find_detoxify: Callable[[str], Path]
    """Returns the folder of the Detoxify checkpoint with a given name."""
    device: str = "cpu"
    hosts: tuple[TrustedHost, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment variables, among them the secrets."""


def build_scorer(
    description: ScorerDescription, surroundings: ScorerSurroundings, resources: ExitStack
) -> BehaviourScorer:
    """Return the scorer described; its open connections are closed with `resources`.

    Raises `ScorerUnavailableError`.
    """
    match description:
        case PluginDescription(name, direction):
            return _load_plugin(name, direction)
        case DetoxifyDescription(checkpoint):
            return load_detoxify(surroundings.find_detoxify(checkpoint), surroundings.device)
        case PhraseDescription(name, phrases):
            return PhraseScorer(phrases, name)
        case HttpDescription():
            poster = resources.enter_context(_build_poster(description, surroundings))
            return HttpScorer(description.name, description.direction, poster)


def _load_plugin(name: str, direction: Direction) -> BehaviourScorer:
    scorer = load_plugin(name)
    if scorer.direction is not direction:
        raise ScorerUnavailableError(
            f"the scorer {name!r} says {scorer.direction}, the behaviour's direction is "
            f"{direction}. Correct the behaviour's."
        )
    return scorer


def _build_poster(description: HttpDescription, surroundings: ScorerSurroundings) -> Poster:
    hosts = {trusted.host.lower(): trusted for trusted in surroundings.hosts}
    try:
        endpoint = parse_endpoint(description.url)
        destination = resolve_endpoint(endpoint, hosts)
    except OutgoingError as error:
        raise ScorerUnavailableError(f"the URL of {description.name}: {error}") from error
    trusted = hosts.get(f"{endpoint.host}:{endpoint.port}") or hosts.get(endpoint.host)
    credentials = None if trusted is None else _read_credentials(trusted, surroundings.environment)
    return Poster(destination, credentials)


def _read_credentials(trusted: TrustedHost, environment: Mapping[str, str]) -> Credentials | None:
    if trusted.secret_variable is None:
        return None
    try:
        return Credentials(environment[trusted.secret_variable], trusted.secret_use)
    except (KeyError, ValueError) as error:
        reason = "is not set" if isinstance(error, KeyError) else f"is unusable: {error}"
        raise ScorerUnavailableError(
            f"the environment variable {trusted.secret_variable}, which holds the secret for "
            f"{trusted.host}, {reason}. The operator must set it."
        ) from None

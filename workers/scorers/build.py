"""Scorers built from descriptions that a job spec or gate.yaml can be turned into."""

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
    """A scorer that takes no argument, built in or installed, and the direction it must have."""

    name: str
    direction: Direction


@dataclass(frozen=True)
class DetoxifyDescription:
    """A checkpoint of Detoxify's: a published variant, or a local folder, by name."""

    checkpoint: str


@dataclass(frozen=True)
class PhraseDescription:
    """Phrases, and what the report calls looking for them."""

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
    """A host the operator allows scorers on, private or over http, and the secret it is sent."""

    host: str
    """`host`, or `host:port`; the secret goes to the very host that is written here."""
    secret_variable: str | None = None
    """Environment variable of the operator's that holds the secret."""
    secret_use: SecretUse = SecretUse.BEARER


@dataclass(frozen=True)
class ScorerSurroundings:
    """What the operator decides; nothing of it comes out of a job."""

    find_detoxify: Callable[[str], Path]
    """The folder of a checkpoint of this name."""
    device: str = "cpu"
    hosts: tuple[TrustedHost, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Where the secrets are."""


def build_scorer(
    description: ScorerDescription, surroundings: ScorerSurroundings, resources: ExitStack
) -> BehaviourScorer:
    """Return the scorer described; what it holds open is closed with `resources`.

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

"""Scorers of the user's own: a Python entry point the operator installed, or an HTTP endpoint."""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from excise.names import Direction
from excise.outgoing.posts import Poster, PostError
from workers.scorers.errors import ScorerUnavailableError, ScoringError
from workers.scorers.scorer import Answer, BehaviourScorer

ENTRY_POINT_GROUP = "excise.scorers"
MAX_ANSWERS_PER_POST = 32
MAX_POST_BYTES = 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class HttpScores(BaseModel):
    """What an HTTP scorer must answer."""

    model_config = ConfigDict(extra="ignore", strict=True)

    scores: list[Annotated[float, Field(allow_inf_nan=False)]]


@dataclass(frozen=True)
class CheckedScorer:
    """Another's scorer, held to the contract: one finite number an answer."""

    scorer: BehaviourScorer
    name: str
    direction: Direction

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return the scores. Raises `ScoringError` unless there is one finite number an answer."""
        try:
            scores = [float(score) for score in self.scorer.score(answers)]
        except ScoringError:
            raise
        except Exception as error:
            raise ScoringError(f"the scorer {self.name} failed: {error!r}") from error
        return check_scores(scores, len(answers), self.name)


@dataclass(frozen=True)
class HttpScorer:
    """Scores responses by posting them to an endpoint.

    `{"answers": [{"prompt": …, "response": …}, …]}` is posted and `{"scores": [number, …]}`
    expected, as many and in the same order.
    """

    name: str
    direction: Direction
    poster: Poster
    """Closed by whoever opened it."""

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return the endpoint's scores. Raises `ScoringError`."""
        return [score for batch in _batch(answers) for score in self._score_batch(batch)]

    def _score_batch(self, texts: Sequence[bytes]) -> list[float]:
        try:
            content = self.poster.post(b'{"answers":[' + b",".join(texts) + b"]}")
        except PostError as error:
            raise ScoringError(f"the scorer {self.name}: {error}") from error
        try:
            scores = HttpScores.model_validate_json(content).scores
        except ValidationError as error:
            where = ", ".join(".".join(map(str, item["loc"])) for item in error.errors()[:3])
            raise ScoringError(
                f'the scorer {self.name} must answer {{"scores": [finite numbers]}}; wrong: '
                f"{where or 'it is no JSON'}"
            ) from None
        return check_scores(scores, len(texts), self.name)


def load_entry_point(name: str) -> CheckedScorer:
    """Return the scorer that an installed package offers as `name` in `excise.scorers`.

    The entry point is a class or function that takes nothing and returns a `BehaviourScorer`.
    Raises `ScorerUnavailableError`.
    """
    offered = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    found = [entry for entry in offered if entry.name == name and _NAME.fullmatch(name)]
    if len(found) != 1:
        raise ScorerUnavailableError(
            f"{len(found)} installed packages offer the scorer {name!r} in the entry point group "
            f"{ENTRY_POINT_GROUP}; exactly one must. Offered: "
            f"{', '.join(sorted(offered.names)) or 'none'}."
        )
    try:
        scorer = found[0].load()()
        direction = Direction(scorer.direction)
        return CheckedScorer(cast(BehaviourScorer, scorer), f"custom/{name}", direction)
    except Exception as error:
        raise ScorerUnavailableError(
            f"the entry point {found[0].value} of the scorer {name!r} gave no scorer: {error!r}"
        ) from error


def check_scores(scores: list[float], count: int, name: str) -> list[float]:
    """Return `scores` where they are `count` finite numbers; raises `ScoringError` otherwise."""
    if len(scores) != count:
        raise ScoringError(f"the scorer {name} gave {len(scores)} scores for {count} answers")
    if not all(map(math.isfinite, scores)):
        raise ScoringError(f"the scorer {name} gave a score that is not finite")
    return scores


def _batch(answers: Sequence[Answer]) -> Iterator[list[bytes]]:
    """Yield the answers as JSON objects, by count and by bytes; a larger one goes alone."""
    batch: list[bytes] = []
    for answer in answers:
        text = json.dumps({"prompt": answer.prompt, "response": answer.text}).encode()
        size = sum(map(len, batch)) + len(text)
        if batch and (len(batch) == MAX_ANSWERS_PER_POST or size > MAX_POST_BYTES):
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch

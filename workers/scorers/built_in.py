"""The scorers that Excise brings: plug-ins like a user's own, in a table instead of a package."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from workers.scorers.profanity import DISTRIBUTION, load_profanity
from workers.scorers.scorer import BehaviourScorer
from workers.scorers.uniqueness import UniquenessScorer

BUILT_IN: Mapping[str, Callable[[], BehaviourScorer]] = {
    UniquenessScorer.name: UniquenessScorer,
    DISTRIBUTION: load_profanity,
}
"""Name → class or function that takes nothing and returns the scorer; it may raise
`ScorerUnavailableError`. A behaviour of the kind `custom` gets any of them by its `entry_point`.
Scorers that need an argument, phrases and Detoxify's checkpoints, are built in `build`."""

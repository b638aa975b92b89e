"""The scorers that come with Excise: plug-ins like a user's own, but listed in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from workers.scorers.profanity import DISTRIBUTION, load_profanity
from workers.scorers.scorer import BehaviourScorer
from workers.scorers.uniqueness import UniquenessScorer

BUILT_IN: Mapping[str, Callable[[], BehaviourScorer]] = {
    UniquenessScorer.name: UniquenessScorer,
    DISTRIBUTION: load_profanity,
}
"""Name → class or function without arguments that returns the scorer; it may raise
`ScorerUnavailableError`. A behaviour of kind `custom` selects one by `entry_point`. Scorers that
need arguments (phrases, Detoxify checkpoints) are built in `build`."""

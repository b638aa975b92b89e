"""The scorers that gate.yaml can name for a behaviour."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from workers.validation.scorers.scorer import BehaviourScorer
from workers.validation.scorers.uniqueness import UniquenessScorer

SCORERS: Mapping[str, Callable[[], BehaviourScorer]] = {"response_uniqueness": UniquenessScorer}
"""Name → what builds the scorer; heavy ones import their libraries when built."""

"""What can go wrong with scorers; each message names the cause and the remedy.

ScorerError
├── ScorerUnavailableError   it cannot be loaded or built
└── ScoringError             it ran and did not give one finite score an answer
"""

from __future__ import annotations


class ScorerError(RuntimeError):
    """A behaviour could not be scored."""


class ScorerUnavailableError(ScorerError):
    """A scorer is not installed, not what it should be, or not allowed here."""


class ScoringError(ScorerError):
    """A scorer failed on answers, or gave something else than one finite score each."""

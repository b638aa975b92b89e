"""Errors of scorers; each message names the cause and the remedy.

ScorerError
├── ScorerUnavailableError   it cannot be loaded or built
└── ScoringError             it ran but did not return one finite score per answer
"""

from __future__ import annotations


class ScorerError(RuntimeError):
    """A behaviour could not be scored."""


class ScorerUnavailableError(ScorerError):
    """A scorer is not installed, is not what it should be, or is not allowed here."""


class ScoringError(ScorerError):
    """A scorer failed, or did not return one finite score per answer."""

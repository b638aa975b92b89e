"""What is wrong with a configuration of `excise gate`."""

from __future__ import annotations


class GateConfigError(ValueError):
    """gate.yaml, or a file it names, cannot be used; the message names field and remedy."""

"""Answers that show a secret for the only time: no cache may store them."""

from __future__ import annotations

from fastapi import Depends, Response


def _forbid_storing(response: Response) -> None:
    """Tell browsers and proxies to store nothing of the answer."""
    response.headers["Cache-Control"] = "no-store"


SHOWN_ONCE = Depends(_forbid_storing)
"""Dependency of every route whose answer has a secret."""

"""The base of every error that a user of the command line can act on."""

from __future__ import annotations


class UserError(Exception):
    """Something cannot be done; the message says why and what helps."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

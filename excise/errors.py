"""The base class of all errors that a user of the command line can act on."""

from __future__ import annotations


class UserError(Exception):
    """Something cannot be done; the message says why and how to fix it."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

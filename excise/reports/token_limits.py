"""How many answers of each set of prompts reached the token limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from excise.reports.model import ReportModel


class TokenLimitUse(ReportModel):
    """How many answers to one set of prompts were cut off at the token limit, before and after."""

    subject: str
    """Name of the prompt set or behaviour."""
    max_new_tokens: int
    """The limit."""
    responses: int
    """Number of answers of each model."""
    before: int
    """Number of the base's answers that reached the limit."""
    after: int


def describe_token_limit(use: TokenLimitUse) -> str:
    """Return how many answers of one set reached the limit, as one line."""
    return (
        f"{use.subject}: {use.after} of {use.responses} at {use.max_new_tokens} tokens, "
        f"{use.before} of the base's"
    )


def describe_token_limits(uses: Sequence[TokenLimitUse]) -> Iterator[str]:
    """Yield a heading and a line for each set; nothing if there are none."""
    if uses:
        yield "answers that reached the token limit (max_new_tokens):"
    for use in uses:
        yield f"  {describe_token_limit(use)}"

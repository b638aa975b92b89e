"""How many answers of each set of prompts reached the token limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from excise.reports.model import ReportModel

MOST_CUT_OFF = 0.9
"""Share of answers from which on nearly all are cut off. Chosen by hand."""

_HIDDEN = (
    "whether they still end, or loop, cannot be seen so; measure again with a larger max_new_tokens"
)


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

    @property
    def hides_endings(self) -> bool:
        """Whether nearly all answers are cut off now, most of which ended by themselves before."""
        most = MOST_CUT_OFF * self.responses
        return self.after >= most and self.before < most / 2


def describe_token_limit(use: TokenLimitUse) -> str:
    """Return how many answers of one set reached the limit, as one line."""
    found = (
        f"{use.subject}: {use.after} of {use.responses} at {use.max_new_tokens} tokens, "
        f"{use.before} of the base's"
    )
    return f"{found}: {_HIDDEN}" if use.hides_endings else found


def describe_token_limits(uses: Sequence[TokenLimitUse]) -> Iterator[str]:
    """Yield a heading and a line for each set; nothing if there are none."""
    if uses:
        yield "answers that reached the token limit (max_new_tokens):"
    for use in uses:
        yield f"  {describe_token_limit(use)}"

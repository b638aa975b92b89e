"""How long the answers to each set of prompts are, how varied, and how many were cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from excise.reports.model import ReportModel
from excise.reports.text import format_number

MOST_CUT_OFF = 0.9
"""Share of answers from which on nearly all are cut off. Chosen by hand."""

ANSWERS_HEADING = (
    "answers that reached the token limit (max_new_tokens), with the mean length in tokens and the "
    "mean uniqueness ratio of all answers"
)

_HIDDEN = (
    "nearly all are cut off, so whether they still end, or loop, cannot be seen; measure again "
    "with a larger max_new_tokens"
)


class TokenLimitUse(ReportModel):
    """How many answers to one set of prompts were cut off at the token limit, before and after.

    Beside them stand the means by which the gates on answers judge, which say why such a gate is
    near its limit; None in reports from before they were said.
    """

    subject: str
    """Name of the prompt set or behaviour."""
    max_new_tokens: int
    """The limit."""
    responses: int
    """Number of answers of each model."""
    before: int
    """Number of the base's answers that reached the limit."""
    after: int
    length_before: float | None = None
    """Mean length of the base's answers in tokens; a phrase that a correction job forbids is left
    out where it ends them."""
    length_after: float | None = None
    uniqueness_before: float | None = None
    """Mean response uniqueness ratio of the base's answers, in [0, 1]; 0 for an empty one."""
    uniqueness_after: float | None = None

    @property
    def hides_endings(self) -> bool:
        """Whether nearly all answers are cut off now, most of which ended by themselves before."""
        most = MOST_CUT_OFF * self.responses
        return self.after >= most and self.before < most / 2


def describe_token_limit(use: TokenLimitUse) -> str:
    """Return how many answers of one set reached the limit, and their means, as one line."""
    parts = [
        f"{use.subject}: {use.after} of {use.responses} at {use.max_new_tokens} tokens, "
        f"{use.before} of the base's",
        *_describe_mean("mean length", use.length_before, use.length_after, digits=1),
        *_describe_mean("mean uniqueness", use.uniqueness_before, use.uniqueness_after, digits=3),
    ]
    return "; ".join([*parts, _HIDDEN] if use.hides_endings else parts)


def _describe_mean(
    name: str, before: float | None, after: float | None, *, digits: int
) -> Iterator[str]:
    """Yield one mean of either model; nothing if it is not known."""
    if before is not None and after is not None:
        yield f"{name} {format_number(after, digits)}, the base's {format_number(before, digits)}"


def describe_token_limits(uses: Sequence[TokenLimitUse]) -> Iterator[str]:
    """Yield a heading and a line for each set; nothing if there are none."""
    if uses:
        yield f"{ANSWERS_HEADING}:"
    for use in uses:
        yield f"  {describe_token_limit(use)}"

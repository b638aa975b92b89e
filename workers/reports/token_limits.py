"""How many answers of two model states reached the token limit."""

from __future__ import annotations

from excise.reports.token_limits import TokenLimitUse
from workers.measuring.state import ModelState, Responses


def collect_token_limits(base: ModelState, changed: ModelState) -> list[TokenLimitUse]:
    """Return this for every set of prompts that both states answered, in their order."""
    pairs = (
        (subject, before, changed.responses.get(subject))
        for subject, before in base.responses.items()
    )
    return [
        TokenLimitUse(
            subject=subject,
            max_new_tokens=after.max_new_tokens,
            responses=len(after.token_ids),
            before=sum(before.hits_limit),
            after=sum(after.hits_limit),
        )
        for subject, before, after in pairs
        if isinstance(before, Responses) and isinstance(after, Responses)
    ]

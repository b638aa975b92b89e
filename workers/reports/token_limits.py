"""How long the answers of two model states are, how varied, and how many reached the limit."""

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
        _compare(subject, before, after)
        for subject, before, after in pairs
        if isinstance(before, Responses) and isinstance(after, Responses)
    ]


def _compare(subject: str, before: Responses, after: Responses) -> TokenLimitUse:
    old, new = before.compute_figures(), after.compute_figures()
    return TokenLimitUse(
        subject=subject,
        max_new_tokens=after.max_new_tokens,
        responses=len(new.lengths),
        before=sum(old.hits_limit),
        after=sum(new.hits_limit),
        length_before=old.mean_length,
        length_after=new.mean_length,
        uniqueness_before=old.mean_uniqueness,
        uniqueness_after=new.mean_uniqueness,
    )

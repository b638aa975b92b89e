"""Measurements of one model on the probes of slices."""

from __future__ import annotations

from excise.reports.model import ReportModel


class SliceFigures(ReportModel):
    """A model's figures on the items of one slice; every tuple has one entry per item."""

    nats: tuple[float, ...]
    """Negative log-likelihood of the right continuation, summed over its tokens, nats."""
    right: tuple[int, ...]
    """Number of its tokens that are the model's first choice."""
    tokens: tuple[int, ...]
    """Number of its tokens."""
    leads: tuple[float, ...]
    """Smallest lead of its tokens: logit minus the best other logit; above 0 if all are right."""

    def first(self, items: int) -> SliceFigures:
        """Return the figures of the first items alone."""
        return SliceFigures(
            nats=self.nats[:items],
            right=self.right[:items],
            tokens=self.tokens[:items],
            leads=self.leads[:items],
        )

    def then(self, more: SliceFigures) -> SliceFigures:
        """Return these figures followed by those of further items."""
        return SliceFigures(
            nats=self.nats + more.nats,
            right=self.right + more.right,
            tokens=self.tokens + more.tokens,
            leads=self.leads + more.leads,
        )


class Abilities(ReportModel):
    """A model's figures on every slice it was asked."""

    slices: dict[str, SliceFigures]

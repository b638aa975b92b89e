"""What was measured of one model on a slice's probes."""

from __future__ import annotations

from excise.reports.model import ReportModel


class SliceFigures(ReportModel):
    """A model's figures on the items of one slice; every tuple follows the items' order."""

    nats: tuple[float, ...]
    """Summed negative log-likelihood of each right continuation."""
    right: tuple[int, ...]
    """Tokens of it that are the model's first choice."""
    tokens: tuple[int, ...]
    """Its tokens."""
    leads: tuple[float, ...]
    """Least lead of them over the best other token, in logits: above 0 where all are right."""

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
    """A model's figures on every slice it was asked: name → figures."""

    slices: dict[str, SliceFigures]

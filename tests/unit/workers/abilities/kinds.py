"""All kinds of slices there are, and what their probes say."""

from __future__ import annotations

from workers.abilities.catalogue import DRAWS_A_PROBE, SLICES, VERDICT_ITEMS
from workers.abilities.neighbourhoods import kinds_for
from workers.abilities.probe import Probe, SliceKind
from workers.abilities.source import Purpose, Source

PHRASES = ("As an AI language model", "a rich tapestry of flavours")
PATTERNS = (r"(?i)\bacme\s+(industries|corporation)\b",)
NEIGHBOURS = kinds_for({"toxicity", "phrase", "repetition"}, PHRASES, PATTERNS)
KINDS = (*SLICES, *NEIGHBOURS)
VOCABULARY = tuple(range(500))


def draw(kind: SliceKind, purpose: Purpose, seed: int = 0) -> list[Probe]:
    """Different probes, as many as a verdict needs where the slice has them."""
    source = Source(seed, purpose, kind.name, VOCABULARY)
    found: dict[Probe, None] = {}
    for _ in range(DRAWS_A_PROBE * VERDICT_ITEMS):
        if len(found) * kind.items < VERDICT_ITEMS:
            found[kind.draw(source)] = None
    return list(found)


def told(probe: Probe) -> str:
    """A probe's user turn and text."""
    return (probe.user or "") + "".join(part.text for part in probe.parts)


def targets(probe: Probe) -> list[str]:
    """The texts that the model is to write."""
    return [part.text for part in probe.parts if part.is_target]

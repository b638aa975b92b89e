"""Sizes of a job's prompt sets, and the numbers of tokens that it reads of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from excise.specs.behaviours import BehaviourSpec
from excise.specs.correction import CorrectionSpec

BYTES_A_TOKEN = 4
"""Bytes per token of English prose in UTF-8, for sets whose tokens were not counted. Other scripts
need more bytes per letter and more tokens per word; the syntax of JSON lines stands for that of the
chat template."""

ATTRIBUTED_SHARE = 0.5
"""Share of the reference text that is attributed; the rest is for the search and the verdict
(workers/correction/preparation.py)."""


@dataclass(frozen=True)
class SetSize:
    """The size of a prompt set."""

    count: int
    tokens: int
    """Number of tokens in the whole set."""

    @classmethod
    def of_file(cls, count: int, size: int) -> Self:
        """Return the size of a file with this many prompts and bytes."""
        return cls(count, size // BYTES_A_TOKEN)

    @property
    def mean_tokens(self) -> float:
        """Mean number of tokens per prompt."""
        return self.tokens / max(self.count, 1)


@dataclass(frozen=True)
class JobSets:
    """The sizes of a job's prompt sets."""

    behaviours: Sequence[SetSize]
    """Sizes of the behaviours' sets, in the spec's order."""
    reference: SetSize | None = None
    """None if unknown; then as much text is assumed as the spec may use."""
    perplexity: SetSize | None = None
    """Size of the corpus; None as for `reference`."""


def count_attributed_tokens(spec: CorrectionSpec, own: SetSize | None) -> float:
    """Return the tokens of reference text that are attributed, of a set of this size."""
    most = spec.attribution.reference_tokens
    return most if own is None else min(most, ATTRIBUTED_SHARE * own.tokens)


def count_corpus_tokens(spec: CorrectionSpec, own: SetSize | None) -> int:
    """Return the tokens of a corpus of this size whose perplexity is measured: whole windows."""
    if spec.perplexity is None:
        return 0
    context, most = spec.perplexity.context, spec.perplexity.sequences
    return context * (most if own is None else min(most, own.tokens // context))


def count_response_tokens(behaviour: BehaviourSpec, own: SetSize) -> float:
    """Return the tokens of one prompt's responses, including the prompts."""
    decoding = behaviour.decoding
    return decoding.samples * (own.mean_tokens + decoding.max_new_tokens)

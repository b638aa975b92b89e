"""What the stages of a correction hand to one another, as immutable JSON documents."""

from __future__ import annotations

import base64
from statistics import fmean

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from workers.domain import Granularity, Selection, TokenSequence
from workers.pruning.selection import list_indices
from workers.validation.uniqueness import mark_undesired


class StageDocument(BaseModel):
    """Base of stage results: immutable, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_bytes(self) -> bytes:
        """Return the document as JSON bytes; equal documents give equal bytes."""
        return self.model_dump_json().encode()


class PromptOutcome(StageDocument):
    """One undesired prompt with the base model's own greedy response to it."""

    prompt: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    response: str
    metric: float
    triggering: bool
    """Whether the base model shows the behaviour here."""
    held_out: bool

    @property
    def undesired_sequence(self) -> TokenSequence:
        """The tokens as the model saw them, with those that repeat marked for explanation."""
        return mark_undesired(self.prompt_ids, self.response_ids)


class ReferenceSplit(StageDocument):
    """Reference token sequences by use; a text is in one part only."""

    attribute: tuple[tuple[int, ...], ...]
    tune: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...]


class PreparedCorrection(StageDocument):
    """Everything later stages need to know about model, prompts and reference texts."""

    model_sha256: str
    components: int
    """Components of the model, of the job's granularity."""
    prompts: tuple[PromptOutcome, ...]
    reference: ReferenceSplit
    corpus: tuple[tuple[int, ...], ...]
    """Windows of the perplexity corpus; empty when the held-out reference serves."""
    corpus_tune: tuple[tuple[int, ...], ...] = ()
    """Other windows of it for the search; empty when it has no more, or none was given."""
    too_weak: str | None
    """Why there is nothing to correct, or None."""

    def triggering(self, *, held_out: bool) -> tuple[PromptOutcome, ...]:
        """Return the prompts of one split on which the base model shows the behaviour."""
        return tuple(
            outcome
            for outcome in self.prompts
            if outcome.triggering and outcome.held_out is held_out
        )


class StoredSelection(StageDocument):
    """A selection as JSON: module → ascending indices, those of single weights packed."""

    granularity: Granularity
    indices: dict[str, list[int]] = {}
    packed: dict[str, str] = {}
    """Steps from one index to the next (the first from 0), little-endian integers of the
    narrowest dtype that holds them: `dtype:base64`, about 2.7 characters a weight."""

    @classmethod
    def from_selection(cls, selection: Selection) -> StoredSelection:
        """Return the document that holds `selection`."""
        if selection.granularity is not Granularity.WEIGHT:
            return cls(granularity=selection.granularity, indices=list_indices(selection))
        packed = {name: _pack(selection.indices[name]) for name in sorted(selection.indices)}
        return cls(granularity=selection.granularity, packed=packed)

    def to_selection(self) -> Selection:
        """Return the domain value."""
        listed = {
            name: torch.tensor(indices, dtype=torch.int64) for name, indices in self.indices.items()
        }
        packed = {name: _unpack(text) for name, text in self.packed.items()}
        return Selection(self.granularity, listed | packed)


def _pack(indices: torch.Tensor) -> str:
    steps = np.diff(indices.numpy(), prepend=0)
    dtype = np.min_scalar_type(int(steps.max())).newbyteorder("<")
    return f"{dtype.str}:{base64.b64encode(steps.astype(dtype).tobytes()).decode()}"


def _unpack(text: str) -> torch.Tensor:
    dtype, _, data = text.partition(":")
    steps = np.frombuffer(base64.b64decode(data), dtype=np.dtype(dtype))
    return torch.from_numpy(steps.astype(np.int64).cumsum())


class Response(StageDocument):
    """A corrected (or control) model's response to one prompt."""

    response: str
    metric: float
    response_ids: tuple[int, ...] = ()


class Trial(StageDocument):
    """One selection tried: its effect and its cost on the tuning split."""

    selection: StoredSelection
    responses: tuple[Response, ...]
    """The pruned model's response to each tuning prompt that triggers."""
    perplexity: float
    base_perplexity: float
    kl_mean: float
    within_budget: bool

    @property
    def amount(self) -> int:
        """Number of components pruned."""
        return len(self.selection.to_selection())

    @property
    def mean_metric(self) -> float:
        """Mean of the metric over the tuning prompts."""
        return fmean(response.metric for response in self.responses)


class SearchOutcome(StageDocument):
    """Every selection tried, in order, and which one is within budget and best."""

    trials: tuple[Trial, ...]
    chosen: int | None
    """Index into `trials`; None when nothing within budget improves the behaviour."""

    @property
    def chosen_trial(self) -> Trial | None:
        """The chosen trial."""
        return None if self.chosen is None else self.trials[self.chosen]

    @property
    def selection(self) -> Selection | None:
        """The components of the chosen trial, None when there is none."""
        trial = self.chosen_trial
        return None if trial is None else trial.selection.to_selection()


class ValidationOutcome(StageDocument):
    """Measurements of the chosen correction that took no part in choosing it, and damage."""

    responses: tuple[Response, ...]
    """For every held-out prompt that triggers."""
    control_metrics: tuple[tuple[float, ...], ...]
    """One row a random draw: the metric for each held-out prompt."""
    perplexity_before: float
    perplexity_after: float
    perplexity_tokens: int
    perplexity_context: int
    kl_mean: float
    kl_p95: float
    kl_tokens: int

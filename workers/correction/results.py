"""Results that the stages of a correction pass to each other, as immutable JSON documents."""

from __future__ import annotations

import base64
import math
from statistics import fmean

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from excise.names import Ablation, Granularity
from workers.abilities.state import SliceFigures
from workers.domain import Selection, TokenSequence
from workers.measuring.state import ModelState
from workers.pruning.selection import list_indices

TokenIds = tuple[int, ...]


class StageDocument(BaseModel):
    """Base class of stage results: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def to_bytes(self) -> bytes:
        """Return the document as JSON bytes; equal documents give equal bytes."""
        return self.model_dump_json().encode()


class Closing(StageDocument):
    """The beginning of the phrase with which a response ends."""

    tokens: int
    """Number of the response's tokens before it; the phrase may begin within the next one."""
    characters: int
    """Number of the answer's characters before it."""


class Response(StageDocument):
    """One response of the base, a corrected or a control model, with the scores of all scorers."""

    text: str
    """The text after the reasoning; the whole response if there is no reasoning."""
    token_ids: tuple[int, ...]
    """All token ids, including reasoning."""
    scores: tuple[float, ...]
    """One score per scorer, in the behaviour's order; for an empty response, use
    `Behaviour.find_score`."""
    marks: tuple[bool, ...] = ()
    """Whether each token is to be explained; only for undesired tuning responses."""
    contrast_ids: tuple[int, ...] = ()
    """For each token, the one that should come instead, or `NO_CONTRAST`; empty if none is
    known."""
    reasoning_tokens: int = 0
    """Number of tokens before the answer, which are not judged; all of them without an answer."""
    is_blank: bool = False
    """Whether the answer has no letter, number or symbol."""
    closing: Closing | None = None
    """The phrase with which the answer ends, where it was not cut off by the token limit."""

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """Token ids of the answer, which is what is judged."""
        return self.token_ids[self.reasoning_tokens :]

    @property
    def is_empty(self) -> bool:
        """Whether the response says nothing or never finishes its reasoning."""
        return self.is_blank or not self.answer_ids

    def drop_closing(self) -> Response:
        """Return the response without its closing phrase; itself if it has none."""
        if self.closing is None:
            return self
        kept = self.token_ids[: self.closing.tokens]
        text = self.text[: self.closing.characters]
        return self.model_copy(update={"token_ids": kept, "text": text, "closing": None})


Responses = tuple[tuple[Response, ...], ...]
"""Responses to each prompt, `(prompt, sample)`."""


class PromptOutcome(StageDocument):
    """One prompt of a behaviour, and the base model's responses to it."""

    prompt: str
    prompt_ids: tuple[int, ...]
    held_out: bool
    screened: tuple[Response, ...]
    """Responses by which the prompt was chosen; no effect is measured on them."""
    triggering: bool
    """Whether any of these is undesired."""
    responses: tuple[Response, ...] = ()
    """Responses against which effects are measured; only for triggering prompts."""
    explored: tuple[Response, ...] = ()
    """Further responses to a triggering tuning prompt, to learn undesired tokens from."""

    @property
    def drawn(self) -> tuple[Response, ...]:
        """All responses of the base model, from which a tuning prompt may teach something."""
        return self.screened + self.responses + self.explored


class ExplainedResponses(StageDocument):
    """The tokens that make a behaviour's responses undesired, and where they are explained."""

    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    """Share of each token's occurrences that are undesired."""
    samples: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    """Prompt and response tokens of the responses in which these tokens are most probable."""


class PreparedBehaviour(StageDocument):
    """The prompts of one behaviour."""

    name: str
    prompts: tuple[PromptOutcome, ...]
    explained: ExplainedResponses | None = None
    """None if responses are not undesired because of single tokens."""

    def triggering(self, *, held_out: bool) -> tuple[PromptOutcome, ...]:
        """Return the prompts of one split on which the base model shows the behaviour."""
        return tuple(
            outcome
            for outcome in self.prompts
            if outcome.triggering and outcome.held_out is held_out
        )


class ReferenceSplit(StageDocument):
    """Reference token sequences by use; each text is in one part only."""

    attribute: tuple[tuple[int, ...], ...]
    tune: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...]


class ProtectedSample(StageDocument):
    """One text of a protected slice, with the tokens that must stay predicted."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    spans: tuple[int, ...]
    """Number of tokens of each target, in order."""
    marks: tuple[bool, ...]
    """Whether each response token is part of a target."""

    def to_sequence(self) -> TokenSequence:
        """Return the sample for attribution, with its targets to be explained."""
        return TokenSequence(self.prompt_ids, self.response_ids, self.marks)


class SliceDamage(StageDocument):
    """The loss of a protected slice on tuning items, or the limit on it."""

    nats_rise: float
    """Rise of the negative log-likelihood of right continuations, nats per token."""
    accuracy_fall: float
    """Fall of the share of items that are right, smoothed: an item on the edge counts as half."""
    nats_margin: float = 0.0
    """How much more than `nats_rise` other items may lose, judging by these items. In a limit, what
    is reserved for that."""

    def compute_share(self, limit: SliceDamage) -> float:
        """Return the share of `limit` used up, for the figure that uses most of its own."""
        return max(
            divide_by_limit(self.nats_rise, limit.nats_rise),
            divide_by_limit(self.nats_rise + self.nats_margin, limit.nats_rise + limit.nats_margin),
            divide_by_limit(self.accuracy_fall, limit.accuracy_fall),
        )

    def scaled(self, share: float) -> SliceDamage:
        """Return all figures times `share`."""
        return SliceDamage(
            nats_rise=self.nats_rise * share,
            accuracy_fall=self.accuracy_fall * share,
            nats_margin=self.nats_margin * share,
        )

    def leave_margin(self, share: float) -> SliceDamage:
        """Return `share` of this limit, with the rest of the nats as margin."""
        return SliceDamage(
            nats_rise=self.nats_rise * share,
            accuracy_fall=self.accuracy_fall * share,
            nats_margin=self.nats_rise * (1 - share),
        )


def divide_by_limit(damage: float, limit: float) -> float:
    """Return the share of a limit that damage uses up; 0 if there is no damage.

    NaN damage exceeds every limit.
    """
    if math.isnan(damage):
        return math.inf
    if damage <= 0:
        return 0.0
    return damage / limit if limit > 0 else math.inf


class ProtectedSlice(StageDocument):
    """An ability, or a team's own text, that the search must keep."""

    name: str
    limit: SliceDamage
    learn: tuple[ProtectedSample, ...]
    """Samples by which components are ranked."""
    tune: tuple[ProtectedSample, ...]
    """Samples on which trials are measured."""
    more: tuple[ProtectedSample, ...] = ()
    """Further samples like those of `learn`, for a slice of which a trial lost too much."""
    tune_more: tuple[ProtectedSample, ...] = ()
    """Further samples like those of `tune`, for a slice that a trial seems to lose too much of."""

    def with_more(self) -> ProtectedSlice:
        """Return the slice with all of its samples to learn from."""
        return self.model_copy(update={"learn": (*self.learn, *self.more), "more": ()})


class PreparedCorrection(StageDocument):
    """Everything that later stages need to know about model, prompts and reference texts."""

    model_sha256: str
    components: dict[Granularity, int]
    """Granularity → number of components in the model, for each of the job's granularities."""
    behaviours: tuple[PreparedBehaviour, ...]
    reference: ReferenceSplit
    corpus: tuple[tuple[int, ...], ...]
    """Windows of the perplexity corpus; empty if the held-out reference is used."""
    corpus_tune: tuple[tuple[int, ...], ...] = ()
    """Other windows of the corpus for the search; empty if there are no more, or no corpus."""
    protection: tuple[ProtectedSlice, ...] = ()
    """What the search must keep besides the reference text; empty if the job protects nothing."""
    continued: tuple[Response, ...] = ()
    """The base model's continuations of the beginnings of `reference.tune`, where phrases end
    answers; empty where none does."""
    too_weak: str | None
    """Why there is nothing to correct; None if there is."""


class StoredSelection(StageDocument):
    """A selection as JSON: module → ascending indices; those of single weights are packed."""

    granularity: Granularity
    indices: dict[str, list[int]] = {}
    packed: dict[str, str] = {}
    """Differences between consecutive indices (the first from 0), as little-endian integers of the
    narrowest dtype that holds them: `dtype:base64`, about 2.7 characters per weight."""

    @classmethod
    def from_selection(cls, selection: Selection) -> StoredSelection:
        """Return the document that holds `selection`."""
        if selection.granularity is not Granularity.WEIGHT:
            return cls(granularity=selection.granularity, indices=list_indices(selection))
        packed = {name: _pack(selection.indices[name]) for name in sorted(selection.indices)}
        return cls(granularity=selection.granularity, packed=packed)

    def to_selection(self) -> Selection:
        """Return the selection."""
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


class TrialSettings(StageDocument):
    """The settings of one trial of the search."""

    origin: str
    """The part of the search that proposed it: `round 2`, `refinement 5`."""
    granularity: Granularity
    amount: int
    """Number of components to prune; fewer are pruned if fewer are useful."""
    cost_weight: float = 1.0
    """Exponent of the predicted damage in the score."""
    first_layer: int = 0
    last_layer: int | None = None
    """Last layer from which components are taken, included; None means the model's last."""
    ablation: Ablation = Ablation.ZERO
    prices: dict[str, float] = {}
    """Protected slice → lower bound of the price of its damage in the ranking, relative to damage
    to the reference text; above 0 if earlier trials lost more of the slice than allowed."""
    emphasis: tuple[float, ...] = ()
    """For each behaviour, how much its benefit counts in the ranking; empty if all count the same.
    Only ratios matter."""


class Trial(StageDocument):
    """One selection tried, with its effect and its damage on the tuning split."""

    settings: TrialSettings
    selection: StoredSelection
    responses: tuple[Responses, ...]
    """For each behaviour, the pruned model's responses to its triggering tuning prompts."""
    gains: tuple[float, ...]
    """For each behaviour, the relative fall of undesiredness from the base model's."""
    attained: tuple[float, ...] = ()
    """For each behaviour, its effect as a share of what the search wants (`measure_attained`);
    empty in trials stored by an earlier version."""
    perplexity: float
    base_perplexity: float
    kl_mean: float
    slices: dict[str, SliceDamage] = {}
    """Protected slice → its loss."""
    answers: dict[str, float] = {}
    """Gate on the answers to the tuning prompts → used share of its limit."""
    bound_by: str = ""
    """The limit that is used up most: `perplexity`, `kl`, the name of a protected slice or of a
    gate on answers; empty in trials stored by an earlier version."""
    use: float = 0.0
    """Share of that limit that the trial uses."""
    within_budget: bool
    is_text_kept: bool = False
    """Whether text and protected slices are within the budget, whatever the answers show."""

    @property
    def amount(self) -> int:
        """Number of components pruned."""
        return len(self.selection.to_selection())

    @property
    def gain(self) -> float:
        """Mean gain over the behaviours, which the search maximises."""
        return fmean(self.gains)

    @property
    def least_attained(self) -> float:
        """The smallest share that any of several behaviours attained of what is wanted, at most 1.

        The search maximises it first: a correction that fails for one behaviour fails. With one
        behaviour it is 1, and the gain alone counts.
        """
        return min(1.0, *self.attained) if len(self.attained) > 1 else 1.0

    @property
    def perplexity_increase(self) -> float:
        """Increase relative to the base model on the same text."""
        return self.perplexity / self.base_perplexity - 1


class UnlimitedTrial(StageDocument):
    """The chosen trial repeated without the limit on pruned neurons per module."""

    max_rank: int
    """The limit under which it was chosen."""
    trial: Trial


class LineForecast(StageDocument):
    """What the same ranking would have pruned without a limit on rows and columns."""

    weights: int
    """How many weights."""
    kept: int
    """Those of them that are pruned under the limit, too."""
    benefit: float
    """Predicted benefit of what is pruned, as a share of theirs."""
    free_rank: int
    """Fewest rows and columns of one matrix, the fullest, that would hold them."""


class LineUse(StageDocument):
    """Number of rows and columns of each matrix on which a trial's pruned weights lie."""

    max_rank: int | None
    """The limit; None if there is none."""
    ranks: dict[str, int]
    """Module → the smallest number of rows and columns that hold its pruned weights."""
    forecast: LineForecast | None = None
    """None if there is no limit."""


class SearchOutcome(StageDocument):
    """All selections tried, in order, and the best one within budget."""

    trials: tuple[Trial, ...]
    chosen: int | None
    """Index into `trials`; None if nothing within budget improves the behaviours."""
    alone: tuple[StoredSelection, ...] = ()
    """With several behaviours, the selection of the chosen size for each of them alone."""
    unlimited: UnlimitedTrial | None = None
    """Given if the job limits the rank and a trial of neurons was chosen."""
    lines: LineUse | None = None
    """Given if a trial of single weights was chosen."""

    @property
    def chosen_trial(self) -> Trial | None:
        """The chosen trial."""
        return None if self.chosen is None else self.trials[self.chosen]

    @property
    def selection(self) -> Selection | None:
        """The components of the chosen trial; None if there is none."""
        trial = self.chosen_trial
        return None if trial is None else trial.selection.to_selection()


class BehaviourResponses(StageDocument):
    """Responses to one behaviour's triggering held-out prompts."""

    corrected: Responses
    controls: tuple[Responses, ...]
    """One entry per draw of the random control."""
    alone: Responses | None = None
    """Responses after correcting this behaviour alone, if there are several behaviours."""


class ValidationOutcome(StageDocument):
    """Measurements of the chosen correction on data that was not used to choose it."""

    behaviours: tuple[BehaviourResponses, ...]
    base: ModelState
    """The base model on text and prompts that must keep working."""
    corrected: ModelState
    control_abilities: dict[str, SliceFigures] = {}
    """Abilities after the first random selection, on the first items of each slice."""

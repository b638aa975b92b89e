"""What the stages of a correction hand to one another, as immutable JSON documents."""

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


class StageDocument(BaseModel):
    """Base of stage results: immutable, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def to_bytes(self) -> bytes:
        """Return the document as JSON bytes; equal documents give equal bytes."""
        return self.model_dump_json().encode()


class Response(StageDocument):
    """One response of the base, a corrected or a control model, as every scorer saw it."""

    text: str
    """What follows the reasoning; the whole response where there is none."""
    token_ids: tuple[int, ...]
    """All of them, reasoning included."""
    scores: tuple[float, ...]
    """One a scorer, in the behaviour's order; of an empty response `Behaviour.find_score` says
    what counts."""
    marks: tuple[bool, ...] = ()
    """For each token whether it is to be explained; of undesired tuning responses."""
    reasoning_tokens: int = 0
    """Tokens before the answer, which nothing judges; all of them where there is no answer."""
    is_blank: bool = False
    """Whether the answer has no letter, number or symbol."""

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The tokens that are judged."""
        return self.token_ids[self.reasoning_tokens :]

    @property
    def is_empty(self) -> bool:
        """Whether the response says nothing, or never gets beyond its reasoning."""
        return self.is_blank or not self.answer_ids


Responses = tuple[tuple[Response, ...], ...]
"""For each prompt its samples."""


class PromptOutcome(StageDocument):
    """One undesired prompt and what the base model does with it."""

    prompt: str
    prompt_ids: tuple[int, ...]
    held_out: bool
    screened: tuple[Response, ...]
    """The responses by which the prompt was chosen, and which no effect is measured on."""
    triggering: bool
    """Whether one of those is undesired."""
    responses: tuple[Response, ...] = ()
    """The base model's responses that effects are measured against; of triggering prompts."""
    explored: tuple[Response, ...] = ()
    """More responses of a triggering tuning prompt, to learn from what is undesired."""

    @property
    def drawn(self) -> tuple[Response, ...]:
        """Every response of the base model: what may be learned from a tuning prompt."""
        return self.screened + self.responses + self.explored


class ExplainedResponses(StageDocument):
    """The tokens that make a behaviour's responses undesired, and where they are explained."""

    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    """Share of each token's occurrences that are undesired."""
    samples: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    """Prompt and response tokens of the responses in which these are likeliest."""


class PreparedBehaviour(StageDocument):
    """The prompts of one behaviour."""

    name: str
    prompts: tuple[PromptOutcome, ...]
    explained: ExplainedResponses | None = None
    """None where no single tokens make a response undesired."""

    def triggering(self, *, held_out: bool) -> tuple[PromptOutcome, ...]:
        """Return the prompts of one split on which the base model shows the behaviour."""
        return tuple(
            outcome
            for outcome in self.prompts
            if outcome.triggering and outcome.held_out is held_out
        )


class ReferenceSplit(StageDocument):
    """Reference token sequences by use; a text is in one part only."""

    attribute: tuple[tuple[int, ...], ...]
    tune: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...]


class ProtectedSample(StageDocument):
    """One text of a protected slice, with the tokens that are to stay predicted."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    spans: tuple[int, ...]
    """Tokens of each target, in order."""
    marks: tuple[bool, ...]
    """For each response token whether it is part of a target."""

    def to_sequence(self) -> TokenSequence:
        """Return the sample as attribution takes it, targets to be explained."""
        return TokenSequence(self.prompt_ids, self.response_ids, self.marks)


class SliceDamage(StageDocument):
    """What a protected slice lost on tuning items, or may lose."""

    nats_rise: float
    """Of the negative log-likelihood of right continuations, nats per token."""
    accuracy_fall: float
    """Of the share of items that are right, smoothed: an item just right or just wrong is half."""
    nats_margin: float = 0.0
    """How much more than `nats_rise` other items may lose, for all that these tell; of a limit
    what it leaves for that."""

    def compute_share(self, limit: SliceDamage) -> float:
        """Return which share of `limit` this is, by the figure that is nearest to its own."""
        return max(
            divide_by_limit(self.nats_rise, limit.nats_rise),
            divide_by_limit(self.nats_rise + self.nats_margin, limit.nats_rise + limit.nats_margin),
            divide_by_limit(self.accuracy_fall, limit.accuracy_fall),
        )

    def scaled(self, share: float) -> SliceDamage:
        """Return the same times `share`."""
        return SliceDamage(
            nats_rise=self.nats_rise * share,
            accuracy_fall=self.accuracy_fall * share,
            nats_margin=self.nats_margin * share,
        )

    def leave_margin(self, share: float) -> SliceDamage:
        """Return the share of this limit that may be used, with the rest of the nats as margin."""
        return SliceDamage(
            nats_rise=self.nats_rise * share,
            accuracy_fall=self.accuracy_fall * share,
            nats_margin=self.nats_rise * (1 - share),
        )


def divide_by_limit(damage: float, limit: float) -> float:
    """Return the share of a limit that damage takes; none does where nothing was damaged.

    Damage that is not a number is beyond every limit.
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
    """What components are ranked by."""
    tune: tuple[ProtectedSample, ...]
    """What trials are measured on."""


class PreparedCorrection(StageDocument):
    """Everything later stages need to know about model, prompts and reference texts."""

    model_sha256: str
    components: dict[Granularity, int]
    """Components of the model, of each of the job's granularities."""
    behaviours: tuple[PreparedBehaviour, ...]
    reference: ReferenceSplit
    corpus: tuple[tuple[int, ...], ...]
    """Windows of the perplexity corpus; empty when the held-out reference serves."""
    corpus_tune: tuple[tuple[int, ...], ...] = ()
    """Other windows of it for the search; empty when it has no more, or none was given."""
    protection: tuple[ProtectedSlice, ...] = ()
    """What the search must keep besides the reference text; empty where the job wants none."""
    too_weak: str | None
    """Why there is nothing to correct, or None."""


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


class TrialSettings(StageDocument):
    """What one trial of the search chose."""

    origin: str
    """Which part of the search proposed it: `round 2`, `refinement 5`."""
    granularity: Granularity
    amount: int
    """Components asked for; fewer are pruned where fewer are useful."""
    cost_weight: float = 1.0
    """Exponent of the predicted damage in the score."""
    first_layer: int = 0
    last_layer: int | None = None
    """Layers the components come from, both ends in; None means to the last one."""
    ablation: Ablation = Ablation.ZERO
    prices: dict[str, float] = {}
    """Protected slice → the least that its damage counts while components are ranked, beside the
    reference text's: above 0 where earlier trials lost more of it than they may."""


class Trial(StageDocument):
    """One selection tried: its effect and its cost on the tuning split."""

    settings: TrialSettings
    selection: StoredSelection
    responses: tuple[Responses, ...]
    """For each behaviour the pruned model's responses to the tuning prompts that trigger."""
    gains: tuple[float, ...]
    """For each behaviour by which share of the base model's its undesiredness fell."""
    perplexity: float
    base_perplexity: float
    kl_mean: float
    slices: dict[str, SliceDamage] = {}
    """Protected slice → what it lost."""
    bound_by: str = ""
    """The limit that is used up most: `perplexity`, `kl`, or a protected slice's name; empty of
    trials that an earlier version stored."""
    use: float = 0.0
    """The share of that limit which the trial takes."""
    within_budget: bool

    @property
    def amount(self) -> int:
        """Number of components pruned."""
        return len(self.selection.to_selection())

    @property
    def gain(self) -> float:
        """Mean gain over the behaviours: what the search makes large."""
        return fmean(self.gains)

    @property
    def perplexity_increase(self) -> float:
        """Relative to the base model on the same text."""
        return self.perplexity / self.base_perplexity - 1


class UnlimitedTrial(StageDocument):
    """The chosen trial once more, without the limit on pruned neurons per module."""

    max_rank: int
    """The limit it was chosen under."""
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
    """On how many rows and columns of each matrix the pruned weights of a trial lie."""

    max_rank: int | None
    """The limit; None without one."""
    ranks: dict[str, int]
    """Module → the fewest rows and columns that hold its pruned weights."""
    forecast: LineForecast | None = None
    """Where there is a limit."""


class SearchOutcome(StageDocument):
    """Every selection tried, in order, and which one is within budget and best."""

    trials: tuple[Trial, ...]
    chosen: int | None
    """Index into `trials`; None when nothing within budget improves the behaviours."""
    alone: tuple[StoredSelection, ...] = ()
    """With several behaviours: for each the selection of the chosen size for it alone."""
    unlimited: UnlimitedTrial | None = None
    """Where the job limits the rank and a trial of neurons was chosen."""
    lines: LineUse | None = None
    """Where a trial of single weights was chosen."""

    @property
    def chosen_trial(self) -> Trial | None:
        """The chosen trial."""
        return None if self.chosen is None else self.trials[self.chosen]

    @property
    def selection(self) -> Selection | None:
        """The components of the chosen trial, None when there is none."""
        trial = self.chosen_trial
        return None if trial is None else trial.selection.to_selection()


class BehaviourResponses(StageDocument):
    """Responses to the held-out prompts of one behaviour that trigger."""

    corrected: Responses
    controls: tuple[Responses, ...]
    """One entry a random draw."""
    alone: Responses | None = None
    """Of the correction for this behaviour alone, where there are several."""


class ValidationOutcome(StageDocument):
    """Measurements of the chosen correction that took no part in choosing it."""

    behaviours: tuple[BehaviourResponses, ...]
    base: ModelState
    """The base model on text and prompts that must keep working."""
    corrected: ModelState
    control_abilities: dict[str, SliceFigures] = {}
    """After the first random selection, on the first items of each slice."""

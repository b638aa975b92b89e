"""The work of a search, for progress: pools, the maximum number of rounds, refinements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from excise.names import Granularity
from workers.attribution.fisher import PIECE_TOKENS
from workers.correction.candidates import REFERENCE_ROWS, list_pooled, list_written
from workers.correction.continuations import count_continuations, cut_beginnings
from workers.correction.explained import collect_explained
from workers.correction.protection import list_learned
from workers.correction.results import ProtectedSlice, TrialSettings
from workers.correction.search import SearchInputs, SearchPlan, name_round
from workers.progress import BACKWARD, FORWARD, Part, answer_prompts, count_alike, read_texts

PROTECTED = "protected texts"
"""Name, shown to users, of the samples from which protected slices are learned."""

HALF_WAY = "half-way to a first choice"
"""What users are told of the second time that protected texts are read (`Candidates.rank`)."""

UNLIMITED = "the best again, without a limit on rank"
"""Name, shown to users, of the trial that measures what the limit on rank costs."""


class SearchWork:
    """Names the steps of a search and counts the work of each.

    Rounds stop once further ones would gain nothing, so the planned number is the maximum.
    """

    def __init__(self, given: SearchInputs, plan: SearchPlan) -> None:
        self._given = given
        self._plan = plan

    def list_parts(self) -> Iterator[Part]:
        """Yield all parts in order; the base model's own figures come before the first trial."""
        plan = self._plan
        pooled = list_pooled(self._given)
        steps = [
            (granularity, self._name(name_round(number), granularity))
            for granularity in plan.amounts
            for number in range(1, plan.rounds + 1)
        ]
        for number, (granularity, step) in enumerate(steps):
            if granularity in pooled and number % plan.rounds == 0:
                yield from self._list_pool(self.name_pool(granularity))
            if number == 0:
                yield from self._list_texts(step)
            yield from self._list_trial(step)
            if (number + 1) % plan.rounds:
                yield from self._list_explained(step)
        for number in range(1, plan.refinements + 1):
            yield from self._list_trial(f"refinement {number} of at most {plan.refinements}")
        if plan.max_rank is not None:
            yield from self._list_trial(UNLIMITED)

    def name_pool(self, granularity: Granularity) -> str:
        """Return the name of the step in which a granularity's pool is chosen."""
        return f"weighing {granularity.value}s"

    def name_trial(self, settings: TrialSettings) -> str:
        """Return the name of a trial's step."""
        kind, _, rest = settings.origin.partition(" ")
        if not rest.isdecimal():
            return UNLIMITED
        if kind == "refinement":
            return f"{settings.origin} of at most {self._plan.refinements}"
        return self._name(settings.origin, settings.granularity)

    def _name(self, origin: str, granularity: Granularity) -> str:
        """Return the name of a round, including the granularity if the job has several."""
        told = f"{origin} of at most {self._plan.rounds}"
        return told if len(self._plan.amounts) == 1 else f"{told}, {granularity.value}s"

    def count_learned(self, names: Collection[str]) -> Part:
        """Return the part for reading these protected slices, to learn anew what they need.

        It may be too large: the base model reads the samples only the first time.
        """
        protection = self._given.prepared.protection
        asked = [own.with_more() for own in protection if own.name in names]
        step = f"learning to spare {', '.join(names)}"
        costs: list[float] = []
        for own in asked:
            for passes in (FORWARD, FORWARD + BACKWARD):  # of the base model, and half-way
                costs += self._read_protected([own], step, passes).costs
        return Part(PROTECTED, costs, step)

    def _read_protected(
        self, slices: Sequence[ProtectedSlice], step: str, passes: float = FORWARD + BACKWARD
    ) -> Part:
        lengths = [len(sample.token_ids) for sample in list_learned(slices)]
        return read_texts(PROTECTED, lengths, passes=passes, step=step)

    def _list_pool(self, step: str) -> Iterator[Part]:
        """Yield the parts for the rows by which candidates are weighed, up to the wanted number."""
        yield count_alike("rows", REFERENCE_ROWS, BACKWARD * PIECE_TOKENS, step)
        protected = self._read_protected(self._given.prepared.protection, step)
        yield protected  # of the base model
        written = [len(text.token_ids) for text in list_written(self._given)]
        for passes in (FORWARD, FORWARD + BACKWARD) if written else ():
            yield read_texts(PROTECTED, written, passes=passes, step=step)
        yield replace(protected, step=f"{step} again, {HALF_WAY}")

    def _list_trial(self, step: str) -> Iterator[Part]:
        """Yield the parts for the responses to the tuning prompts, then for all texts."""
        prepared = self._given.prepared
        for behaviour, own in zip(self._given.behaviours, prepared.behaviours, strict=True):
            lengths = [len(outcome.prompt_ids) for outcome in own.triggering(held_out=False)]
            decoding = behaviour.decoding
            yield answer_prompts(lengths, decoding.max_new_tokens, decoding.samples, step=step)
        yield from self._list_texts(step)
        if prepared.continued:
            yield count_continuations(cut_beginnings(prepared.reference.tune), step)

    def _list_texts(self, step: str) -> Iterator[Part]:
        prepared = self._given.prepared
        yield read_texts("texts", map(len, prepared.reference.tune), step=step)
        yield read_texts("texts", map(len, prepared.corpus_tune), step=step)
        probes = [sample.to_sequence() for own in prepared.protection for sample in own.tune]
        yield read_texts("probes", [len(probe.token_ids) for probe in probes], step=step)

    def _list_explained(self, step: str) -> Iterator[Part]:
        """Yield the parts for explaining responses; as many are expected as the base model gave."""
        given = self._given
        for behaviour, own in zip(given.behaviours, given.prepared.behaviours, strict=True):
            samples = collect_explained(behaviour, own, given.attributor).undesired
            lengths = [len(sample.token_ids) for sample in samples]
            yield read_texts("explained responses", lengths, passes=FORWARD + BACKWARD, step=step)

"""The shortlist of single weights for a search, computed in segments of layers from the top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from excise.names import Granularity, Score
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.contrastive import ContrastiveRelevance, Side
from workers.attribution.segments import Reading, count_segments, cut_layers, sum_in_segments
from workers.attribution.sums import RelevanceSums, finish_in_place, pick_modules
from workers.correction.candidates import POOL_RATIO
from workers.correction.results import PreparedCorrection
from workers.correction.shortlist import Shortlisting
from workers.families import find_layer_numbers
from workers.kinds.correction.ranges import find_ranges
from workers.kinds.correction.subjects import (
    Subject,
    combine_contrast,
    list_protected,
    list_reference,
    list_subjects,
)
from workers.models.devices import release_unused_memory
from workers.progress import BACKWARD, FORWARD, Counter, Part, read_texts
from workers.stages.context import StageContext
from workers.stages.inputs import CorrectionInputs

SEGMENTS = "attribute.segments"
"""Name under which the progress through the segments is saved."""

LEAST_KEPT = 4096
"""Smallest number of weights kept, however few are pruned, so that each round of a job with small
amounts still has a choice. Chosen by hand; not measured."""

WEIGHT = Granularity.WEIGHT


@dataclass(frozen=True)
class WeightPlan:
    """The attributions for single weights, the number of segments, and how many weights to keep."""

    subjects: tuple[Subject, ...]
    asked: tuple[Attribution, ...]
    """One attribution per subject."""
    readings: tuple[Reading, ...]
    segments: int
    score: Score
    size: int

    def list_parts(self, layers: int) -> Iterator[Part]:
        """Yield the work of each segment: the samples that pass through the model's layers."""
        segments = cut_layers(layers, self.segments)
        for number, segment in enumerate(segments):
            costs: list[float] = []
            for reading in self.readings:
                passes = self._find_passes(reading, len(segment) / layers, is_first=number == 0)
                lengths = [len(sample.token_ids) for sample in reading.samples if passes]
                costs += read_texts("samples", lengths, passes=passes).costs
            yield Part("samples", costs, name_segment(number, len(segments)))

    def _find_passes(self, reading: Reading, share: float, *, is_first: bool) -> float:
        """Return the cost of a token in a segment that holds `share` of the layers.

        In the first segment, a token passes through the whole model. With several others, most
        layers are run twice: once to find a segment's input, once for its graph. Attributors that
        only look at inputs read a token once or not at all.
        """
        attributor = self.asked[reading.asked[0]].attributor
        if not attributor.explains:
            return FORWARD if is_first and attributor.reads_samples else 0.0
        again = 2 if self.segments > 2 else 1
        forwards = FORWARD if is_first else again * FORWARD * share
        return forwards + BACKWARD * share * len(reading.asked)


def name_segment(number: int, count: int) -> str:
    """Return the name, shown to users, of the segment with this number, counted from 0."""
    return f"segment {number + 1} of {count}"


def describe_shortlist(inputs: CorrectionInputs, prepared: PreparedCorrection) -> dict[str, Any]:
    """Return the settings on which the shortlist depends, besides the questions."""
    return {
        "score": inputs.spec.attribution.score,
        "size": _find_size(inputs, prepared),
    }


def build_plan(inputs: CorrectionInputs, prepared: PreparedCorrection) -> WeightPlan:
    """Return the job's plan; the number of segments follows from free memory unless it is set."""
    subjects = tuple(list_subjects(inputs, prepared, WEIGHT))
    asked = tuple(subject.ask(inputs.spec.seed) for subject in subjects)
    return WeightPlan(
        subjects=subjects,
        asked=asked,
        readings=tuple(_list_readings(subjects, prepared)),
        segments=inputs.segments or count_segments(inputs.base, asked),
        score=Score(inputs.spec.attribution.score),
        size=_find_size(inputs, prepared),
    )


def shortlist(
    context: StageContext,
    inputs: CorrectionInputs,
    plan: WeightPlan,
    key: str,
    counter: Counter,
) -> ContrastiveRelevance:
    """Return the relevance of the best single weights, as many as the search's pool holds.

    Progress is saved after each segment: a worker that resumes the job passes once through the
    layers above the remaining ones, and continues there. `counter` must expect `plan.list_parts`
    next.
    """
    base = inputs.base
    layers = find_layer_numbers(base.find_components(WEIGHT), base.family)
    chosen = Shortlisting(plan.score, plan.size, tuple(layers))
    saved = context.recall(SEGMENTS, key)
    if saved is not None:
        chosen.restore(saved)
    left = base.layers if chosen.layers_left is None else chosen.layers_left
    cut = cut_layers(base.layers, plan.segments)
    segments = [
        range(segment.start, min(segment.stop, left)) for segment in cut if segment.start < left
    ]
    if segments:
        counter.begin(name_segment(len(cut) - len(segments), len(cut)))
    sums = sum_in_segments(base, plan.asked, plan.readings, segments, Pass(advance=counter))
    for segment in segments:
        # nothing keeps a reference to the sums
        _take_in(chosen, plan.subjects, layers, segment, next(sums))
        release_unused_memory()
        context.save(SEGMENTS, key, chosen.to_bytes())
    return chosen.finish()


def _take_in(
    chosen: Shortlisting,
    subjects: Sequence[Subject],
    layers: Mapping[str, int],
    segment: range,
    sums: Sequence[RelevanceSums],
) -> None:
    """Add the weights of a segment's layers to the shortlist, from the top layer down."""
    release_unused_memory()  # what the passes held, before scores take as much
    for layer in reversed(segment):
        names = {name for name, number in layers.items() if number == layer}
        chosen.add_layer(layer, _combine(subjects, sums, names))


def _find_size(inputs: CorrectionInputs, prepared: PreparedCorrection) -> int:
    """Return the number of weights from which a search chooses."""
    _, most = find_ranges(inputs, prepared)[WEIGHT]
    return max(POOL_RATIO * most, LEAST_KEPT)


def _list_readings(subjects: Sequence[Subject], prepared: PreparedCorrection) -> list[Reading]:
    """Return the distinct samples, each with the subjects for which it is explained."""
    general = [number for number, subject in enumerate(subjects) if subject.behaviour is None]
    readings = [Reading(list_reference(prepared), tuple(general))]
    protected = list_protected(prepared)
    loss = [number for number in general if subjects[number].question.side is Side.LOSS]
    if protected and loss:
        readings.append(Reading(protected, tuple(loss)))
    readings += [
        Reading(subject.samples, (number,))
        for number, subject in enumerate(subjects)
        if subject.behaviour is not None
    ]
    return readings


def _combine(
    subjects: Sequence[Subject], sums: Sequence[RelevanceSums], names: set[str]
) -> ContrastiveRelevance:
    """Return the relevance of some modules' weights, computed in place from the sums."""
    answers = {
        subject.key: finish_in_place(pick_modules(own, names))
        for subject, own in zip(subjects, sums, strict=True)
    }
    return combine_contrast(answers, {subject.key: subject for subject in subjects}, WEIGHT)

"""What a correction's stages work on, without a database: a tiny model and a job's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import LlamaForCausalLM

from excise.names import Attributor, Granularity
from excise.specs import CorrectionSpec
from tests.tiny import as_loaded, build_tiny_model, draw_samples
from workers.correction.behaviour import Behaviour
from workers.correction.budget import Budget
from workers.correction.results import (
    PreparedBehaviour,
    PreparedCorrection,
    ProtectedSample,
    ProtectedSlice,
    ReferenceSplit,
    SliceDamage,
)
from workers.models.loaded import LoadedModel
from workers.running.context import CancelledJobError


def build_spec(**changes: Any) -> CorrectionSpec:
    """A correction's spec; its behaviours are not those of the inputs."""
    fields: dict[str, Any] = {
        "kind": "correction",
        "model": "tiny",
        "behaviours": [{"kind": "repetition", "name": "loop", "prompts": "ps_1"}],
        "reference": "ps_2",
        "seed": 3,
    }
    return CorrectionSpec.model_validate(fields | changes)


@dataclass
class FakeInputs:
    """The parts of `CorrectionInputs` that search and attribution use."""

    behaviours: tuple[Behaviour, ...]
    spec: CorrectionSpec = field(default_factory=build_spec)
    model: LlamaForCausalLM = field(default_factory=build_tiny_model)
    attributor: Attributor = Attributor.GRADIENT_X_INPUT
    granularities: tuple[Granularity, ...] = (Granularity.NEURON,)
    segments: int | None = None

    @property
    def base(self) -> LoadedModel:
        """The model whose behaviours are looked at."""
        return as_loaded(self.model)

    @property
    def budget(self) -> Budget:
        """What the correction may cost."""
        return Budget(self.spec.budget.perplexity_increase, self.spec.budget.kl_mean)

    def component_counts(self, granularity: Granularity) -> dict[str, int]:
        """Module → number of its components."""
        return self.base.count_components(granularity)


@dataclass
class FakeContext:
    """A job's memory and events; `cancel` after so many looks."""

    memory: dict[tuple[str, str], bytes] = field(default_factory=dict)
    events: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    looks_left: int | None = None

    def remember(self, name: str, key: str, work: Callable[[], bytes]) -> bytes:
        """What `work` found, once."""
        if (name, key) not in self.memory:
            self.memory[name, key] = work()
        return self.memory[name, key]

    def recall(self, name: str, key: str) -> bytes | None:
        """What was saved last."""
        return self.memory.get((name, key))

    def save(self, name: str, key: str, data: bytes) -> None:
        """Keep it in place of what was saved before."""
        self.memory[name, key] = data

    def forget(self, name: str, key: str) -> None:
        """Drop it."""
        self.memory.pop((name, key), None)

    def event(
        self, kind: str, message: str, data: Mapping[str, Any], *, once: bool = False
    ) -> None:
        """Keep an event."""
        if not once or (kind, message) not in {told[:2] for told in self.events}:
            self.events.append((kind, message, data))

    def check_cancelled(self) -> None:
        """Raise once the looks are used up."""
        if self.looks_left is None:
            return
        self.looks_left -= 1
        if self.looks_left < 0:
            raise CancelledJobError


def build_prepared(
    *behaviours: PreparedBehaviour,
    corpus: Sequence[tuple[int, int]] = (),
    protection: Sequence[ProtectedSlice] = (),
) -> PreparedCorrection:
    """What preparation hands on; `corpus` are the lengths of its tuning windows."""

    def texts(lengths: Sequence[tuple[int, int]], seed: int) -> tuple[tuple[int, ...], ...]:
        return tuple(sample.token_ids for sample in draw_samples(lengths, seed))

    return PreparedCorrection(
        model_sha256="a" * 64,
        components={},
        behaviours=behaviours,
        reference=ReferenceSplit(
            attribute=texts(((9, 0), (7, 0), (12, 0)), 1),
            tune=texts(((10, 0), (6, 0)), 2),
            held_out=(),
        ),
        corpus=(),
        corpus_tune=texts(corpus, 3),
        protection=tuple(protection),
        too_weak=None,
    )


def build_slice(
    name: str = "words", learn: int = 2, tune: int = 3, seed: int = 4, **limit: float
) -> ProtectedSlice:
    """A protected slice of random tokens, so many samples for each use."""

    def samples(count: int, seed: int) -> tuple[ProtectedSample, ...]:
        return tuple(
            ProtectedSample(
                prompt_ids=sample.prompt_ids,
                response_ids=sample.response_ids,
                spans=(2, 3),
                marks=(True, True, False, True, True, True),
            )
            for sample in draw_samples([(4 + place, 6) for place in range(count)], seed)
        )

    allowed = SliceDamage(**({"nats_rise": 0.1, "accuracy_fall": 0.05} | limit))
    return ProtectedSlice(
        name=name, limit=allowed, learn=samples(learn, seed), tune=samples(tune, seed + 100)
    )


def with_spec(inputs: FakeInputs, **changes: Any) -> FakeInputs:
    """The same inputs under another spec."""
    return replace(inputs, spec=build_spec(**changes))

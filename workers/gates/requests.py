"""Turning a `GatesSpec` into a plan of measurements and a list of gates to judge."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from excise.intake.prompt_sets import Prompt as ParsedPrompt
from excise.names import BehaviourKind, GatedSet, ZeroShotTask
from excise.specs.gates import (
    DivergenceGateSpec,
    GatesSpec,
    PerplexityGateSpec,
    PromptGateSpec,
    ResponseLimitsSpec,
    ResponsesSpec,
    ZeroShotGateSpec,
)
from workers.abilities.catalogue import SLICES, ProbeSource
from workers.abilities.probe import SliceKind
from workers.gates.gates import GateRequest
from workers.gates.table import GATES
from workers.measuring.encodings import CorpusText
from workers.measuring.measurement import CheckPlan, PromptSet
from workers.measuring.zero_shot_tasks import Question, parse_questions, sample_questions
from workers.models.encoding import Chat, ChatTemplateError
from workers.models.generation import Decoding
from workers.models.prompts import Prompt, convert_prompts, encode_prompt
from workers.models.tokenizer import Tokenizer

LoadPrompts = Callable[[str], Sequence[ParsedPrompt]]
"""Returns the prompts of a set that a spec names."""

_Drawn = TypeVar("_Drawn")

LoadRows = Callable[[ZeroShotGateSpec], tuple[Sequence[str], str]]
"""Returns a task's JSON lines and the name by which error messages call them."""


def build_plan(
    spec: GatesSpec,
    tokenizer: Tokenizer,
    load_prompts: LoadPrompts,
    load_rows: LoadRows,
    seed: int,
    kinds: Sequence[SliceKind] = SLICES,
    longest: int | None = None,
) -> CheckPlan:
    """Return the plan of what to measure.

    `tokenizer` is the base's; texts are cut into windows of its tokens. `longest` is the base's
    context length in tokens; longer probes of abilities are left out. Texts without `prompts`,
    which a job already holds, are left to the caller. Raises what the loaders raise, and
    `ValueError` if a corpus does not fill one window, a row is malformed or the chat template
    refuses a chat.
    """
    source = (
        None
        if spec.abilities is None
        else ProbeSource(tokenizer, seed, spec.abilities.items, kinds, longest)
    )
    corpus_text, reference_text = _load(spec.perplexity, load_prompts), _load(spec.kl, load_prompts)
    return CheckPlan(
        corpus=None if corpus_text is None else corpus_text.cut(tokenizer),
        reference=None if reference_text is None else reference_text.cut(tokenizer),
        corpus_text=corpus_text,
        reference_text=reference_text,
        prompt_sets={
            name: PromptSet(
                choose_prompts(tokenizer, load_prompts(asked.prompts), asked.limit, seed),
                Decoding(asked.max_new_tokens),
                asked.chat,
            )
            for name, asked in _find_prompt_gates(spec).items()
        },
        zero_shot={task.name: _load_questions(task, load_rows, seed) for task in spec.zero_shot},
        abilities={} if source is None else source.draw(),
        probe_source=source,
    )


def build_requests(spec: GatesSpec) -> list[GateRequest]:
    """Return the gates that `spec` asks for, with their limits, in the order of the table."""
    requests = []
    if spec.perplexity is not None:
        requests.append(GateRequest("perplexity", spec.perplexity.max_increase))
    if spec.kl is not None:
        requests.append(GateRequest("kl", spec.kl.max_mean))
    requests += [GateRequest("zero_shot", task.max_drop, task.name) for task in spec.zero_shot]
    if spec.general is not None:
        requests += build_response_requests(spec.general, GatedSet.GENERAL)
    if spec.refusal is not None:
        requests.append(GateRequest("refusal", spec.refusal.max_fall, GatedSet.HARMFUL))
    if spec.contrast_refusal is not None:
        requests.append(GateRequest("refusal", spec.contrast_refusal.max_fall, GatedSet.CONTRAST))
    if spec.over_refusal is not None:
        requests.append(
            GateRequest("over_refusal", spec.over_refusal.max_rise, GatedSet.LOOK_ALIKE)
        )
    return requests


def build_response_requests(
    limits: ResponseLimitsSpec,
    subject: str,
    *,
    usual_of_loops: ResponseLimitsSpec | None = None,
) -> list[GateRequest]:
    """Return the gates on responses to the prompt set `subject`; a limit of None means no gate.

    `usual_of_loops` is given for prompts that were chosen because the base model loops on them: the
    limits of all sets, of which each gate's row decides about its own. A limit that differs from
    these was set for this very set, and holds as it is.
    """
    requests = []
    for gate in GATES.values():
        field = gate.limit_field
        limit = getattr(limits, field) if field else None
        if limit is not None and usual_of_loops is not None:
            limit = gate.on_loops(limit) if limit == getattr(usual_of_loops, field) else limit
        if limit is not None:
            requests.append(GateRequest(gate.name, limit, subject))
    return requests


def build_behaviour_response_requests(
    responses: ResponsesSpec, name: str, kind: str
) -> list[GateRequest]:
    """Return the gates on responses to the prompts of the behaviour `name` of this kind."""
    usual_of_loops = responses if kind == BehaviourKind.REPETITION else None
    return build_response_requests(responses.limits_of(name), name, usual_of_loops=usual_of_loops)


def list_not_asked(spec: GatesSpec) -> list[str]:
    """Return the names of the fields of `GatesSpec` that ask for no gate."""
    return [name for name in GatesSpec.model_fields if not spec.asks_for(name)]


def choose_prompts(
    tokenizer: Tokenizer, prompts: Sequence[ParsedPrompt], limit: int | None, seed: int
) -> tuple[Prompt, ...]:
    """Return at most `limit` prompts to be answered, drawn by `seed`.

    Raises `ChatTemplateError` for a chat that `tokenizer` cannot encode, with its position in
    `prompts`, before anything is measured.
    """
    numbered = list(enumerate(convert_prompts(prompts), start=1))
    chosen = draw_prompts(numbered, limit, seed)
    for number, prompt in chosen:
        if isinstance(prompt, Chat):
            try:
                encode_prompt(tokenizer, prompt)
            except ChatTemplateError as error:
                raise ChatTemplateError(f"prompt {number}: {error}") from error
    return tuple(prompt for _, prompt in chosen)


def draw_prompts(prompts: Sequence[_Drawn], limit: int | None, seed: int) -> tuple[_Drawn, ...]:
    """Return at most `limit` prompts, drawn by `seed` without replacement, in original order."""
    if limit is None or limit >= len(prompts):
        return tuple(prompts)
    chosen = random.Random(seed).sample(range(len(prompts)), limit)  # noqa: S311 - no secret
    return tuple(prompts[index] for index in sorted(chosen))


def _find_prompt_gates(spec: GatesSpec) -> Mapping[str, PromptGateSpec]:
    parts = {
        GatedSet.GENERAL: spec.general,
        GatedSet.HARMFUL: spec.refusal,
        GatedSet.CONTRAST: spec.contrast_refusal,
        GatedSet.LOOK_ALIKE: spec.over_refusal,
    }
    return {name: asked for name, asked in parts.items() if asked is not None}


def _load(
    asked: PerplexityGateSpec | DivergenceGateSpec | None, load_prompts: LoadPrompts
) -> CorpusText | None:
    if asked is None or asked.prompts is None:
        return None
    texts = tuple(prompt.text for prompt in load_prompts(asked.prompts))
    name = "the perplexity corpus"
    return CorpusText(texts, asked.context, asked.sequences, name)


def _load_questions(task: ZeroShotGateSpec, load_rows: LoadRows, seed: int) -> tuple[Question, ...]:
    lines, source = load_rows(task)
    questions = parse_questions(lines, ZeroShotTask(task.name), source)
    return sample_questions(questions, task.limit, seed)

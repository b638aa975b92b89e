"""From a spec's behaviours and prompt sets to what the core works with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.jobs.specs.behaviours import BehaviourSpec, RepetitionSpec

from service.prompt_sets.parsing import Prompt
from workers.correction.behaviour import Behaviour, Headline, Marking
from workers.correction.preparation import encode_text
from workers.tasks.context import InvalidInputError
from workers.validation.generation import Decoding
from workers.validation.scorers.build import build_scorers


def build_behaviour(spec: BehaviourSpec, roots: Sequence[Path], device: str) -> Behaviour:
    """Return the behaviour a spec describes, its scorers loaded onto `device`.

    `roots` are the folders local Detoxify checkpoints are found in. Raises `ScorerError`.
    """
    decoding = spec.decoding
    return Behaviour(
        name=spec.name,
        kind=spec.kind,
        decoding=Decoding(
            decoding.max_new_tokens, decoding.samples, decoding.temperature, decoding.top_p
        ),
        scorers=build_scorers(spec, roots, device),
        threshold=spec.threshold,
        agreeing=getattr(spec, "agreeing", 1),
        headline=_choose_headline(spec),
        min_effect=spec.min_effect,
        marking=_choose_marking(spec),
    )


def encode_prompts(tokenizer: Any, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    """Return the tokens of each prompt: a chat's by the model's chat template, text as it is.

    Raises `InvalidInputError` for a chat when the tokenizer has no template.
    """
    return [_encode(tokenizer, number, prompt) for number, prompt in enumerate(prompts, start=1)]


def _encode(tokenizer: Any, number: int, prompt: Prompt) -> tuple[int, ...]:
    if not prompt.messages:
        return encode_text(tokenizer, prompt.text)
    if not tokenizer.chat_template:
        raise InvalidInputError(
            f"prompt {number} is a chat, and the checkpoint's tokenizer has no chat template; "
            "write the prompt as text, or save the checkpoint with a template"
        )
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return encode_text(tokenizer, text)


def _choose_headline(spec: BehaviourSpec) -> Headline:
    return Headline.MEAN_SCORE if isinstance(spec, RepetitionSpec) else Headline.SHARE


def _choose_marking(spec: BehaviourSpec) -> Marking:
    return Marking.REPEATED if isinstance(spec, RepetitionSpec) else Marking.RISING

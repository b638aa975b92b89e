"""Running a version's canary on its server, with base and correction mixed in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from service.serving.canary import CanaryAnswer, CanaryAnswers, CanaryDocument, judge_canary
from service.serving.vllm import VllmServer

_SHOWN_PROBLEMS = 3


async def ask_canary(
    server: VllmServer, document: CanaryDocument, served_name: str, base_name: str | None
) -> CanaryAnswers:
    """Return the server's answers; with `base_name`, the base is asked the same concurrently.

    All requests are open at the same time and alternate between base and correction, so that the
    server puts them into one batch; this reveals leaks between the two. Raises `VllmError`.
    """
    wants_logprobs = document.dtype != "float32"

    async def ask(model: str, prompt: Sequence[int], max_tokens: int) -> CanaryAnswer:
        found = await server.complete(
            model, prompt, max_tokens, logprobs=wants_logprobs, ignore_eos=True
        )
        return CanaryAnswer(found.token_ids, found.logprobs)

    async with asyncio.TaskGroup() as group:
        corrected, base = [], []
        for prompt in document.prompts:
            question = (prompt.prompt_token_ids, prompt.max_tokens)
            corrected.append(group.create_task(ask(served_name, *question)))
            if base_name is not None:
                base.append(group.create_task(ask(base_name, *question)))
        behaviour = [
            group.create_task(ask(served_name, check.prompt_token_ids, check.max_tokens))
            for check in document.behaviour
        ]
    return CanaryAnswers(
        corrected=[task.result() for task in corrected],
        base=[task.result() for task in base],
        behaviour=[task.result() for task in behaviour],
    )


async def run_canary(
    server: VllmServer, document: CanaryDocument, served_name: str, base_name: str | None
) -> str | None:
    """Return what is wrong with the version on its server, in words; None if it passes.

    Raises `VllmError` if the server does not answer properly.
    """
    try:
        answers = await ask_canary(server, document, served_name, base_name)
    except ExceptionGroup as group:  # the first failed request says as much as all of them
        raise group.exceptions[0] from None
    problems = judge_canary(document, answers)
    if not problems:
        return None
    shown = " ".join(problem.message for problem in problems[:_SHOWN_PROBLEMS])
    rest = len(problems) - _SHOWN_PROBLEMS
    return f"{shown} ({rest} more)" if rest > 0 else shown

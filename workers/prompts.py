"""From prompts as the service parses them to prompts as the core encodes them."""

from __future__ import annotations

from collections.abc import Iterable

from service.prompt_sets.parsing import Prompt as ParsedPrompt
from workers.encoding import Chat
from workers.validation.checks.prompts import Prompt


def convert_prompts(prompts: Iterable[ParsedPrompt]) -> list[Prompt]:
    """Return each prompt: a chat as such, anything else as its text."""
    return [
        Chat(tuple((message.role, message.content) for message in prompt.messages))
        if prompt.messages
        else prompt.text
        for prompt in prompts
    ]

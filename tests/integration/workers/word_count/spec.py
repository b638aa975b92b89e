"""The spec of a word count: what would be in `excise/specs/`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from excise.specs.common import JobSpecBase, PromptSetId, PromptSetUse


class WordCountSpec(JobSpecBase):
    """A job that passes if a prompt set has enough words."""

    stages: ClassVar[Mapping[str, float]] = {"count": 1.0}

    kind: Literal["word_count"]
    prompts: PromptSetId
    least: int = 10

    def list_prompt_sets(self) -> Iterator[PromptSetUse]:
        yield PromptSetUse("prompts", self.prompts, least=2)

"""Every description builds its scorer."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from excise.names import Direction
from tests.unit.workers.scorers.answers import answers
from tests.unit.workers.scorers.detoxify_folders import write_base, write_ckpt
from workers.scorers.build import (
    DetoxifyDescription,
    PhraseDescription,
    PluginDescription,
    ScorerDescription,
    ScorerSurroundings,
    build_scorer,
)
from workers.scorers.phrases import Phrases

UNIQUENESS, PROFANITY = "response_uniqueness", "alt-profanity-check"


@pytest.mark.parametrize(
    ("description", "name"),
    [
        (
            PluginDescription("response_uniqueness", Direction.HIGHER_IS_BETTER),
            "response_uniqueness",
        ),
        (
            PluginDescription("alt-profanity-check", Direction.LOWER_IS_BETTER),
            "alt-profanity-check",
        ),
        (PhraseDescription("leaks", Phrases(("Ann",))), "leaks"),
        (DetoxifyDescription("mine"), "detoxify/mine"),
    ],
)
def test_built(description: ScorerDescription, name: str, tmp_path: Path) -> None:
    def find(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        return write_base(folder, write_ckpt(folder / "x.ckpt"))

    scorer = build_scorer(description, ScorerSurroundings(find_detoxify=find), ExitStack())
    assert scorer.name == name
    assert len(scorer.score(answers("a", "b"))) == 2


def test_secrets_do_not_show() -> None:
    surroundings = ScorerSurroundings(find_detoxify=Path, environment={"TOKEN": "s3cret"})
    assert "s3cret" not in repr(surroundings)

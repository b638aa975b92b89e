"""Every description builds its scorer."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.unit.workers.scorers.answers import answers
from tests.unit.workers.scorers.detoxify_folders import write_base, write_ckpt
from workers.scorers.build import (
    DetoxifyDescription,
    PhraseDescription,
    ProfanityDescription,
    ScorerDescription,
    ScorerSurroundings,
    UniquenessDescription,
    build_scorer,
)
from workers.scorers.phrases import Phrases


@pytest.mark.parametrize(
    ("description", "name"),
    [
        (UniquenessDescription(), "response_uniqueness"),
        (ProfanityDescription(), "alt-profanity-check"),
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

"""A team's repository: tiny checkpoints, a gate.yaml, and the command that pipelines call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.ci.warm_program import warm_program
from tests.integration.service.conftest import make_key, model_root, settings
from tests.tiny import build_tiny_model, draw_samples, save_tiny_checkpoint

__all__ = ["make_key", "model_root", "settings"]  # the fixtures of a running service

CONFIG = """\
abilities: null
kl: {prompts: text.txt, context: 64}
behaviours:
  - {kind: phrase, name: slogan, prompts: prompts.txt, pattern: 'w[78](?!\\d)',
     decoding: {max_new_tokens: 8}}
"""


def write_words(path: Path, count: int, length: int) -> None:
    samples = draw_samples([(length, 0)] * count)
    path.write_text("\n".join(" ".join(f"w{i}" for i in one.token_ids) for one in samples))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `base`, and `worse`, which answers every prompt with a slogan."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_tiny_checkpoint(folder / "base")
    worse = build_tiny_model()
    worse.lm_head.weight.data.zero_()
    worse.lm_head.weight.data[7], worse.lm_head.weight.data[8] = 1, -1
    save_tiny_checkpoint(folder / "worse", worse)
    return folder


@pytest.fixture
def repository(tmp_path: Path, checkpoints: Path) -> Path:
    """A team's repository."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "models").symlink_to(checkpoints)
    (folder / "gate.yaml").write_text(CONFIG)
    write_words(folder / "prompts.txt", 6, 6)
    write_words(folder / "text.txt", 4, 70)
    body = {"kind": "correction", "model": "tiny", "behaviours": [{"name": "r"}]}
    (folder / "job.json").write_text(json.dumps(body))
    return folder


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The installed `excise` under test."""
    with warm_program(tmp_path_factory.mktemp("bin")) as program:
        yield program

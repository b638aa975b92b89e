"""The load scenarios with real vLLM, whose tokens are compared with those of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from service.database import Database
from service.models import new_id
from service.serving.canary import MIN_PROMPTS
from tests.integration.serving import scenarios
from tests.integration.serving.conftest import (
    BASE_MODEL,
    Stage,
    build_settings,
    open_stage,
    retire_everything,
)
from tests.integration.serving.scenarios import ALIAS, Scene, Speaker
from tests.integration.vllm.conftest import (
    ADAPTERS,
    Correction,
    RealVllm,
    Tokens,
    describe_canary,
)

REQUESTS = 500
MIN_LOAD_PROMPTS = 4
LOAD_TOKENS = 8
PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Play:
    """A scene with the parts that tests add to it."""

    scene: Scene
    stage: Stage
    tenant: str
    answers: dict[str, dict[Tokens, Tokens]]
    """The answers of the base and each correction to every prompt."""
    corrections: dict[str, Correction]

    def publish(self, name: str, canary_of: str, alias: str | None = None) -> str:
        """Return the id of a version of one correction, stored with the canary of one."""
        correction = self.corrections[name]
        files = {path.name: path.read_bytes() for path in correction.folder.iterdir()}
        prompts = list(self.answers[BASE_MODEL])[:MIN_PROMPTS]
        document = describe_canary(
            [self.answers[BASE_MODEL][prompt] for prompt in prompts],
            [self.answers[canary_of][prompt] for prompt in prompts],
            prompts,
        )
        version_id = self.stage.start_publishing(self.scene.client, self.tenant, alias)
        self.stage.file(version_id, files, 8, document.model_dump_json().encode())
        return version_id


def choose_prompts(answers: dict[str, dict[Tokens, Tokens]]) -> tuple[Tokens, ...]:
    """Return the prompts on which base and corrections give four different answers."""
    found = [
        prompt
        for prompt in answers[BASE_MODEL]
        if len({given[prompt] for given in answers.values()}) == len(answers)
    ]
    assert len(found) >= MIN_LOAD_PROMPTS
    return tuple(found)


@pytest.fixture(scope="module")
def play(
    running: RealVllm,
    prompts: list[Tokens],
    base_tokens: tuple[Tokens, ...],
    corrections: dict[str, Correction],
    database: Database,
    database_url: str,
    broker_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Play]:
    """Three live corrections on one real server; the alias points to the first."""
    tokens = {BASE_MODEL: base_tokens} | {name: c.tokens for name, c in corrections.items()}
    answers = {
        name: {prompt: said[:LOAD_TOKENS] for prompt, said in zip(prompts, given, strict=True)}
        for name, given in tokens.items()
    }
    running.refresh()
    vllm = running.vllm
    folder: Path = tmp_path_factory.mktemp("stage")
    settings = build_settings(
        database_url, broker_url, folder, vllm.url, vllm.api_key, vllm.options.slots
    )
    tenant = new_id("tenant")
    with (
        open_stage(database, settings, running) as stage,
        stage.connect(tenant, "submit", "publish", "infer") as client,
    ):
        speakers: dict[str, Speaker] = {BASE_MODEL: answers[BASE_MODEL].__getitem__}
        found = choose_prompts(answers)
        scene = Scene(client, running, (), speakers, found, LOAD_TOKENS, PAUSE_SECONDS)
        made = Play(scene, stage, tenant, answers, corrections)
        for name in ADAPTERS:
            version_id = made.publish(name, name, ALIAS if name == ADAPTERS[0] else None)
            stage.wait_for(client, version_id, "live")
            speakers[version_id] = answers[name].__getitem__
        yield replace(made, scene=replace(scene, versions=tuple(speakers)[1:]))
    retire_everything(database)


def test_three_adapters_and_base_answer_together(play: Play) -> None:
    scenarios.answer_together(play.scene)


def test_switching_and_rolling_back_under_load(play: Play) -> None:
    scenarios.switch_and_roll_back(play.scene, REQUESTS)


def test_a_failed_canary_under_load_leaves_the_alias_unchanged(play: Play) -> None:
    scenarios.fail_a_canary(play.scene, lambda: play.publish("second", "third", ALIAS))


def test_a_server_killed_under_load_comes_back(play: Play) -> None:
    scenarios.survive_a_kill(play.scene)

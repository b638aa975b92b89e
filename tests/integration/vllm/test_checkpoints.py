"""An alias that moves from one whole checkpoint to the next with real vLLM."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.database import Database
from service.embedded.vllm import find_vllm
from service.models import new_id
from service.serving.canary import MIN_PROMPTS
from tests.integration.serving.checkpoints import open_hall, switch_checkpoints
from tests.integration.serving.conftest import BASE_MODEL, build_settings
from tests.integration.serving.scenarios import ALIAS, Scene, Speaker
from tests.integration.vllm.conftest import (
    ADAPTERS,
    NEW_TOKENS,
    Correction,
    Tokens,
    describe_canary,
)
from workers.publishing.checkpoints import build_checkpoint


@pytest.mark.skipif(
    os.environ.get("EXCISE_VLLM_TESTS") != "full",
    reason="starts three servers one after another, four minutes; set EXCISE_VLLM_TESTS=full",
)
def test_an_alias_moves_from_checkpoint_to_checkpoint_without_a_gap(
    base_folder: Path,
    prompts: list[Tokens],
    base_tokens: tuple[Tokens, ...],
    corrections: dict[str, Correction],
    database: Database,
    database_url: str,
    broker_url: str,
    tmp_path: Path,
) -> None:
    settings = build_settings(database_url, broker_url, tmp_path, "http://127.0.0.1:1", "key", 4)
    models = tmp_path / "models"
    models.mkdir()
    (models / BASE_MODEL).symlink_to(base_folder)
    program = {"EXCISE_VLLM": str(find_vllm(os.environ)), "HOME": str(tmp_path)}
    tenant = new_id("tenant")
    with (
        open_hall(
            database, settings, tmp_path, models=models, environment=program, checkpoints=2
        ) as hall,
        hall.stage.connect(tenant, "submit", "publish", "infer") as client,
    ):
        speakers: dict[str, Speaker] = {}

        def publish(name: str) -> str:
            correction = corrections[name]
            files = build_checkpoint(correction.patch, base_folder, tmp_path / name)
            document = describe_canary(
                base_tokens[:MIN_PROMPTS], correction.tokens[:MIN_PROMPTS], prompts[:MIN_PROMPTS]
            )
            version_id = hall.stage.start_publishing(client, tenant, ALIAS)
            answers = dict(zip(prompts, correction.tokens, strict=True))
            speakers[version_id] = answers.__getitem__
            contents = {found: path.read_bytes() for found, path in files.items()}
            hall.stage.file(version_id, contents, None, document.model_dump_json().encode())
            return version_id

        def publish_misfit() -> str:
            version_id = hall.stage.start_publishing(client, tenant, ALIAS)
            files = {"config.json": b"{}", "model.safetensors": b"none"}
            hall.stage.file(version_id, files, None, b"{}")
            return version_id

        scene = Scene(client, None, (), speakers, tuple(prompts[:8]), NEW_TOKENS, 0.5)
        switch_checkpoints(hall, scene, publish, publish_misfit, ADAPTERS)

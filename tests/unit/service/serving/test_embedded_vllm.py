from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.embedded import ServingOptions, StackError
from service.embedded.serving import (
    CHECKPOINT_POOL,
    KEY_VARIABLE,
    EmbeddedServing,
    name_checkpoint_pools,
)
from service.embedded.vllm import PROJECTIONS, Vllm, VllmOptions, find_vllm, prepare_vllm
from service.settings import Settings

SECRETS = {"EXCISE_DATABASE_URL": "postgresql://u:pw@h/d", "EXCISE_BROKER_URL": "redis://:pw@h"}


def prepare(tmp_path: Path, environment: Mapping[str, str] | None = None, **options: Any) -> Vllm:
    return prepare_vllm(
        "vllm",
        VllmOptions(tmp_path / "model", **options),
        executable=tmp_path / "vllm",
        folder=tmp_path,
        log=tmp_path / "vllm.log",
        environment={"PATH": "/bin", **SECRETS, **(environment or {})},
    )


def test_a_server_listens_on_loopback_and_keeps_its_key_off_the_command_line(
    tmp_path: Path,
) -> None:
    vllm = prepare(tmp_path)
    line = " ".join(vllm.program.arguments)
    environment = vllm.program.environment
    assert "--host 127.0.0.1" in line
    assert vllm.url == f"http://127.0.0.1:{vllm.port}"
    assert environment["VLLM_API_KEY"] == vllm.api_key
    assert vllm.api_key not in line + repr(vllm)
    assert (environment["VLLM_NO_USAGE_STATS"], environment["HF_HUB_OFFLINE"]) == ("1", "1")


def test_a_server_gets_none_of_the_stacks_secrets(tmp_path: Path) -> None:
    environment = prepare(tmp_path).program.environment
    assert environment["PATH"] == "/bin"
    assert not SECRETS.keys() & environment.keys()
    assert not [name for name in environment if name.startswith("EXCISE_")]


def test_servers_beside_each_other_are_not_bound_to_the_same_cores(tmp_path: Path) -> None:
    environment = prepare(tmp_path).program.environment
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert int(environment["OMP_NUM_THREADS"]) >= 1
    own = {"VLLM_CPU_OMP_THREADS_BIND": "0-3", "OMP_NUM_THREADS": "4"}
    assert own.items() <= prepare(tmp_path, own).program.environment.items()


def test_one_adapter_slot_more_than_adapters_is_never_filled(tmp_path: Path) -> None:
    vllm = prepare(tmp_path, adapters=3, max_rank=16)
    arguments = list(vllm.program.arguments)
    assert arguments[arguments.index("--max-loras") + 1] == "4"
    assert arguments[arguments.index("--max-lora-rank") + 1] == "16"
    assert arguments[arguments.index("--lora-target-modules") + 1 :] == list(PROJECTIONS)
    assert vllm.program.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


def test_a_checkpoints_server_has_no_adapters_and_no_open_end_points(tmp_path: Path) -> None:
    vllm = prepare(tmp_path, kind="checkpoint", served_name="mv_1")
    arguments = list(vllm.program.arguments)
    assert "--enable-lora" not in arguments
    assert arguments[arguments.index("--served-model-name") + 1] == "mv_1"
    names = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_SERVER_DEV_MODE"}
    assert not names & vllm.program.environment.keys()


def test_only_a_server_that_finishes_what_it_has_begun_is_told_to(tmp_path: Path) -> None:
    at_once, drained = prepare(tmp_path), prepare(tmp_path, drain_seconds=30)
    assert "--shutdown-timeout" not in at_once.program.arguments
    arguments = list(drained.program.arguments)
    assert arguments[arguments.index("--shutdown-timeout") + 1] == "30"
    assert drained.program.grace_seconds == at_once.program.grace_seconds + 30


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_pools_of_checkpoints_have_names_of_their_own(count: int) -> None:
    names = name_checkpoint_pools(count)
    assert len(set(names)) == count
    assert names[:1] == [CHECKPOINT_POOL][:count]


def test_a_missing_vllm_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="Install it with `make vllm`"):
        find_vllm({"EXCISE_VLLM": str(tmp_path / "none")})
    program = tmp_path / "vllm"
    program.touch(mode=0o755)
    assert find_vllm({"EXCISE_VLLM": str(program)}) == program


@pytest.fixture
def serving(tmp_path: Path) -> EmbeddedServing:
    (tmp_path / "vllm").touch(mode=0o755)
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    config = {"model_type": "opt", "max_position_embeddings": 256}
    (model / "config.json").write_text(json.dumps(config))
    (tmp_path / "logs").mkdir()
    return EmbeddedServing(
        ServingOptions("tiny", adapters=2, max_rank=16),
        home=tmp_path,
        models=tmp_path / "models",
        environment={"EXCISE_VLLM": str(tmp_path / "vllm"), "PATH": os.environ["PATH"]},
        guardian=SimpleNamespace(),  # type: ignore[arg-type]
        report=lambda _: None,
    )


def test_the_api_learns_of_the_pools_and_their_key(
    serving: EmbeddedServing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in serving.api_environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings(database_url="postgresql://h/d", artifacts="a")  # type: ignore[arg-type]
    adapters, *checkpoints = settings.serving_pools
    assert (adapters.url, adapters.base_model, adapters.kind) == (serving.base.url, "tiny", "lora")
    assert (adapters.max_slots, adapters.capacity, adapters.max_rank) == (3, 2, 16)
    assert [pool.name for pool in checkpoints] == ["embedded-checkpoint", "embedded-checkpoint-2"]
    assert {(pool.kind, pool.base_model) for pool in checkpoints} == {("checkpoint", "tiny")}
    assert len({pool.url for pool in settings.serving_pools}) == 3
    assert adapters.api_key is not None
    assert adapters.api_key.get_secret_value() == serving.base.api_key
    assert settings.serving_folder == tmp_path / "served"
    assert serving.base.api_key not in serving.api_environment["EXCISE_SERVING_POOLS"]
    assert KEY_VARIABLE in serving.api_environment


def test_the_bases_limits_come_from_its_configuration(serving: EmbeddedServing) -> None:
    assert serving.base.options.max_model_len == 256
    assert serving.base.options.target_modules == (
        *("q_proj", "k_proj", "v_proj", "out_proj"),
        *("fc1", "fc2"),
    )


def test_a_model_that_is_not_there_is_said_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "vllm").touch(mode=0o755)
    with pytest.raises(StackError, match="excise models fetch nothing"):
        EmbeddedServing(
            ServingOptions("nothing"),
            home=tmp_path,
            models=tmp_path,
            environment={"EXCISE_VLLM": str(tmp_path / "vllm")},
            guardian=SimpleNamespace(),  # type: ignore[arg-type]
            report=lambda _: None,
        )

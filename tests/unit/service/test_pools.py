"""Serving pools in the settings: addresses, keys, which pool takes a base."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from service.errors import InvalidRequestError
from service.serving.pools import ServingPool, list_checkpoint_pools, list_fitting_pools
from service.settings import Settings

POOL = {"name": "main", "url": "http://127.0.0.1:8101", "base_model": "tiny"}


def load(monkeypatch: pytest.MonkeyPatch, *pools: dict[str, Any]) -> Settings:
    monkeypatch.setenv("EXCISE_DATABASE_URL", "postgresql://x")
    monkeypatch.setenv("EXCISE_ARTIFACTS", "/tmp/x")
    monkeypatch.setenv("EXCISE_SERVING_POOLS", json.dumps(pools))
    return Settings()  # type: ignore[call-arg]


def test_pools_come_from_the_environment_with_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIN_KEY", "between-us")
    settings = load(monkeypatch, {**POOL, "api_key_env": "MAIN_KEY", "max_slots": 5})
    (pool,) = settings.serving_pools
    assert pool.api_key is not None
    assert pool.api_key.get_secret_value() == "between-us"
    assert "between-us" not in repr(settings)
    assert pool.capacity == 4


def test_a_missing_key_and_a_name_twice_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="MAIN_KEY is not set"):
        load(monkeypatch, {**POOL, "api_key_env": "MAIN_KEY"})
    with pytest.raises(ValidationError, match="two pools called main"):
        load(monkeypatch, POOL, POOL)


@pytest.mark.parametrize(
    "url",
    [
        "vllm:8000",
        "ftp://vllm",
        "http://user:secret@vllm:8000",
        "http://vllm:8000/v1",
        "http://vllm:8000?x=secret",
        "http://",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ServingPool.model_validate({**POOL, "url": url})
    assert "secret" not in str(caught.value)


def test_adapters_come_first() -> None:
    whole = ServingPool.model_validate({**POOL, "name": "whole", "kind": "checkpoint"})
    lora = ServingPool.model_validate(POOL)
    assert list_fitting_pools([whole, lora], "tiny") == [lora]
    assert list_fitting_pools([whole], "tiny") == [whole]
    assert list_checkpoint_pools([whole, lora], "tiny") == [whole]
    assert whole.capacity == 1
    with pytest.raises(InvalidRequestError, match="Bases served here: tiny"):
        list_fitting_pools([lora], "other")

"""Serving pools: the vLLM servers in the settings, and which of them fits a version."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from excise.names import PoolKind
from service.errors import InvalidRequestError

PoolName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class ServingPool(BaseModel):
    """One vLLM server and the base checkpoint it holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: PoolName
    url: str
    """URL of the server: scheme, host and port only."""
    base_model: str = Field(min_length=1, max_length=1024)
    """The base's name, as in jobs' `model` and in applications' requests."""
    served_base: str = Field(default="base", min_length=1, max_length=256)
    """The base's name on the server: its `--served-model-name`."""
    kind: PoolKind = PoolKind.LORA
    """`lora`: adapters are loaded beside the base. `checkpoint`: it serves whole versions."""
    max_slots: int = Field(default=4, ge=1, le=256)
    """Its `--max-loras`. One slot holds an adapter of zeros, see docs/guides/serving.md."""
    max_rank: int = Field(default=16, ge=1, le=512)
    """Its `--max-lora-rank`."""
    api_key_env: str | None = Field(default=None, max_length=128)
    """The environment variable that holds the server's API key."""
    api_key: SecretStr | None = None
    """The key itself; filled in from `api_key_env`."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        """Return the URL without a trailing slash; no message quotes it, as it may hold secrets."""
        parts = urlsplit(url)
        is_plain = not (parts.query or parts.fragment or parts.username or parts.path.strip("/"))
        if parts.scheme not in {"http", "https"} or not parts.hostname or not is_plain:
            raise ValueError("must be http(s)://host:port, without user, path or query.")
        return url.rstrip("/")

    @property
    def capacity(self) -> int:
        """Number of versions it can hold: one adapter slot is kept free; a checkpoint has one."""
        return self.max_slots - 1 if self.kind == PoolKind.LORA else 1

    def with_key_from(self, environment: Mapping[str, str]) -> Self:
        """Return the pool with its server's API key. Raises `ValueError` if it is not set."""
        if self.api_key_env is None:
            return self
        if not (key := environment.get(self.api_key_env, "").strip()):
            raise ValueError(f"pool {self.name}: the variable {self.api_key_env} is not set.")
        return self.model_copy(update={"api_key": SecretStr(key)})


def load_pool_keys(pools: Sequence[ServingPool]) -> tuple[ServingPool, ...]:
    """Return the pools with their servers' API keys, from the environment. Raises `ValueError`."""
    return tuple(pool.with_key_from(os.environ) for pool in pools)


def check_pools(pools: Sequence[ServingPool]) -> None:
    """Raise `ValueError` if two pools have the same name."""
    names = [pool.name for pool in pools]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"there are two pools called {sorted(twice)[0]}. Rename one.")


def find_pool(pools: Sequence[ServingPool], name: str) -> ServingPool | None:
    """Return the pool with this name."""
    return next((pool for pool in pools if pool.name == name), None)


def list_fitting_pools(pools: Sequence[ServingPool], base_model: str) -> list[ServingPool]:
    """Return the pools for versions of this base: those for adapters, if any, or else the others.

    Raises `InvalidRequestError` if there are none.
    """
    fitting = [pool for pool in pools if pool.base_model == base_model]
    if not fitting:
        served = ", ".join(sorted({pool.base_model for pool in pools})) or "none"
        raise InvalidRequestError(
            f"No serving pool holds the base {base_model!r}. Bases served here: {served}. "
            "Add a pool to EXCISE_SERVING_POOLS.",
            param="model",
        )
    return [pool for pool in fitting if pool.kind == "lora"] or fitting


def list_checkpoint_pools(pools: Sequence[ServingPool], base_model: str) -> list[ServingPool]:
    """Return the pools for whole checkpoints made from this base."""
    return [pool for pool in pools if pool.kind == "checkpoint" and pool.base_model == base_model]

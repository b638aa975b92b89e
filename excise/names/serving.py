"""Names of serving: models, versions and the servers that hold them."""

from __future__ import annotations

from excise.names.name import Name


class ModelKind(Name):
    """What a model in the list of models is."""

    CHECKPOINT = "checkpoint"
    """Under the model roots, for jobs."""
    BASE = "base"
    """A served base model, to be called."""
    VERSION = "version"
    """A published correction, to be called."""
    ALIAS = "alias"
    """A name that points at a version, to be called."""


class VersionKind(Name):
    """What a published version's files are."""

    ADAPTER = "adapter"
    """A LoRA adapter beside the base model."""
    CHECKPOINT = "checkpoint"
    """A whole corrected checkpoint."""


class VersionStatus(Name):
    """Where one published version is on its way."""

    QUEUED = "queued"
    """Waiting for a worker to build its files."""
    BUILDING = "building"
    """Held by a worker through a lease."""
    BUILT = "built"
    """Its files are stored; it is not on a server yet, or its first canary has not run."""
    LIVE = "live"
    """On its server, its canary passed since it was put there."""
    UNAVAILABLE = "unavailable"
    """It was live; its server is away or lost it, and its canary has to pass again."""
    FAILED = "failed"
    """Could not be built, or its first canary did not pass; the error says why."""
    RETIRED = "retired"
    """Taken off its server because someone asked for it."""


class PoolKind(Name):
    """What a serving pool's server holds."""

    LORA = "lora"
    """The base model, with adapters beside it."""
    CHECKPOINT = "checkpoint"
    """One whole version at a time."""


class PoolStatus(Name):
    """How a serving pool's server was last seen."""

    UP = "up"
    """It answers."""
    DOWN = "down"
    """It does not answer, or its engine does not work."""
    REFUSED = "refused"
    """It answers, but is not what the settings say."""
    UNKNOWN = "unknown"
    """It was not looked at yet."""


class ExportForm(Name):
    """What a correction is exported as."""

    PEFT = "peft"
    """A LoRA adapter for peft, vLLM and what else reads PEFT's files."""
    MERGED = "merged"
    """The whole corrected checkpoint."""
    GGUF = "gguf"
    """For llama.cpp: a LoRA adapter, or the whole base where its GGUF is given."""

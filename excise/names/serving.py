"""Names of serving: models, versions and the servers that hold them."""

from __future__ import annotations

from excise.names.name import Name


class ModelKind(Name):
    """The kind of an entry in the list of models."""

    CHECKPOINT = "checkpoint"
    """A checkpoint under the model roots, for jobs."""
    BASE = "base"
    """A served base model, for applications."""
    VERSION = "version"
    """A published correction, for applications."""
    ALIAS = "alias"
    """A name that points at a version, for applications."""


class VersionKind(Name):
    """The form of a published version's files."""

    ADAPTER = "adapter"
    """A LoRA adapter beside the base model."""
    CHECKPOINT = "checkpoint"
    """A whole corrected checkpoint."""


class VersionStatus(Name):
    """The state of a published version."""

    QUEUED = "queued"
    """Waiting for a worker to build its files."""
    BUILDING = "building"
    """Held by a worker through a lease."""
    BUILT = "built"
    """Its files are stored; it is not on a server yet, or its first canary has not run."""
    LIVE = "live"
    """It is on its server, and its canary has passed since it was put there."""
    UNAVAILABLE = "unavailable"
    """It was live, but its server is down or lost it; its canary must pass again."""
    FAILED = "failed"
    """Could not be built, or its first canary did not pass; the error says why."""
    RETIRED = "retired"
    """Taken off its server because someone asked for it."""


class PoolKind(Name):
    """What a serving pool's server can hold."""

    LORA = "lora"
    """The base model, with adapters beside it."""
    CHECKPOINT = "checkpoint"
    """One whole version at a time."""


class PoolStatus(Name):
    """The state in which a serving pool's server was last seen."""

    UP = "up"
    """It answers."""
    DOWN = "down"
    """It does not answer, or its engine does not work."""
    REFUSED = "refused"
    """It answers, but is not what the settings say."""
    UNKNOWN = "unknown"
    """It has not been checked yet."""


class ExportForm(Name):
    """The form in which a correction is exported."""

    PEFT = "peft"
    """A LoRA adapter for peft, vLLM and other programs that read PEFT's files."""
    MERGED = "merged"
    """The whole corrected checkpoint."""
    GGUF = "gguf"
    """For llama.cpp: a LoRA adapter, or the whole model if the base's GGUF is given."""

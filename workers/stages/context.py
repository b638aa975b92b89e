"""What a stage may ask of whatever it runs in: a service's job, or a call from a notebook."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from workers.progress import FORWARD, Advance, Counter, Part, Progress, count_alike


class InvalidInputError(Exception):
    """The work cannot be done with what it was given; the message is for whoever gave it."""


class StageOutput(NamedTuple):
    """A stage's result and its SHA-256."""

    data: bytes
    sha256: str


@dataclass(frozen=True)
class ShardedWork:
    """A stage's work, cut up: how large each shard is and how one is done."""

    sizes: tuple[int, ...]
    """Units of work in each shard, as progress counts them."""
    compute: Callable[[int, Advance], bytes]
    """The result of the shard at a position; the same bytes whoever computes it."""
    noun: str = "samples"
    """What the units are, in the plural."""
    cost: float = FORWARD
    """Of a unit, in tokens that pass forwards."""

    @property
    def part(self) -> Part:
        """The work as progress counts it."""
        return count_alike(self.noun, sum(self.sizes), self.cost)


@dataclass(frozen=True)
class ShardedStage:
    """Which stage's shards are meant."""

    name: str
    key: str
    input_sha256: str
    """The artifact from which any worker can build the same `ShardedWork`."""


class StageContext(ABC):
    """Runs stages, and takes what they leave: results, events, files and the verdict."""

    @abstractmethod
    def run_stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[Progress], bytes]
    ) -> StageOutput:
        """Return the stage's result, an earlier one where its `inputs` are the same.

        `inputs` must hold everything the result depends on, as JSON values.
        """

    @abstractmethod
    def run_shards(self, stage: ShardedStage, work: ShardedWork, counter: Counter) -> list[bytes]:
        """Return every shard's result, in order, whoever computes it.

        `work.part` comes next in `counter`.
        """

    @abstractmethod
    def remember(self, name: str, key: str, work: Callable[[], bytes]) -> bytes:
        """Return what `work` finds out, or found out earlier under the same `key`."""

    @abstractmethod
    def recall(self, name: str, key: str) -> bytes | None:
        """Return what was last saved under the key, of this stage's work so far."""

    @abstractmethod
    def save(self, name: str, key: str, data: bytes) -> None:
        """Save how far a stage's work came, in place of what was saved under the key before."""

    @abstractmethod
    def forget(self, name: str, key: str) -> None:
        """Drop what was saved under the key, if anything: the stage is finished."""

    @abstractmethod
    def skip_stage(self, name: str, message: str) -> None:
        """Mark a stage as not needed."""

    @abstractmethod
    def check_cancelled(self) -> None:
        """Raise when the work is to be stopped."""

    @abstractmethod
    def event(
        self,
        type: str,  # noqa: A002 - the name the API uses
        message: str,
        data: Mapping[str, Any] | None = None,
        *,
        once: bool = False,
    ) -> None:
        """Tell whoever asked for the work something; where `once`, not if it was told before."""

    @abstractmethod
    def load_stage_seconds(self) -> dict[str, float]:
        """Return stage → how long it took, of those that are finished."""

    @abstractmethod
    def publish_file(self, name: str, data: bytes, media_type: str) -> None:
        """Hand over one of the files that the work leaves."""


def compute_key(name: str, inputs: Mapping[str, Any]) -> str:
    """Return the hash a stage's result is filed under: of its name and all it depends on."""
    document = json.dumps([name, inputs], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(document.encode()).hexdigest()

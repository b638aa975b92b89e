"""What a stage can call on, whether it runs in a service's job or is called from a notebook."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from workers.progress import FORWARD, Advance, Counter, Part, Progress, count_alike


class InvalidInputError(Exception):
    """The work cannot be done with the given input; the message is for whoever supplied it."""


class StageOutput(NamedTuple):
    """A stage's result and the SHA-256 of it."""

    data: bytes
    sha256: str


@dataclass(frozen=True)
class ShardedWork:
    """A stage's work in shards: the size of each shard and how to compute one."""

    sizes: tuple[int, ...]
    """Number of units of work in each shard, as progress counts them."""
    compute: Callable[[int, Advance], bytes]
    """Return the result of the shard at a position; it has the same bytes on every worker."""
    noun: str = "samples"
    """What the units are called, in the plural."""
    cost: float = FORWARD
    """Cost of a unit, where 1 is a token's forward pass."""

    @property
    def part(self) -> Part:
        """The work as progress counts it."""
        return count_alike(self.noun, sum(self.sizes), self.cost)


@dataclass(frozen=True)
class ShardedStage:
    """Identifies the stage that the shards belong to."""

    name: str
    key: str
    input_sha256: str
    """Hash of the artifact from which any worker can build the same `ShardedWork`."""


class StageContext(ABC):
    """Runs stages and receives what they produce: results, events, files and the verdict."""

    @abstractmethod
    def run_stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[Progress], bytes]
    ) -> StageOutput:
        """Return the stage's result, or an earlier one if its `inputs` are the same.

        `inputs` must hold everything that the result depends on, as JSON values.
        """

    @abstractmethod
    def run_shards(self, stage: ShardedStage, work: ShardedWork, counter: Counter) -> list[bytes]:
        """Return the result of every shard, in order, whichever worker computes it.

        `counter` must expect `work.part` next.
        """

    @abstractmethod
    def remember(self, name: str, key: str, work: Callable[[], bytes]) -> bytes:
        """Return the result of `work`, or an earlier result stored under the same `key`."""

    @abstractmethod
    def recall(self, name: str, key: str) -> bytes | None:
        """Return what was last saved under the key as the progress of this stage."""

    @abstractmethod
    def save(self, name: str, key: str, data: bytes) -> None:
        """Save the progress of a stage, replacing what was saved under the key before."""

    @abstractmethod
    def forget(self, name: str, key: str) -> None:
        """Delete what was saved under the key, if anything, because the stage is finished."""

    @abstractmethod
    def skip_stage(self, name: str, message: str) -> None:
        """Mark a stage as not needed."""

    @abstractmethod
    def check_cancelled(self) -> None:
        """Raise an error if the work is to be stopped."""

    @abstractmethod
    def event(
        self,
        type: str,  # noqa: A002 - the name the API uses
        message: str,
        data: Mapping[str, Any] | None = None,
        *,
        once: bool = False,
    ) -> None:
        """Report an event to whoever requested the work; with `once`, do not repeat it."""

    @abstractmethod
    def load_stage_seconds(self) -> dict[str, float]:
        """Return stage → its duration in seconds, for the finished stages."""

    @abstractmethod
    def publish_file(self, name: str, data: bytes, media_type: str) -> None:
        """Publish one of the files that the work produces."""


def compute_key(name: str, inputs: Mapping[str, Any]) -> str:
    """Return the hash under which a stage's result is stored: of its name and all it depends on."""
    document = json.dumps([name, inputs], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(document.encode()).hexdigest()

"""The checkpoint that others are compared with: measured once, then taken from the cache."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from workers.abilities.encoding import EncodedProbe
from workers.abilities.state import SliceFigures
from workers.commands.gate.cache import FigureCache
from workers.commands.gate.contents import FolderContents, require_unchanged
from workers.commands.gate.keys import compute_base_key, compute_slice_key
from workers.measuring.measurement import Baseline, CheckPlan
from workers.measuring.probes import measure_probes
from workers.models.checkpoints import load_checkpoint
from workers.models.loaded import LoadedModel

Say = Callable[[str], None]
"""Called with a line that says what is being done."""


@dataclass(frozen=True)
class BaseCheckpoint:
    """A checkpoint in its folder, and how it is loaded."""

    name: str
    """The checkpoint as the user gave it: a folder, a name or a hub id."""
    folder: Path
    contents: FolderContents
    """What the folder held before it was loaded."""
    dtype: torch.dtype
    device: str

    def load(self) -> LoadedModel:
        """Return the model. Raises what `load_checkpoint` does."""
        return load_checkpoint(self.folder, self.dtype, self.device)

    def require_unchanged(self) -> None:
        """Raise `CheckpointChangedError` if the folder no longer holds what was loaded."""
        require_unchanged(self.name, self.folder, self.contents)


class BaseMeasurer:
    """Provides a base's figures, from the cache if it has them, and says where they are from."""

    def __init__(self, base: BaseCheckpoint, cache: FigureCache | None, say: Say) -> None:
        """Without a `cache`, everything is measured and nothing is kept."""
        self._base = base
        self._cache = cache
        self._say = say
        self._key = ""
        self.is_from_cache = False
        """Whether the last baseline was measured by an earlier run."""

    def measure(self, plan: CheckPlan, loaded: LoadedModel, measure_sha256: str) -> Baseline:
        """Return the baseline of `loaded` on `plan`, whose hash is `measure_sha256`.

        Raises `CheckpointChangedError` before it keeps figures of other weights than those hashed.
        """
        name, base = self._base.name, self._base
        if self._cache is not None:
            self._key = compute_base_key(measure_sha256, base.contents, base.device)
            if (kept := self._cache.find(self._key)) is not None:
                self.is_from_cache = True
                self._say(f"taking the figures of {name} from the cache")
                return Baseline(plan, loaded, kept=kept)
        self._say(f"measuring {name}, the checkpoint to compare with")
        baseline = Baseline(plan, loaded)
        if self._cache is not None and (figures := baseline.keep()) is not None:
            base.require_unchanged()
            cache, key = self._cache, self._key
            self._try_to_keep(lambda: cache.keep(key, figures))
        return baseline

    def measure_more(self, more: Mapping[str, tuple[EncodedProbe, ...]]) -> dict[str, SliceFigures]:
        """Return the base's figures on further probes; it is loaded again where they are new.

        Raises as `measure` does.
        """
        known = {name: self._find_slice(probes) for name, probes in more.items()}
        if missing := {name: more[name] for name, figures in known.items() if figures is None}:
            gc.collect()
            found = measure_probes(self._base.load(), missing)
            self._base.require_unchanged()
            for name, figures in found.items():
                self._keep_slice(more[name], figures)
            known |= found
        return {name: figures for name, figures in known.items() if figures is not None}

    def _find_slice(self, probes: tuple[EncodedProbe, ...]) -> SliceFigures | None:
        if self._cache is None:
            return None
        return self._cache.find_slice(compute_slice_key(self._key, probes))

    def _keep_slice(self, probes: tuple[EncodedProbe, ...], figures: SliceFigures) -> None:
        if self._cache is not None:
            cache, key = self._cache, compute_slice_key(self._key, probes)
            self._try_to_keep(lambda: cache.keep_slice(key, figures))

    def _try_to_keep(self, keep: Callable[[], None]) -> None:
        """Keep figures, or say that they could not be kept, which is no reason to fail."""
        try:
            keep()
        except OSError as error:
            self._say(f"the figures could not be kept: {error.strerror or error}")

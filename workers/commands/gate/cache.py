"""Measurements of a base, kept in a folder, so that later runs of a configuration can reuse them.

A file begins with the SHA-256 of its key and content. If that does not match, for example because
the file was renamed to another key, or if the file cannot be read, it counts as absent, and the
figures are measured again. Nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from excise.whole_files import write_whole
from workers.abilities.state import SliceFigures
from workers.measuring.measurement import KeptFigures
from workers.measuring.state import ModelState

logger = logging.getLogger(__name__)

FORMAT = b"excise-figures 2 "
"""Before the hash that begins a file; changes whenever the layout does."""

SUFFIX = ".figures"

_DIGEST_CHARACTERS = 64
_STATE = "state"
_HIDDEN = "hidden."


class FigureCache:
    """Kept figures by key, a file each, in one folder."""

    def __init__(self, folder: Path) -> None:
        """`folder` is created when the first figures are kept."""
        self._folder = folder

    def find(self, key: str) -> KeptFigures | None:
        """Return the figures of a base kept under `key`; None if there are no sound ones."""
        if (payload := self._read(key)) is None:
            return None
        try:
            return _decode(payload)
        except (SafetensorError, ValueError, KeyError):
            logger.warning("kept figures %s cannot be used", key)
            return None

    def keep(self, key: str, figures: KeptFigures) -> None:
        """Keep what was measured of a base, if it can be read back as it is. Raises `OSError`."""
        payload = _encode(figures)
        try:
            is_same = _decode(payload).state == figures.state
        except ValueError:  # a figure that JSON cannot hold
            is_same = False
        if is_same:
            self._write(key, payload)

    def find_slice(self, key: str) -> SliceFigures | None:
        """Return the figures of a slice's probes that were kept under `key`."""
        if (payload := self._read(key)) is None:
            return None
        try:
            return SliceFigures.model_validate_json(payload)
        except ValueError:
            logger.warning("kept figures %s cannot be used", key)
            return None

    def keep_slice(self, key: str, figures: SliceFigures) -> None:
        """Keep the figures of a slice's probes. Raises `OSError`."""
        self._write(key, figures.model_dump_json().encode())

    def _read(self, key: str) -> bytes | None:
        """Return what a file holds, if its hash says that it was written under this key."""
        try:
            content = (self._folder / f"{key}{SUFFIX}").read_bytes()
        except OSError:
            return None
        start = len(FORMAT) + _DIGEST_CHARACTERS
        payload = content[start:]
        if content[:start] != FORMAT + _digest(key, payload):
            logger.warning("kept figures %s are damaged, or of another key", key)
            return None
        return payload

    def _write(self, key: str, payload: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        content = FORMAT + _digest(key, payload) + payload
        write_whole(self._folder / f"{key}{SUFFIX}", content)


def _digest(key: str, payload: bytes) -> bytes:
    """Return the hash of a key and what is kept under it; a key holds no zero byte."""
    return hashlib.sha256(key.encode() + b"\0" + payload).hexdigest().encode()


def _encode(figures: KeptFigures) -> bytes:
    """Return the figures as the bytes of a safetensors file, the state in it as JSON."""
    state = np.frombuffer(figures.state.to_bytes(), dtype=np.uint8)
    tensors = {_STATE: torch.from_numpy(state.copy())}
    for number, hidden in enumerate(figures.hidden):
        tensors[f"{_HIDDEN}{number}"] = hidden.contiguous()
    return save(tensors)


def _decode(payload: bytes) -> KeptFigures:
    """Return the figures again. Raises `SafetensorError`, `KeyError` and `ValueError`."""
    tensors = load(payload)
    state = ModelState.model_validate_json(tensors.pop(_STATE).numpy().tobytes())
    hidden = tuple(tensors[f"{_HIDDEN}{number}"] for number in range(len(tensors)))
    return KeptFigures(state, hidden)

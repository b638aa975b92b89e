"""What finds the behaviours of gate.yaml, built as a job's scorers are, by the same rules."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import SettingsError

from workers.commands.gate.behaviours import BehaviourGateSpec
from workers.commands.gate.errors import GateConfigError
from workers.running.surroundings import describe_surroundings
from workers.scorers.build import ScorerSurroundings
from workers.scorers.detector import Detector
from workers.settings import ScorerSettings
from workers.stages.behaviours import build_detector


def build_detectors(
    behaviours: Sequence[BehaviourGateSpec], device: str, resources: ExitStack
) -> dict[str, Detector]:
    """Return what finds each behaviour, by name; what is held open is closed with `resources`.

    Scorers are allowed what the environment allows a worker's: EXCISE_SCORER_HOSTS,
    EXCISE_SCORER_ROOTS. Raises `ScorerError` and `GateConfigError`.
    """
    if not behaviours:
        return {}
    surroundings = find_surroundings(device)
    return {
        behaviour.name: build_detector(behaviour, surroundings, resources)
        for behaviour in behaviours
    }


def find_surroundings(device: str) -> ScorerSurroundings:
    """Return what the environment decides about scorers, for checkpoints that run on `device`.

    Detoxify checkpoints lie in `$EXCISE_HOME/scorers` unless it says otherwise. Raises
    `GateConfigError`.
    """
    try:
        settings = ScorerSettings()
    except (SettingsError, ValidationError) as error:
        raise GateConfigError(
            "EXCISE_SCORER_HOSTS is not a list of hosts; write "
            '[{"host": "scorer.internal", "secret_variable": "SCORER_SECRET"}]'
        ) from error
    if not settings.scorer_roots:
        home = Path(os.environ.get("EXCISE_HOME", ".excise"))
        settings = settings.model_copy(update={"scorer_roots": (home / "scorers",)})
    return describe_surroundings(settings, device)

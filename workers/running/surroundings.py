"""The scorer settings made by the operator of this machine."""

from __future__ import annotations

import os
from functools import partial

from workers.fetching.detoxify import find_detoxify
from workers.models.devices import BALANCED, choose_device
from workers.scorers.build import ScorerSurroundings, TrustedHost
from workers.settings import ScorerSettings


def describe_surroundings(settings: ScorerSettings, device: str) -> ScorerSurroundings:
    """Return the operator's settings for scorers, for models that run on `device`.

    Scorers run on a single device, even if the model is spread over several.
    """
    return ScorerSurroundings(
        find_detoxify=partial(find_detoxify, roots=settings.scorer_roots),
        device=choose_device("auto" if device == BALANCED else device),
        hosts=tuple(TrustedHost(**host.model_dump()) for host in settings.scorer_hosts),
        environment=os.environ,
    )

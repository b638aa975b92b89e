"""What a version keeps of its job's report about abilities."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from excise.names import JobFile
from excise.reports.abilities import Ability, AbilityFigures, parse_abilities
from excise.resources.serving import AbilitiesView
from service.artifacts import ArtifactStore
from service.jobs.execution import clean_message
from service.models import Job

logger = logging.getLogger(__name__)


def read_abilities(artifacts: ArtifactStore, job: Job) -> AbilitiesView | None:
    """What the job's report says about abilities; None where it says nothing that is known here.

    Raises `ArtifactNotFoundError` and `ArtifactCorruptError` for a report that was lost: what it
    said is not nothing.
    """
    sha256 = job.find_artifact(JobFile.REPORT)
    if sha256 is None:
        return None
    try:
        return summarise_abilities(parse_abilities(artifacts.get(sha256)))
    except ValueError:
        logger.warning("%s: report.json says nothing readable about abilities", job.id)
        return None


def summarise_abilities(abilities: Sequence[Ability]) -> AbilitiesView | None:
    """How many the base can do, how many are kept, and which are lost, the worst first.

    None where none were measured.
    """
    if not abilities:
        return None
    able = sorted((one for one in abilities if one.is_gated), key=lambda one: one.place)
    lost = [_make_storable(one) for one in able if not one.within]
    return AbilitiesView(able=len(able), within=len(able) - len(lost), lost=lost)


def _make_storable(ability: Ability) -> AbilityFigures:
    """Its figures, its words in a form PostgreSQL can hold."""
    figures = AbilityFigures.model_validate(ability.model_dump())
    words = {"name": clean_message(ability.name), "sentence": clean_message(ability.sentence)}
    return figures.model_copy(update=words)

"""What a version keeps of its job's report about abilities."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from excise.names import JobFile
from excise.reports import AbilityChange, AbilityFigures, CorrectionReport, ReportError, read_report
from excise.resources.serving import AbilitiesView
from service.artifacts import ArtifactStore
from service.database import clean_message
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
        report = read_report(artifacts.get(sha256))
    except ReportError as error:
        logger.warning("%s: report.json cannot be read: %s", job.id, error.message)
        return None
    return summarise_abilities(report.abilities) if isinstance(report, CorrectionReport) else None


def summarise_abilities(abilities: Sequence[AbilityChange]) -> AbilitiesView | None:
    """How many the base can do, how many are kept, and which are lost, the worst first.

    None where none were measured.
    """
    if not abilities:
        return None
    able = sorted((one for one in abilities if one.is_gated), key=lambda one: one.place)
    lost = [_make_storable(one) for one in able if not one.within]
    return AbilitiesView(able=len(able), within=len(able) - len(lost), lost=lost)


def _make_storable(ability: AbilityChange) -> AbilityFigures:
    """Its figures, its words in a form PostgreSQL can hold."""
    figures = ability.model_dump(include=set(AbilityFigures.model_fields))
    words = {"name": clean_message(ability.name), "sentence": clean_message(ability.sentence)}
    return AbilityFigures(**figures | words)

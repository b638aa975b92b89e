"""The summary of abilities that a version keeps from its job's report."""

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
    """Return the abilities in the job's report; None if the report has none or cannot be parsed.

    Raises `ArtifactNotFoundError` and `ArtifactCorruptError` for a lost report, because that is not
    the same as a report without abilities.
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
    """Return how many abilities the base has, how many are kept, and the lost ones, worst first.

    Returns None if none were measured.
    """
    if not abilities:
        return None
    able = sorted((one for one in abilities if one.is_gated), key=lambda one: one.place)
    lost = [_make_storable(one) for one in able if not one.within]
    return AbilitiesView(able=len(able), within=len(able) - len(lost), lost=lost)


def _make_storable(ability: AbilityChange) -> AbilityFigures:
    """Return the ability's figures, with text in a form that PostgreSQL can store."""
    figures = ability.model_dump(include=set(AbilityFigures.model_fields))
    words = {"name": clean_message(ability.name), "sentence": clean_message(ability.sentence)}
    return AbilityFigures(**figures | words)

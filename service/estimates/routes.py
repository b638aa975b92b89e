"""`/v1/estimates`."""

from __future__ import annotations

from fastapi import APIRouter

from excise.resources.estimates import EstimateRequest, EstimateView
from service.context import Context
from service.estimates.operations import estimate_request
from service.keys.authentication import Submitter
from service.strict_bodies import StrictJsonRoute

router = APIRouter(prefix="/v1/estimates", tags=["jobs"], route_class=StrictJsonRoute)


@router.post("")
def estimate_job(request: EstimateRequest, context: Context, submitter: Submitter) -> EstimateView:
    """Estimate what a correction needs before it is submitted: memory, disk, minutes.

    There is one estimate for every kind of machine among the live workers, or one for the described
    machine.
    """
    with context.database.transaction() as session:
        return estimate_request(session, submitter.tenant_id, request, context.settings)

"""Check that a job fits on the worker that leased it: record the estimate, or refuse the job."""

from __future__ import annotations

from excise.estimates.estimate import JobEstimate, estimate
from excise.estimates.machine import Machine
from excise.names import MachineSource
from excise.specs import CorrectionSpec
from service.estimates.operations import build_question, find_shape, refuse_unless_it_fits
from service.estimates.repository import find_machine_of_job
from workers.models.machine import measure_machine
from workers.running.context import JobContext
from workers.running.loading import JobInputs
from workers.running.machine_report import describe_room


def check_fit(context: JobContext) -> None:
    """Record in the job's row what the job needs on this worker.

    A checkpoint from a hub is downloaded first, because its size must be known. Does nothing for
    circuits, for compressions, and for models whose size is not known. Raises `DoesNotFitError`
    unless the spec insists on running, and whatever reading the checkpoint raises.
    """
    spec = context.spec
    if not isinstance(spec, CorrectionSpec):
        return
    shape = find_shape(JobInputs(context, spec).checkpoint_path)
    if shape is None:
        return
    question = context.transact(
        lambda session: build_question(session, context.tenant_id, spec, shape)
    )
    found = JobEstimate.of(estimate(question, _find_machine(context)), MachineSource.WORKER, 1)
    context.file_estimate(found)
    refuse_unless_it_fits(spec, found)


def _find_machine(context: JobContext) -> Machine:
    """Return the worker's measurement of its machine; measure now if there is none yet."""
    known = context.transact(lambda session: find_machine_of_job(session, context.job_id))
    settings = context.settings
    return describe_room(known or measure_machine(settings.device), settings)

"""Whether a job fits on the worker that has it: written into the job, and refused where not."""

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
    """Write into the job what it takes on this worker.

    A hub's checkpoint is fetched first, for its size. Nothing happens to circuits, compressions and
    models whose size is not told. Raises `DoesNotFitError` unless the spec insists, and as whoever
    reads the checkpoint does.
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
    """Return what the worker has measured; measured now where it has not yet."""
    known = context.transact(lambda session: find_machine_of_job(session, context.job_id))
    settings = context.settings
    return describe_room(known or measure_machine(settings.device), settings)

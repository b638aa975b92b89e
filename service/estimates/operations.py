"""The rules of estimates: for which machines they are made, and when they refuse a job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from sqlalchemy.orm import Session

from excise.estimates.estimate import JobEstimate, Question, estimate, explain_refusal
from excise.estimates.machine import USUAL_MACHINE, Machine, choose_dtype
from excise.estimates.prompts import JobSets
from excise.estimates.shape import ModelShape, ShapeError
from excise.intake.model_sources import load_config
from excise.names import ComputeDtype, MachineSource
from excise.resources.estimates import EstimateRequest, EstimateView
from excise.specs import CorrectionSpec, JobSpec
from excise.specs.common import JobSpecBase
from service.errors import DoesNotFitError, InvalidRequestError
from service.estimates import repository
from service.jobs.model_checks import check_model
from service.jobs.prompt_set_checks import build_missing_error, check_prompt_sets
from service.settings import Settings

_Spec = TypeVar("_Spec", bound=JobSpecBase)

NOBODY_SAID = (
    "No worker has reported its machine, so this is for a usual one: two cores and 24 GiB. Start a "
    "worker, or describe a machine in the field machine."
)


@dataclass(frozen=True)
class CountedMachine:
    """A machine, and the number of live workers with one of the same kind."""

    machine: Machine
    source: MachineSource
    workers: int = 0


def estimate_request(
    session: Session, tenant_id: str, request: EstimateRequest, settings: Settings
) -> EstimateView:
    """Return what a correction needs on the described machine, or on every live worker's.

    Nothing is stored. Raises `InvalidRequestError` for a spec that would not be accepted as a job,
    and for a model whose size is not known here.
    """
    spec = request.spec
    with _within("spec"):
        folder = check_model(spec, settings).path
        check_prompt_sets(session, tenant_id, spec, settings)
        question = build_question(session, tenant_id, spec, _require_shape(folder))
    if request.machine is None:
        machines = list_machines(session, settings)
    else:
        machines = [CountedMachine(request.machine, MachineSource.REQUEST)]
    found = _estimate_all(question, machines)
    is_usual = found[0].source is MachineSource.USUAL
    return EstimateView(
        model=spec.model,
        fits=all(own.fits for own in found),
        note=NOBODY_SAID if is_usual else None,
        data=found,
    )


def estimate_submission(
    session: Session, tenant_id: str, spec: JobSpec, folder: Path | None, settings: Settings
) -> JobEstimate | None:
    """Return what a job needs on the tightest worker; None if that cannot be estimated yet.

    `folder` is the checkpoint's, if it is on this machine. Any worker may take the job, so it must
    fit on each live one. Raises `DoesNotFitError`, unless the spec insists or no worker is known.
    """
    shape = None if folder is None else find_shape(folder)
    if not isinstance(spec, CorrectionSpec) or shape is None:
        return None
    question = build_question(session, tenant_id, spec, shape)
    tightest = _estimate_all(question, list_machines(session, settings))[0]
    if tightest.source is MachineSource.WORKER:
        refuse_unless_it_fits(spec, tightest)
    return tightest


def choose_spec_dtype(session: Session, spec: _Spec, settings: Settings) -> _Spec:
    """Return the spec with a dtype that suits every live worker in place of `auto`."""
    if spec.dtype is not ComputeDtype.AUTO:
        return spec
    machines = [own.machine for own in list_machines(session, settings)]
    return spec.model_copy(update={"dtype": choose_dtype(spec.dtype, machines)})


def refuse_unless_it_fits(spec: CorrectionSpec, found: JobEstimate) -> None:
    """Raise `DoesNotFitError` if the job does not fit, unless its spec insists."""
    if not (found.fits or spec.insist):
        raise DoesNotFitError(explain_refusal(found))


def build_question(
    session: Session, tenant_id: str, spec: CorrectionSpec, shape: ModelShape
) -> Question:
    """Return the question to estimate.

    Raises `InvalidRequestError` if a prompt set is not, or no longer, the tenant's.
    """
    corpus = None if spec.perplexity is None else spec.perplexity.prompts
    fields = {f"behaviours[{n}].prompts": own.prompts for n, own in enumerate(spec.behaviours)}
    fields["reference"] = spec.reference
    if corpus is not None:
        fields["perplexity.prompts"] = corpus
    sizes = repository.find_set_sizes(session, tenant_id, set(fields.values()))
    for field, own in fields.items():
        if own not in sizes:
            raise build_missing_error(field)
    sets = JobSets(
        [sizes[behaviour.prompts] for behaviour in spec.behaviours],
        sizes[spec.reference],
        None if corpus is None else sizes[corpus],
    )
    return Question(spec, shape, sets)


def find_shape(folder: Path) -> ModelShape | None:
    """Return the shape of the checkpoint in a folder; None if its config.json does not state it.

    Raises `ModelSourceError` if it cannot be read.
    """
    try:
        return ModelShape.of(load_config(folder / "config.json"))
    except ShapeError:
        return None


def list_machines(session: Session, settings: Settings) -> list[CountedMachine]:
    """Return the live workers' machines, one of each kind; a usual one if none is known."""
    known = repository.list_live_machines(session, settings.worker_silent_seconds)
    alike = groupby(sorted(known, key=_kind), key=_kind)
    found = [_count(list(machines)) for _, machines in alike]
    return found or [CountedMachine(USUAL_MACHINE, MachineSource.USUAL)]


def _kind(machine: Machine) -> tuple[str, int, int]:
    """Return what machines of one kind share; their measured speeds differ slightly."""
    return machine.device, machine.device_bytes, machine.host_bytes


def _count(alike: Sequence[Machine]) -> CountedMachine:
    """Return the slowest of these machines, which represents all, and their number."""
    slowest = min(alike, key=lambda own: own.flops)
    return CountedMachine(slowest, MachineSource.WORKER, len(alike))


def _estimate_all(question: Question, machines: Sequence[CountedMachine]) -> list[JobEstimate]:
    """Return an estimate per machine: those on which the job does not fit first, slowest first."""
    found = [
        JobEstimate.of(estimate(question, own.machine), own.source, own.workers) for own in machines
    ]
    return sorted(found, key=lambda own: (own.fits, -own.minutes))


def _require_shape(folder: Path | None) -> ModelShape:
    """Return the model's shape. Raises `InvalidRequestError` if it is not known here."""
    if folder is None:
        raise InvalidRequestError(
            "model is on the hub, so its size is unknown until a worker has fetched it. "
            "Submit the job: the worker estimates it, and refuses it if it does not fit.",
            param="model",
        )
    shape = find_shape(folder)
    if shape is None:
        raise InvalidRequestError(
            "model has a config.json that does not say how large it is. Save the checkpoint again.",
            param="model",
        )
    return shape


@contextmanager
def _within(field: str) -> Iterator[None]:
    """Return a context in which errors name their fields as parts of a field of the body."""
    try:
        yield
    except InvalidRequestError as error:
        raise InvalidRequestError(error.message, param=f"{field}.{error.param}") from error

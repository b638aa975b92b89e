"""Names of jobs: kinds, stages, statuses, verdicts, files, and what is around them."""

from __future__ import annotations

from excise.names.name import Name


class JobKind(Name):
    """What a job is asked to do."""

    CORRECTION = "correction"
    """Prune what is behind a misbehaviour."""
    CIRCUIT = "circuit"
    """Find the components that carry a task."""
    COMPRESSION = "compression"
    """Set a share of all weights to zero."""


class Stage(Name):
    """One step of a job; its result is stored before the next one begins."""

    PREPARE = "prepare"
    """Read the inputs, and measure the model as it is."""
    ATTRIBUTE = "attribute"
    """Compute relevance for a correction."""
    SEARCH = "search"
    """Find the selection to prune, on the tuning prompts."""
    DISCOVER = "discover"
    """Find a circuit of every size."""
    COMPRESS = "compress"
    """Score weights and set those of smallest score to zero."""
    VALIDATE = "validate"
    """Measure on held-out data, and judge."""
    PACKAGE = "package"
    """Write the patch, the report and the manifest."""


class JobStatus(Name):
    """Where a job is on its way."""

    QUEUED = "queued"
    """Waiting for a worker, for the first time or again."""
    RUNNING = "running"
    """Held by a worker through a lease."""
    SUCCEEDED = "succeeded"
    """Ended with the verdict `passed`."""
    REJECTED = "rejected"
    """Ended with the verdict `rejected` or `no_effect`."""
    FAILED = "failed"
    """Could not be carried out; the error says why."""
    CANCELLED = "cancelled"
    """Stopped because someone asked for it."""

    @property
    def is_open(self) -> bool:
        """Whether work on the job may still happen."""
        return self in OPEN_STATUSES


OPEN_STATUSES = (JobStatus.QUEUED, JobStatus.RUNNING)
"""Statuses of jobs that have not ended."""


class StageStatus(Name):
    """Where one stage of a job is on its way."""

    PENDING = "pending"
    """Not begun."""
    RUNNING = "running"
    """Being worked on."""
    SUCCEEDED = "succeeded"
    """Its result is stored."""
    SKIPPED = "skipped"
    """Not needed, because an earlier stage settled the verdict."""
    FAILED = "failed"
    """It could not be carried out."""


class Verdict(Name):
    """How a job's result was judged."""

    PASSED = "passed"
    """Every gate was measured and met on held-out data."""
    REJECTED = "rejected"
    """There is a result, but at least one gate was not met."""
    NO_EFFECT = "no_effect"
    """There was nothing to correct, or nothing within budget corrected it."""


class JobFile(Name):
    """Files that a job leaves to its owner."""

    REPORT = "report.json"
    """What was measured and the verdict, for programs."""
    REPORT_MARKDOWN = "report.md"
    """The same as GitHub-flavoured Markdown."""
    REPORT_HTML = "report.html"
    """The same as one page that loads nothing."""
    PATCH = "patch.safetensors"
    """What turns the base checkpoint into the result, and back."""
    MANIFEST = "manifest.json"
    """What another run needs to make the same files, and their hashes."""


class ReportFormat(Name):
    """Formats that a job's report can be asked for in."""

    JSON = "json"
    """`JobFile.REPORT`."""
    MARKDOWN = "md"
    """`JobFile.REPORT_MARKDOWN`."""
    HTML = "html"
    """`JobFile.REPORT_HTML`."""


class PromptSetFormat(Name):
    """What the lines of a prompt set are."""

    TEXT = "text"
    """One prompt a line."""
    JSONL = "jsonl"
    """One JSON object with a prompt or with chat messages a line."""
    ROWS = "rows"
    """One JSON object a line: a row of a circuit's or a zero-shot task."""


class KeyScope(Name):
    """What an API key may do."""

    SUBMIT = "submit"
    """Upload prompt sets, and submit, watch and cancel jobs."""
    PUBLISH = "publish"
    """Publish corrections and move aliases."""
    INFER = "infer"
    """Call served models."""
    ADMIN = "admin"
    """Manage keys, and everything else."""


class ComputeDtype(Name):
    """What a model is held and computed in."""

    FLOAT32 = "float32"
    """The default."""
    BFLOAT16 = "bfloat16"
    """Half the memory; figures differ a little from float32's."""


class MachineSource(Name):
    """Who described the machine that an estimate is for."""

    WORKER = "worker"
    """A worker that is alive, or the one that has the job."""
    REQUEST = "request"
    """Whoever asked."""
    USUAL = "usual"
    """Nobody: no worker has said what it is, so it is a usual one."""

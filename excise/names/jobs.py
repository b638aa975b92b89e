"""Names of jobs: kinds, stages, statuses, verdicts, files, prompt sets and API keys."""

from __future__ import annotations

from excise.names.name import Name


class JobKind(Name):
    """What a job does."""

    CORRECTION = "correction"
    """Prune the components behind a misbehaviour."""
    CIRCUIT = "circuit"
    """Find the components that carry a task."""
    COMPRESSION = "compression"
    """Set a share of all weights to zero."""


class Stage(Name):
    """One step of a job; its result is stored before the next step begins."""

    PREPARE = "prepare"
    """Read the inputs, and measure the model as it is."""
    ATTRIBUTE = "attribute"
    """Compute relevance for a correction."""
    SEARCH = "search"
    """Find the selection to prune, on the tuning prompts."""
    DISCOVER = "discover"
    """Find circuits of every size."""
    COMPRESS = "compress"
    """Score weights and set those with the smallest scores to zero."""
    VALIDATE = "validate"
    """Measure on held-out data, and judge."""
    PACKAGE = "package"
    """Write the patch, the report and the manifest."""


class JobStatus(Name):
    """The state of a job."""

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
    """The state of one stage of a job."""

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
    """There was nothing to correct, or no selection within budget corrected it."""


class JobFile(Name):
    """Files that a job produces for its owner."""

    REPORT = "report.json"
    """The measurements and the verdict, for programs."""
    REPORT_MARKDOWN = "report.md"
    """The same as GitHub-flavoured Markdown."""
    REPORT_HTML = "report.html"
    """The same as one HTML page without external resources."""
    PATCH = "patch.safetensors"
    """The file that turns the base checkpoint into the result, and back."""
    MANIFEST = "manifest.json"
    """Everything another run needs to produce the same files, and their hashes."""


class ReportFormat(Name):
    """Formats of a job's report."""

    JSON = "json"
    """`JobFile.REPORT`."""
    MARKDOWN = "md"
    """`JobFile.REPORT_MARKDOWN`."""
    HTML = "html"
    """`JobFile.REPORT_HTML`."""


class PromptSetFormat(Name):
    """The format of the lines of a prompt set."""

    TEXT = "text"
    """One prompt per line."""
    JSONL = "jsonl"
    """One JSON object per line, with a prompt or with chat messages."""
    ROWS = "rows"
    """One JSON object per line: a row of a circuit's task or of a zero-shot task."""


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
    """Number format of a model's weights and activations."""

    FLOAT32 = "float32"
    """The default."""
    BFLOAT16 = "bfloat16"
    """Half the memory; figures differ a little from float32's."""
    AUTO = "auto"
    """bfloat16 where it is at least twice as fast on every live worker, otherwise float32. It is
    decided when the job is submitted, and the job then names the one it was."""


class MachineSource(Name):
    """Who described the machine that an estimate is for."""

    WORKER = "worker"
    """A worker that is alive, or the one that has the job."""
    REQUEST = "request"
    """Whoever asked."""
    USUAL = "usual"
    """Nobody: no worker has said what it is, so it is a usual one."""

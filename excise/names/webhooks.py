"""Names of webhooks: the events they receive, and the status of deliveries."""

from __future__ import annotations

from excise.names.name import Name


class WebhookEvent(Name):
    """Events that a webhook can receive."""

    JOB_QUEUED = "job.queued"
    """A job was submitted."""
    JOB_STARTED = "job.started"
    """A worker took it."""
    JOB_SUCCEEDED = "job.succeeded"
    """It ended with the verdict `passed`."""
    JOB_REJECTED = "job.rejected"
    """It ended with the verdict `rejected` or `no_effect`."""
    JOB_FAILED = "job.failed"
    """It ended without a verdict."""
    JOB_CANCELLED = "job.cancelled"
    """Someone cancelled it."""
    VERSION_PUBLISHED = "version.published"
    """A correction was published; it is not on a server yet."""
    VERSION_BUILT = "version.built"
    """Its files are stored."""
    VERSION_LIVE = "version.live"
    """Its canary passed: it answers requests."""
    VERSION_UNAVAILABLE = "version.unavailable"
    """It was live, and gets no requests until its canary passes again."""
    VERSION_FAILED = "version.failed"
    """It never went live and never will."""
    VERSION_RETIRED = "version.retired"
    """It was taken off its server."""
    ALIAS_PROMOTED = "alias.promoted"
    """An alias points at another version."""
    ALIAS_ROLLED_BACK = "alias.rolled_back"
    """An alias's latest change was undone."""
    ALIAS_SPLIT = "alias.split"
    """Part of an alias's requests goes to a second version, or no longer does."""
    WEBHOOK_DISABLED = "webhook.disabled"
    """Another webhook of the tenant failed for too long and was disabled."""
    WEBHOOK_PING = "webhook.ping"
    """Someone asked for a test message to this webhook."""


class WebhookStatus(Name):
    """Whether a webhook receives events."""

    ENABLED = "enabled"
    """It does."""
    DISABLED = "disabled"
    """It does not: someone disabled it, or it failed for too long."""


class DeliveryStatus(Name):
    """The state of one message to one webhook."""

    PENDING = "pending"
    """It waits for its first or next attempt."""
    DELIVERED = "delivered"
    """The receiver answered with a status of 200 to 299."""
    FAILED = "failed"
    """Every attempt failed, or the webhook was disabled before."""

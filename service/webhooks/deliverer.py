"""The deliverer: sends pending messages to webhooks, one at a time to each, and logs deliveries."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import SecretStr
from sqlalchemy.orm import Session

from excise.names import DeliveryStatus, WebhookStatus
from service.database import Database, fetch_now
from service.models import Webhook, WebhookDelivery
from service.settings import Settings
from service.tenants import repository as tenant_repository
from service.webhooks import repository
from service.webhooks.messages import tell_of_disabling
from service.webhooks.operations import disable, list_signers
from service.webhooks.retries import TRIES, find_pause, is_given_up
from service.webhooks.sending import DEADLINE_SECONDS, GONE, SLOTS, Outcome, send
from service.webhooks.signing import build_headers

logger = logging.getLogger(__name__)

TENANT_SLOTS = 4
"""Largest number of one tenant's concurrent posts per process; look-ups of names that a post has
left behind count until they end. Chosen by hand."""

CLAIM_SECONDS = 4 * DEADLINE_SECONDS
"""A webhook counts as busy for this long; after that, its process has died and another may send."""

KEPT_DAYS = 30
"""How long deliveries are kept in the log after their end. Chosen by hand."""

KEPT_ATTEMPTS = 5 * TRIES
"""How many attempts the log of a delivery shows, the latest ones: a message may be sent again as
often as its owner likes. Chosen by hand."""

_TIDY_SECONDS = 3600.0
_MAX_PAUSE_SECONDS = 10.0  # between two rounds that failed
_DATABASE_THREADS = 4

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class _Post:
    """One attempt that is to be made."""

    tenant_id: str
    webhook_id: str
    delivery_id: str
    event_id: str
    url: str
    body: bytes
    sent_at: int
    """Seconds since 1970 by the database, whose clock is the same for all processes."""
    signers: tuple[SecretStr, ...]


class Deliverer:
    """Posts due messages from its own thread; any number of processes may run one.

    A message may arrive twice if a process dies between posting and recording; receivers recognise
    it by its id. Outages of the database are logged; the deliverer waits until they end.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name="excise-webhooks", daemon=True
        )
        self._tidied_at = 0.0
        self._busy: Counter[str] = Counter()
        self._lock = threading.Lock()  # guards `_busy`
        # separate pools: recording a result must not wait for a slow look-up of another name
        self._lookups = ThreadPoolExecutor(SLOTS, "webhook-names")
        self._database_threads = ThreadPoolExecutor(_DATABASE_THREADS, "webhook-database")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 15.0) -> None:
        """End the thread, waiting up to `timeout_seconds` for posts in progress."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def deliver_once(self) -> int:
        """Send a due message to webhooks that have one, at most `TENANT_SLOTS` a tenant.

        Returns how many.
        """
        return asyncio.run(self._deliver_batch(self._claim(self._copy_busy())))

    def tidy_once(self) -> None:
        """Delete deliveries that ended more than `KEPT_DAYS` ago."""
        with self._database.transaction() as session:
            repository.delete_ended(session, KEPT_DAYS)

    async def _run(self) -> None:
        """Claim and send messages, with at most `SLOTS` at a time."""
        running: set[asyncio.Task[int]] = set()
        failures = 0
        while not self._stopping.is_set():
            try:
                await self._use_database(self._tidy_now_and_then)
                posts = await self._use_database(partial(self._claim, self._copy_busy()))
                running |= {asyncio.create_task(self._deliver_batch([post])) for post in posts}
                failures = 0
            except Exception as error:
                failures += 1
                posts = []
                if failures == 1:
                    logger.exception("webhooks: the deliverer failed")
                else:
                    logger.warning("webhooks: still fails: %s", type(error).__name__)
            running = await self._wait(running, is_idle=not posts, failures=failures)
        if running:
            await asyncio.wait(running, timeout=DEADLINE_SECONDS)
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def _use_database(self, work: Callable[[], _Value]) -> _Value:
        return await asyncio.get_running_loop().run_in_executor(self._database_threads, work)

    def _copy_busy(self) -> dict[str, int]:
        """Return how many slots each tenant has taken."""
        with self._lock:
            return dict(self._busy)

    def _free(self, tenant_id: str) -> None:
        """Give a slot back; called from any thread."""
        with self._lock:
            self._busy[tenant_id] -= 1
            self._busy += Counter()  # drops tenants without a slot

    async def _wait(
        self, running: set[asyncio.Task[int]], *, is_idle: bool, failures: int
    ) -> set[asyncio.Task[int]]:
        """Pause if there is nothing to do, or no free slot; return the posts still under way."""
        pause = self._settings.webhook_seconds
        pause = min(pause * 2.0 ** min(failures, 10), max(pause, _MAX_PAUSE_SECONDS))
        if is_idle or len(running) >= SLOTS:
            if running:
                await asyncio.wait(running, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(pause)
        for task in {task for task in running if task.done()}:
            running.discard(task)
            if (error := task.exception()) is not None:
                logger.warning("webhooks: an attempt was lost: %s", type(error).__name__)
        return running

    def _tidy_now_and_then(self) -> None:
        if time.monotonic() - self._tidied_at > _TIDY_SECONDS:
            self.tidy_once()
            self._tidied_at = time.monotonic()

    def _claim(self, busy: Mapping[str, int]) -> list[_Post]:
        """Mark webhooks with a due message as busy, and return what is to be sent to them.

        `busy` are the slots that tenants have taken; each post returned takes one more.
        """
        limit = SLOTS - sum(busy.values())
        if limit <= 0:
            return []
        with self._database.transaction() as session:
            webhooks = repository.claim_webhooks(session, limit, CLAIM_SECONDS, busy, TENANT_SLOTS)
            found = [(webhook, repository.find_due(session, webhook.id)) for webhook in webhooks]
            now = fetch_now(session)
            posts = [
                _Post(
                    tenant_id=webhook.tenant_id,
                    webhook_id=webhook.id,
                    delivery_id=delivery.id,
                    event_id=delivery.event_id,
                    url=webhook.url,
                    body=delivery.body.encode(),
                    sent_at=int(now.timestamp()),
                    signers=tuple(list_signers(webhook, now)),
                )
                for webhook, delivery in found
                if delivery is not None
            ]
        with self._lock:
            self._busy.update(post.tenant_id for post in posts)
        return posts

    async def _deliver_batch(self, posts: list[_Post]) -> int:
        await asyncio.gather(*map(self._deliver, posts))
        return len(posts)

    async def _deliver(self, post: _Post) -> None:
        """Make one attempt, record its result, and free its slot once no thread is left behind."""
        lookups: list[Future[Any]] = []

        def submit(*work: Any) -> Future[Any]:
            lookups.append(self._lookups.submit(*work))
            return lookups[-1]

        try:
            headers = build_headers(post.event_id, post.sent_at, post.body, post.signers)
            hosts = self._settings.webhook_hosts
            outcome = await send(post.url, headers, post.body, hosts, submit=submit)
            await self._use_database(partial(self._record, post, outcome))
        finally:
            if lookups:
                lookups[0].add_done_callback(lambda _: self._free(post.tenant_id))
            else:
                self._free(post.tenant_id)

    def _record(self, post: _Post, outcome: Outcome) -> None:
        with self._database.transaction() as session:
            tenant_repository.keep(session, post.tenant_id)  # others' webhooks may be locked, too
            webhook = repository.lock_webhook(session, post.webhook_id)
            if webhook is None:  # it was deleted meanwhile
                return
            webhook.busy_until = fetch_now(session)  # moves it to the end of the order of claims
            delivery = repository.find_delivery(session, webhook.id, post.delivery_id, lock=True)
            if delivery is not None and delivery.status == DeliveryStatus.PENDING:
                self._note(
                    session, webhook, delivery, outcome, is_elsewhere=webhook.url != post.url
                )

    def _note(
        self,
        session: Session,
        webhook: Webhook,
        delivery: WebhookDelivery,
        outcome: Outcome,
        *,
        is_elsewhere: bool,
    ) -> None:
        """Add the attempt to the log; decide whether and when there is another one.

        With `is_elsewhere`, it went to an address that the webhook no longer has, so it says
        nothing about the new one.
        """
        now = fetch_now(session)
        attempt = {
            "at": now.isoformat(),
            "status_code": outcome.status_code,
            "error": outcome.error,
            "milliseconds": outcome.milliseconds,
        }
        delivery.attempts = [*delivery.attempts, attempt][-KEPT_ATTEMPTS:]
        delivery.tries_left -= 1
        if not is_elsewhere:
            webhook.failing_since = None if outcome.is_delivered else webhook.failing_since or now
        if outcome.is_delivered:
            delivery.status, delivery.next_attempt_at = DeliveryStatus.DELIVERED, None
            delivery.ended_at = now
            return
        if delivery.tries_left <= 0:
            delivery.status, delivery.next_attempt_at = DeliveryStatus.FAILED, None
            delivery.ended_at = now
        else:
            pauses = self._settings.webhook_retry_seconds
            draw = random.random()  # noqa: S311 - no secret
            delivery.next_attempt_at = now + find_pause(TRIES - delivery.tries_left, draw, pauses)
        if not is_elsewhere:
            self._give_up_if_hopeless(session, webhook, outcome)

    def _give_up_if_hopeless(self, session: Session, webhook: Webhook, outcome: Outcome) -> None:
        """Disable a webhook whose receiver is gone, or has failed for too long."""
        reason = None
        if outcome.status_code == GONE:
            reason = f"The receiver answered {GONE}: it no longer wants messages."
        elif webhook.failing_since is not None and is_given_up(
            webhook.failing_since, fetch_now(session), self._settings.webhook_give_up_seconds
        ):
            since = webhook.failing_since.isoformat(timespec="seconds")
            reason = f"Every attempt since {since} failed; the last one: {outcome.error}."
        if reason is not None and webhook.status == WebhookStatus.ENABLED:
            disable(session, webhook, reason)
            tell_of_disabling(session, webhook)
            logger.warning("webhook %s was disabled: %s", webhook.id, reason)

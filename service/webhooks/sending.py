"""One post to a checked address, with a deadline and without redirects; the answer is not read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from excise.outgoing.endpoints import (
    Destination,
    Endpoint,
    OutgoingError,
    parse_endpoint,
    resolve_endpoint,
)

DEADLINE_SECONDS = 15.0
"""Deadline from the look-up of the name to the answer's status; Standard Webhooks proposes 15 to
30 seconds."""

LOOKUP_SECONDS = 5.0
"""Deadline for looking up a name; after it, the attempt has failed. Chosen by hand."""

SLOTS = 32
"""Largest number of concurrent posts per process. Chosen by hand."""

GONE = 410
"""Status by which a receiver says that it wants no more messages."""


Submit = Callable[..., Future[Destination]]
"""An executor's `submit`; not that of the event loop's own executor, whose threads others need."""

_THREADS = ThreadPoolExecutor(SLOTS, "webhook-names")


@dataclass(frozen=True)
class Outcome:
    """The result of one attempt."""

    status_code: int | None
    error: str | None
    """Why it failed; None if it succeeded. Never contains what was sent or received."""
    milliseconds: int

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver accepted it."""
        return self.error is None


async def send(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    allowed_hosts: Collection[str] = (),
    deadline_seconds: float = DEADLINE_SECONDS,
    submit: Submit = _THREADS.submit,
) -> Outcome:
    """Post `body` and return the outcome; raises nothing.

    The name is looked up once, and the connection goes to the checked address without any proxy.
    The look-up runs in a thread of `submit`, which is left behind if it is too slow.
    """
    started = time.monotonic()
    status, error = None, None
    try:
        async with asyncio.timeout(deadline_seconds):
            endpoint = parse_endpoint(url)
            destination = await _look_up(endpoint, allowed_hosts, submit)
            status = await _post(destination, headers, body)
            error = _explain(status)
    except TimeoutError:
        error = f"no answer within {deadline_seconds:g} s"
    except OutgoingError as refused:
        error = str(refused)
    except httpx.HTTPError as failure:
        error = f"the connection failed: {type(failure).__name__}"
    return Outcome(status, error, round(1000 * (time.monotonic() - started)))


async def _look_up(
    endpoint: Endpoint, allowed_hosts: Collection[str], submit: Submit
) -> Destination:
    """Return where to connect. Raises `OutgoingError`, also after `LOOKUP_SECONDS`."""
    looking = submit(resolve_endpoint, endpoint, allowed_hosts)
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            return await asyncio.wrap_future(looking)
    except TimeoutError:
        raise OutgoingError(
            f"the name {endpoint.host} was not looked up within {LOOKUP_SECONDS:g} s. Check its "
            "name server."
        ) from None


async def _post(destination: Destination, headers: Mapping[str, str], body: bytes) -> int:
    """Return the status of the answer, whose body is left unread."""
    sent = {
        "Host": destination.endpoint.authority,
        "Content-Type": "application/json",
        "User-Agent": "Excise-Webhooks",
        **headers,
    }
    async with (
        httpx.AsyncClient(
            timeout=DEADLINE_SECONDS, follow_redirects=False, trust_env=False
        ) as client,
        client.stream(
            "POST",
            destination.url,
            content=body,
            headers=sent,
            extensions={"sni_hostname": destination.endpoint.host},  # the certificate's name
        ) as response,
    ):
        return response.status_code


def _explain(status: int) -> str | None:
    """Return why a status does not count as delivered; None if it does."""
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"the receiver answered {status}, a redirect; name the final address"
    return f"the receiver answered {status}"

"""One post to a checked address, with a deadline and without redirects; the answer is not read."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import httpx

from excise.outgoing.endpoints import Destination, OutgoingError, parse_endpoint, resolve_endpoint

DEADLINE_SECONDS = 15.0
"""Deadline from the look-up of the name to the answer's status; Standard Webhooks proposes 15 to
30 seconds."""

GONE = 410
"""Status by which a receiver says that it wants no more messages."""


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
    trust: ssl.SSLContext | None = None,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> Outcome:
    """Post `body` and return the outcome; raises nothing.

    The name is looked up once, and the connection goes to the checked address without any proxy.
    Certificates are verified against `trust`, by default httpx's authorities.
    """
    started = time.monotonic()
    status, error = None, None
    try:
        async with asyncio.timeout(deadline_seconds):
            endpoint = parse_endpoint(url)
            destination = await asyncio.to_thread(resolve_endpoint, endpoint, allowed_hosts)
            status = await _post(destination, headers, body, trust)
            error = _explain(status)
    except TimeoutError:
        error = f"no answer within {deadline_seconds:g} s"
    except OutgoingError as refused:
        error = str(refused)
    except httpx.HTTPError as failure:
        error = f"the connection failed: {type(failure).__name__}"
    return Outcome(status, error, round(1000 * (time.monotonic() - started)))


async def _post(
    destination: Destination,
    headers: Mapping[str, str],
    body: bytes,
    trust: ssl.SSLContext | None,
) -> int:
    """Return the status of the answer, whose body is left unread."""
    sent = {
        "Host": destination.endpoint.authority,
        "Content-Type": "application/json",
        "User-Agent": "Excise-Webhooks",
        **headers,
    }
    async with (
        httpx.AsyncClient(
            timeout=DEADLINE_SECONDS, follow_redirects=False, trust_env=False, verify=trust or True
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

"""One post to an address that was checked: bounded in time, never redirected, its answer unread."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import httpx

from excise.outgoing.endpoints import Destination, OutgoingError, parse_endpoint, resolve_endpoint

DEADLINE_SECONDS = 15.0
"""From looking the name up to the answer's status; Standard Webhooks proposes 15 to 30."""
GONE = 410
"""By this status a receiver says that it wants nothing any more."""


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt."""

    status_code: int | None
    error: str | None
    """Why it does not count; None where it does. Never holds what was sent or answered."""
    milliseconds: int

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver took it."""
        return self.error is None


async def send(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    allowed_hosts: Collection[str] = (),
    trust: ssl.SSLContext | None = None,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> Outcome:
    """Post `body` and return what came of it; nothing is raised.

    The name is looked up once and the address that was checked is connected to, past any proxy.
    Certificates are checked against `trust`, or the authorities that httpx knows.
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
    """Why a status does not count as delivered; None where it does."""
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"the receiver answered {status}, a redirect; name the final address"
    return f"the receiver answered {status}"
